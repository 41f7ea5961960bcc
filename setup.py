"""Packages of the product: the library, the simulator side, the calibration side."""

from setuptools import find_packages, setup

package_name = "mbrl_control"

setup(
    name=package_name,
    version="0.1.0",
    description="Model-predictive control of ROS 2 robots on a model learned while the robot runs",
    author="mbrl_control developers",
    maintainer="mbrl_control developers",
    maintainer_email="maintainers@mbrl-control.org",
    license="Apache-2.0",
    packages=[*find_packages(include=["mbrl_control", "mbrl_control.*"]), *find_packages("sim"), *find_packages("calibration")],
    package_dir={"mbrl_control": "mbrl_control", "mbrl_sim": "sim/mbrl_sim", "mbrl_calibration": "calibration/mbrl_calibration"},
    package_data={"mbrl_control": ["robots/*.yaml", "models/kernel/*", "planning/*.cpp", "stack/*.xml"], "mbrl_sim": ["assets/*.xml"],
                  "mbrl_calibration": ["*.j2"]},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/" + package_name]),
        ("share/" + package_name, ["package.xml"]),
    ],
    python_requires=">=3.11",
    install_requires=[
        "numpy>=1.26,<3",
        "torch>=2.6,<2.14",
        "mujoco>=3.3,<4",
        "casadi>=3.6,<4",
        "pydantic>=2.7,<3",
        "pyyaml>=6,<7",
        "safetensors>=0.4,<1",
        "rosbags>=0.11,<1",
        "mcap>=1.6,<2",
        "zstandard>=0.20",
        "lz4>=4",
        "typer>=0.12,<1",
        "rich>=13",
        "matplotlib>=3.8,<4",
        "scipy>=1.11,<2",
        "jinja2>=3.1,<4",
    ],
    extras_require={
        "ros": ["ros-rclpy[fastrtps]", "ros-sensor-msgs", "ros-std-msgs", "ros-trajectory-msgs", "ros-diagnostic-msgs",
                "ros-std-srvs", "ros-geometry-msgs", "ros-nav-msgs", "ros-lifecycle-msgs", "ros-rosgraph-msgs"],
        "agents": ["gymnasium[mujoco]>=1.0,<2", "dm_control>=1.0.28,<2", "tensorboard>=2.16"],
        "bench": ["dm_control>=1.0.28,<2", "pytorch-mppi>=0.9,<1"],
        "dev": ["pytest>=8.2,<10", "pytest-xdist>=3", "pytest-timeout>=2.3", "hypothesis>=6", "ruff>=0.6", "mypy>=1.11",
                "types-PyYAML", "catkin-pkg>=1", "mcap-ros2-support>=0.5",
                "colcon-core>=0.17", "colcon-ros>=0.5", "colcon-bash>=0.5", "colcon-recursive-crawl>=0.2"],
    },
    entry_points={
        "console_scripts": ["mbrl = mbrl_control.cli:main"],
        "mbrl_control.commands": ["calibrate = mbrl_calibration.commands:add", "excite = mbrl_calibration.excite:add"],
        "mbrl_control.plants": ["mujoco = mbrl_sim.plants:mujoco", "suite = mbrl_sim.plants:suite"],
        "mbrl_control.tasks": ["gymnasium = mbrl_sim.tasks:gymnasium_task", "dmc = mbrl_sim.tasks:suite_task",
                               "robot = mbrl_sim.robot_task:robot_task"],
    },
    zip_safe=False,
)
