"""Look ahead with equations of motion: all steps in one call of a compiled CasADi function."""

from __future__ import annotations

from typing import Any

import casadi as ca
import numpy as np

from mbrl_control import parts
from mbrl_control.models import equations
from mbrl_control.robot import RobotSpec
from mbrl_control.runtime.look_ahead import Setting


def _next_command(setting: Setting, state: Any, last: Any) -> Any:
    """`Setting.next_command` of expressions."""
    p, out = setting.policy, []
    for k in range(len(p.rest)):
        wanted = p.rest[k] + p.keep[k] * last[k] - p.gain[k] * state[int(p.rate[k])]
        for most in (p.ramp[k] * setting.step_s, setting.most_change[k]):
            if most < np.inf:
                wanted = ca.fmin(ca.fmax(wanted, last[k] - most), last[k] + most)
        out.append(ca.fmin(ca.fmax(wanted, p.low[k]), p.high[k]))
    return ca.vertcat(*out)


class CasadiLookAhead:
    """See `mbrl_control.runtime.look_ahead.LookAhead`."""

    def __init__(self, spec: RobotSpec) -> None:
        setting = Setting.of(spec)
        who = "safety.options"
        known = equations.of(spec, parts.fill(equations.Options, who, spec.safety.options), who)
        reach = int(setting.delay.max())
        start, command, sent = ca.SX.sym("x", spec.state_dim), ca.SX.sym("u", spec.action_dim), ca.SX.sym("s", spec.action_dim, reach)
        f, p = known.system, known.parameters
        steps = [equations.integrator(f, p, dt, setting.substeps) for dt in (setting.tick_s, setting.step_s)]
        commands = [*ca.horzsplit(sent), command] if reach else [command]
        x, states = start, []
        for k in range(setting.steps + 1):
            if k:
                commands.append(_next_command(setting, x, commands[-1]))
            acting = ca.vertcat(*[commands[-1 - int(ticks)][axis] for axis, ticks in enumerate(setting.delay)])
            inputs = ca.SX.zeros(len(f.inputs))
            inputs[known.driven.tolist()] = acting[known.command.tolist()]
            after, x = steps[k > 0](x[known.order.tolist()], inputs), ca.SX.zeros(spec.state_dim)
            x[known.order.tolist()] = after
            states.append(x)
        function = ca.Function("look_ahead", [start, command, sent], [ca.horzcat(*states)])
        # CasADi's matrices lie column by column: rows of these arrays are its columns.
        self._start, self._command = np.zeros(spec.state_dim), np.zeros(spec.action_dim)
        self._sent, self._out = np.zeros((reach, spec.action_dim)), np.zeros((len(states), spec.state_dim))
        made: Any = function.buffer()
        self._buffer, self._run = made
        arrays: list[Any] = [self._start, self._command, self._sent]
        for i, array in enumerate(arrays):
            if array.size:
                self._buffer.set_arg(i, memoryview(array))
        out: Any = self._out
        self._buffer.set_res(0, memoryview(out))

    def __call__(self, state: np.ndarray, command: np.ndarray, sent: np.ndarray) -> np.ndarray:
        """See `LookAhead`."""
        self._start[:], self._command[:], self._sent[:] = state, command, sent
        self._run()
        return self._out
