"""The ROS 2 package: nodes, launch files and their parameters."""

from setuptools import find_packages, setup

package_name = "mbrl_control_ros"

setup(
    name=package_name,
    version="0.1.0",
    description="ROS 2 nodes of mbrl_control",
    author="mbrl_control developers",
    maintainer="mbrl_control developers",
    maintainer_email="maintainers@mbrl-control.org",
    license="Apache-2.0",
    packages=find_packages(exclude=["test"]),
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/" + package_name]),
        ("share/" + package_name, ["package.xml"]),
        ("share/" + package_name + "/launch", ["launch/robot.launch.py", "launch/sim.launch.py"]),
        ("share/" + package_name + "/config", ["config/params.yaml"]),
        ("share/" + package_name + "/config/security", ["config/security/policy.xml"]),
    ],
    python_requires=">=3.11",
    install_requires=["setuptools"],
    entry_points={
        "console_scripts": [
            "controller_node = mbrl_control_ros.controller_node:main",
            "trainer_node = mbrl_control_ros.trainer_node:main",
            "recorder_node = mbrl_control_ros.recorder_node:main",
            "recorder_standby = mbrl_control_ros.recorder_standby:main",
            "sim_node = mbrl_control_ros.sim_node:main",
            "inject_node = mbrl_control_ros.inject_node:main",
        ]
    },
    zip_safe=False,
)
