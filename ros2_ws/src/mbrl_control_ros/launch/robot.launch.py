"""Control a robot: controller, trainer and recorder. The robot itself must be running, e.g. with sim.launch.py."""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterFile, ParameterValue
from launch_ros.substitutions import FindPackageShare

ARGUMENTS = (
    ("robot", None, "shipped robot (e.g. cartpole) or path of a robot YAML"),
    ("run_dir", "runs/launch", "folder of this run: bag, models, logs"),
    ("namespace", "", "namespace of all nodes and relative topics"),
    ("params_file", PathJoinSubstitution([FindPackageShare("mbrl_control_ros"), "config", "params.yaml"]), "node parameters"),
    ("use_sim_time", "false", "stamps from /clock"),
    ("log_level", "info", "debug, info, warn, error"),
    ("autostart", "true", "configure and activate the controller at once; false: with `ros2 lifecycle set`"),
)


def _node(name: str, **parameters: object) -> Node:
    given = {
        "robot": ParameterValue(LaunchConfiguration("robot"), value_type=str),
        "run_dir": ParameterValue(LaunchConfiguration("run_dir"), value_type=str),
        "use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool),
    }
    return Node(
        package="mbrl_control_ros",
        executable=f"{name}_node",
        name=name,
        namespace=LaunchConfiguration("namespace"),
        parameters=[ParameterFile(LaunchConfiguration("params_file"), allow_substs=True), {**given, **parameters}],
        arguments=["--ros-args", "--log-level", LaunchConfiguration("log_level")],
        output="screen",
        emulate_tty=True,
    )


def generate_launch_description() -> LaunchDescription:
    arguments = [DeclareLaunchArgument(name, default_value=default, description=text) for name, default, text in ARGUMENTS]
    autostart = ParameterValue(LaunchConfiguration("autostart"), value_type=bool)
    return LaunchDescription([*arguments, _node("recorder"), _node("trainer"), _node("controller", autostart=autostart)])
