"""What a ROS 2 installation needs of the package: a valid manifest, launch files that compile, parameters with the right keys."""

import ast
import importlib.util
import py_compile
from pathlib import Path

import pytest
import yaml

HERE = Path(__file__).resolve().parents[1]
ROOT = HERE.parents[2]


@pytest.mark.parametrize("folder", [HERE, ROOT], ids=["mbrl_control_ros", "mbrl_control"])
def test_manifest_is_valid(folder):
    package = pytest.importorskip("catkin_pkg.package")
    manifest = package.parse_package(str(folder / "package.xml"))
    manifest.validate()
    assert manifest.package_format == 3
    assert manifest.get_build_type() == "ament_python"
    assert (folder / "resource" / manifest.name).exists()


def test_every_imported_ros_package_is_declared():
    package = pytest.importorskip("catkin_pkg.package")
    declared = {d.name for d in package.parse_package(str(HERE / "package.xml")).exec_depends}
    imported = set()
    for path in [*(HERE / "mbrl_control_ros").glob("*.py"), *(HERE / "launch").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {a.name.split(".")[0] for a in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
    ros = {n for n in imported if n.endswith(("_msgs", "_interfaces", "_srvs")) or n in ("rclpy", "launch", "launch_ros", "mbrl_control")}
    assert ros <= declared


@pytest.mark.parametrize("name", ["robot", "sim"])
def test_launch_file_compiles(name):
    py_compile.compile(str(HERE / "launch" / f"{name}.launch.py"), doraise=True)


@pytest.mark.parametrize("name", ["robot", "sim"])
def test_launch_description_can_be_made(name):
    pytest.importorskip("launch_ros")
    path = HERE / "launch" / f"{name}.launch.py"
    module = importlib.util.module_from_spec(importlib.util.spec_from_file_location(f"{name}_launch", path))
    module.__spec__.loader.exec_module(module)
    assert module.generate_launch_description().entities


def test_parameter_keys_match_nodes_in_every_namespace():
    data = yaml.safe_load((HERE / "config" / "params.yaml").read_text())
    assert set(data) == {"/**/controller", "/**/trainer", "/**/recorder", "/**/sim"}
    assert all(set(block) == {"ros__parameters"} for block in data.values())
