"""How long MuJoCo may work on a file that somebody else wrote: little, and more for each megabyte of what the file names."""

from __future__ import annotations

import pytest

from mbrl_control.models.mjcf import CAPS, WORK_S, work_s

MB = 2**20


def test_a_text_alone_gets_little(tmp_path):
    (tmp_path / "robot.xml").write_text("<mujoco/>")
    (tmp_path / "other.stl").write_bytes(bytes(3 * MB))
    assert work_s(tmp_path / "robot.xml") == WORK_S


def test_what_is_named_counts_once_wherever_it_lies(tmp_path):
    (tmp_path / "meshes" / "fine").mkdir(parents=True)
    (tmp_path / "meshes" / "fine" / "a.stl").write_bytes(bytes(2 * MB))
    (tmp_path / "b.png").write_bytes(bytes(MB))
    (tmp_path / "part.xml").write_text("<mujocoinclude><texture file='b.png'/><include file='part.xml'/></mujocoinclude>")
    (tmp_path / "robot.xml").write_text('<mujoco><mesh file="fine/a.stl"/><mesh file = "a.stl"/><include file="part.xml"/>'
                                        '<mesh filename="package://robot/none.stl"/></mujoco>')
    assert work_s(tmp_path / "robot.xml") == pytest.approx(WORK_S + 3.0, abs=0.01)


def test_there_is_an_end(tmp_path):
    (tmp_path / "a.stl").write_bytes(bytes(12 * MB))
    (tmp_path / "robot.xml").write_text('<mesh file="a.stl"/>')
    assert work_s(tmp_path / "robot.xml") == CAPS.wall_s
