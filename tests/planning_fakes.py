"""Small exact models for the planner tests: linear dynamics with member offsets, and what goes around them."""

import numpy as np
import torch

from mbrl_control.models.base import Step
from mbrl_control.planning import base
from mbrl_control.planning.plan import PlanRequest
from mbrl_control.robot import RobotSpec

DT = 0.1
torch.set_num_threads(1)  # small tensors: threads only wait for each other


class Linear:
    """x' = A x + B u + offset_e for member e; float32, or float64 where the state is."""

    def __init__(self, a, b, offsets=((),), dt=DT):
        self.a, self.b = torch.as_tensor(a, dtype=torch.float32), torch.as_tensor(b, dtype=torch.float32)
        self.offsets = torch.zeros(1, 1, len(self.a)) if not len(offsets[0]) else torch.as_tensor(offsets, dtype=torch.float32)[:, None]
        self.members, self.dt, self.version, self.calls = len(self.offsets), dt, 3, 0
        self.poison = None

    def step(self, state, action, rng=None):
        self.calls += 1
        after = state @ self.a.T + action @ self.b.T + self.offsets
        if self.poison is not None:
            after = self.poison(after, action)
        return Step(after)

    def scale(self):
        return torch.full((len(self.a),), 0.5)


class Quadratic:
    """x' Q x + u' R u per step, x' P x at the end."""

    def __init__(self, q, r, p=None, factor=1.0):
        self.q, self.r = torch.as_tensor(q, dtype=torch.float32), torch.as_tensor(r, dtype=torch.float32)
        self.p = self.q * 0 if p is None else torch.as_tensor(p, dtype=torch.float32)
        self.factor = factor

    def stage(self, state, action):
        return self.factor * (((state @ self.q) * state).sum(-1) + ((action @ self.r) * action).sum(-1))

    def terminal(self, state):
        return self.factor * ((state @ self.p) * state).sum(-1)


def spec(axes=1, *, rate=None, delays=(0.0, 0.0), limits=(-4.0, 4.0), trainer=None, dt=DT, **planner):
    """A made-up robot with position and velocity per axis."""
    state = []
    for i in range(axes):
        state += [{"name": f"q{i}", "unit": "m"}, {"name": f"v{i}", "unit": "m/s", "rate_of": f"q{i}"}]
    command = [{"name": f"u{i}", "unit": "N", "limits": list(limits), "max_rate": rate, "delay_s": delays[i]} for i in range(axes)]
    return RobotSpec.model_validate({"name": "fake", "rate_hz": 50, "plan_hz": 25, "model_dt": dt, "state": state, "command": command,
                                     "cost": {"kind": "quadratic"}, "trainer": trainer or {}, "planner": planner})


def double_integrator(axes=1, dt=DT, **kwargs):
    """Unit masses, exact under held forces."""
    a = np.kron(np.eye(axes), [[1, dt], [0, 1]])
    b = np.kron(np.eye(axes), [[dt**2 / 2], [dt]])
    return Linear(a, b, dt=dt, **kwargs)


def lqr_cost(axes=1, **kwargs):
    return Quadratic(np.eye(2 * axes), 0.1 * np.eye(axes), 5 * np.eye(2 * axes), **kwargs)


def request(state, seq=0, apply_time=0.0, state_time=0.0, sent_time=(), sent=(), experience_s=0.0, axes=1):
    return PlanRequest(seq, np.asarray(state, dtype=float), state_time, apply_time, np.asarray(sent_time, dtype=float),
                       np.asarray(sent, dtype=float).reshape(-1, axes), experience_s)


def planner(robot=None, model=None, cost=None, seed=0):
    robot = robot or spec()
    return base.build(robot, model or double_integrator(robot.action_dim), cost or lqr_cost(robot.action_dim), seed)


def riccati(model, cost, start, horizon):
    """Actions [H, A] and cost of the finite-horizon linear-quadratic regulator (stage cost counts states 1 to H)."""
    a, b, q, r, p = (np.asarray(t, dtype=float) for t in (model.a, model.b, cost.q, cost.r, cost.p))
    value, gains = q + p, []
    for _ in range(horizon):
        gain = np.linalg.solve(r + b.T @ value @ b, b.T @ value @ a)
        gains.append(gain)
        closed = a - b @ gain
        value = q + gain.T @ r @ gain + closed.T @ value @ closed
    x, actions = np.asarray(start, dtype=float), []
    for gain in reversed(gains):
        actions.append(-gain @ x)
        x = a @ x + b @ actions[-1]
    total = np.asarray(start) @ (value - q) @ np.asarray(start)
    return np.array(actions), float(total)
