"""Controller node (lifecycle): states in, one command each period out. One thread; what to send is decided by the library."""

from __future__ import annotations

import gc
import os
import time
from pathlib import Path

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from std_srvs.srv import Trigger

from mbrl_control import robot
from mbrl_control.errors import UserError
from mbrl_control.priority import cores_for, freeze_garbage, pin, real_time
from mbrl_control.runtime.faults import FAULTS, Mode
from mbrl_control.runtime.fit_check import assess_in_child
from mbrl_control.runtime.supervisor import severity
from mbrl_control_ros import parameters, qos
from mbrl_control_ros.control_loop import Loop, Settings
from mbrl_control_ros.process import Stop, run

REPORT_S = 1.0


class ControllerNode(LifecycleNode):
    """Nothing is sent before activation and the first state; deactivation, shutdown and errors then end with a command at rest."""

    def __init__(self) -> None:
        super().__init__("controller")
        self.source = parameters.text(self, "robot", "shipped robot or path of a robot YAML", default="")
        self.run_dir = parameters.text(self, "run_dir", "folder of this run", default="")
        self.store_dir = parameters.text(self, "store_dir", "folder of model snapshots; by default 'store' in run_dir", default="")
        self.seed = parameters.integer(self, "seed", 0, "seed of excitation and planner")
        self.anytime = parameters.flag(self, "anytime", True, "planner ends early when its time is up; false: always all iterations")
        self.check_fit = parameters.flag(self, "check_fit", True, "configure fails when the planner cannot keep its rate on this machine")
        self.use_stamps = parameters.flag(self, "use_stamps", True, "age of a state from its header stamp; false: from its receipt")
        self.autostart = parameters.flag(self, "autostart", False, "configure at once, and activate with the first state")
        self.course = parameters.text(self, "course", "file of a course to play instead of plans (`mbrl excite`); '' for none", default="")
        self.heartbeat_s = parameters.number(self, "heartbeat_timeout_s", 0.0, "latch when 'heartbeat' is silent for so long; 0: off")
        self._priority = parameters.integer(self, "realtime_priority", 40, "SCHED_FIFO priority of the tick; 0: leave as it is")
        self._cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.STREAM)
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.loop: Loop | None = None

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Leave LATCHED in the next tick if nothing asks for it any more; a second later control goes on."""
        core = self.loop.core if self.loop is not None and self.loop.active else None
        mode = core.supervision.mode if core is not None else Mode.INACTIVE
        if core is None or mode != Mode.LATCHED:
            response.message = f"nothing to reset: the mode is {mode.name}"
            return response
        now = time.monotonic()
        present = [code for code, since in core.supervision.present.items() if severity(code, now - since) == Mode.LATCHED]
        if present:
            response.message = f"still present: {', '.join(present)}; {FAULTS[present[0]].action}"
            return response
        core.release()
        response.success, response.message = True, "released"
        return response

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Read the robot, time its planner and start the planner's process; FAILURE with the reason in the log."""
        missing = [name for name, value in (("robot", self.source), ("run_dir", self.run_dir)) if not value]
        try:
            if missing:
                raise UserError(f"parameter '{missing[0]}' is not set; set it with -p {missing[0]}:=... or in a parameter file under "
                                "'/**/controller'")
            self._check_planner()
            run_dir = Path(self.run_dir)
            store = Path(self.store_dir) if self.store_dir else run_dir / "store"
            settings = Settings(self.source, run_dir, store, self.seed, self.anytime, self.use_stamps, self.heartbeat_s,
                                Path(self.course) if self.course else None)
            self.loop = Loop(self, settings, self._diagnostics.publish)
        except (UserError, OSError) as error:
            self.get_logger().error(f"cannot configure: {error}")
            return TransitionCallbackReturn.FAILURE
        self.get_logger().info(f"configured for {self.loop.spec.name} at {self.loop.spec.rate_hz:g} Hz")
        return super().on_configure(state)

    def _check_planner(self) -> None:
        """What the planner cannot do on this machine is told now, not found out while active."""
        robot.load(self.source)
        if self.check_fit and not self.course and (warning := assess_in_child(self.source).demand(self.anytime)):
            self.get_logger().warning(warning)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begin to send commands, from the next period on."""
        assert self.loop is not None
        if wrong := self.loop.clock.sentence(time.monotonic()):
            self.get_logger().error(f"cannot activate: {wrong}")
            return TransitionCallbackReturn.FAILURE
        freeze_garbage()  # before the priority is raised: it takes long enough to disturb another robot's tick
        own = cores_for("tick")
        refused = [pin(own), *(real_time(self._priority) if self._priority else [])]
        for sentence in filter(None, refused):
            self.get_logger().warning(sentence)
        others = [core for core in self._cores if core not in own] if self._priority else []
        self.loop.begin(others, self._priority + 1)  # last: the steps before take tens of milliseconds
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Bring the robot to rest and stop sending."""
        self.rest()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """End the planner's process."""
        self._close()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Bring the robot to rest and end the planner's process."""
        self._close()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """As shutdown; the node can be configured again."""
        self._close()
        return super().on_error(state)

    def rest(self) -> None:
        """If active, bring the robot to rest and stop sending."""
        if self.loop is not None and self.loop.active:
            self.loop.rest()
            gc.enable()
            gc.unfreeze()
            pin(self._cores)

    def _close(self) -> None:
        self.rest()
        if self.loop is not None:
            self.loop.close()
            self.loop = None

    def report(self) -> None:
        """What is done once a second: diagnostics, a look after the planner's process, and garbage in small portions."""
        if self.loop is not None:
            running = self.loop.link.check()
            stamp = self.get_clock().now().to_msg()
            self._diagnostics.publish(self.loop.figures.report(time.monotonic(), stamp, running, self.loop.link.restarts))
            if self.loop.active:
                gc.collect()

    def finish(self) -> None:
        """Orderly end of the process, whatever state it is in."""
        self._close()
        self.destroy_node()


def _await_state(node: ControllerNode, executor: SingleThreadedExecutor, stop: Stop) -> None:
    """Wait for the robot's first state: until then there is nothing to decide, and a robot at rest teaches nothing."""
    while not stop and rclpy.ok() and node.loop is not None and node.loop.core.state is None:
        executor.spin_once(timeout_sec=0.05)
        node.get_logger().info("waiting for the robot's first state", throttle_duration_sec=5.0)


def _spin(node: ControllerNode, stop: Stop) -> None:
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    if node.autostart and node.trigger_configure() == TransitionCallbackReturn.SUCCESS:
        _await_state(node, executor, stop)
        if not stop:
            node.trigger_activate()
    report_at = time.monotonic()
    while not stop and rclpy.ok():
        if node.loop is not None and node.loop.active:
            node.loop.tick(executor.spin_once)
        else:
            executor.spin_once(timeout_sec=0.05)
        if time.monotonic() >= report_at:
            report_at = max(report_at + REPORT_S, time.monotonic())
            node.report()


def _body(stop: Stop) -> None:
    node = ControllerNode()
    try:
        _spin(node, stop)
    finally:
        node.finish()


def main(args: list[str] | None = None) -> None:
    """Entry point."""
    run(_body, args)


if __name__ == "__main__":
    main()
