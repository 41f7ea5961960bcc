"""A simulated robot and all that controls it: robot.launch.py with the MuJoCo node beside it."""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterFile, ParameterValue
from launch_ros.substitutions import FindPackageShare

SHARE = FindPackageShare("mbrl_control_ros")
ARGUMENTS = (
    ("robot", "cartpole", "shipped robot or path of a robot YAML with a `sim` section"),
    ("run_dir", "runs/launch", "folder of this run: bag, models, logs"),
    ("namespace", "", "namespace of all nodes and relative topics"),
    ("params_file", PathJoinSubstitution([SHARE, "config", "params.yaml"]), "node parameters"),
    ("use_sim_time", "false", "stamps from /clock"),
    ("publish_clock", LaunchConfiguration("use_sim_time"), "publish /clock; of several robots only one should"),
    ("log_level", "info", "debug, info, warn, error"),
    ("autostart", "true", "configure and activate the controller at once"),
)
PASSED_ON = ("robot", "run_dir", "namespace", "params_file", "use_sim_time", "log_level", "autostart")


def generate_launch_description() -> LaunchDescription:
    arguments = [DeclareLaunchArgument(name, default_value=default, description=text) for name, default, text in ARGUMENTS]
    robot = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(PathJoinSubstitution([SHARE, "launch", "robot.launch.py"])),
        launch_arguments=[(name, LaunchConfiguration(name)) for name in PASSED_ON],
    )
    parameters = {
        "robot": ParameterValue(LaunchConfiguration("robot"), value_type=str),
        "use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool),
        "publish_clock": ParameterValue(LaunchConfiguration("publish_clock"), value_type=bool),
    }
    sim = Node(
        package="mbrl_control_ros",
        executable="sim_node",
        name="sim",
        namespace=LaunchConfiguration("namespace"),
        parameters=[ParameterFile(LaunchConfiguration("params_file"), allow_substs=True), parameters],
        arguments=["--ros-args", "--log-level", LaunchConfiguration("log_level")],
        output="screen",
    )
    return LaunchDescription([*arguments, sim, robot])
