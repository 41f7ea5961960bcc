"""What planners are made of: noise, splines, shifting, weights, risk, rollouts, dead time."""

import itertools

import numpy as np
import planning_fakes as fakes
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mbrl_control.planning import noise, risk, weighting
from mbrl_control.planning.actions import ActionSpace
from mbrl_control.planning.delays import Delays, commands_in_effect
from mbrl_control.planning.knots import spline_matrix
from mbrl_control.planning.noise import colour_factor, noise_bank
from mbrl_control.planning.plan import cell, shift
from mbrl_control.planning.rollout import rollout


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 2.0])
def test_noise_spectrum_falls_as_asked(beta):
    length = 128
    rows = np.random.default_rng(0).standard_normal((3000, length)) @ colour_factor(length, beta).T
    window = np.hanning(length)
    power = (np.abs(np.fft.rfft(rows * window)) ** 2).mean(0)
    middle = slice(3, length // 4)  # below the window's main lobe and far from the folding at half the rate
    slope = np.polyfit(np.log(np.fft.rfftfreq(length)[middle]), np.log(power[middle]), 1)[0]
    assert slope == pytest.approx(-beta, abs=0.1)


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0, 3.5])
def test_noise_has_unit_variance_at_every_step_and_mirrored_rows(beta):
    factor = colour_factor(30, beta)
    np.testing.assert_allclose((factor**2).sum(1), 1.0, atol=1e-6)
    bank = noise_bank(40, 30, 2, beta, 1)
    assert bank.shape == (31, 40, 30, 2)
    assert torch.equal(bank[:, 0::2], -bank[:, 1::2])
    assert torch.equal(bank, noise_bank(40, 30, 2, beta, 1))
    assert bank.square().mean() == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("length", [12, 30])
def test_noise_does_not_tie_the_last_action_to_the_first(length):
    covariance = colour_factor(length, 2.0) @ colour_factor(length, 2.0).T
    assert abs(covariance[0, -1]) < 0.2  # made circularly at its own length it is 0.68 and 0.87
    assert covariance[0, 1] > 0.8


def test_huge_populations_get_fewer_noise_sets(monkeypatch):
    monkeypatch.setattr(noise, "MAX_NUMBERS", 1000)
    assert [len(noise_bank(rows, 5, 2, 0.0, 0)) for rows in (1, 10, 100)] == [31, 10, 3]


@pytest.mark.parametrize("kind", ["hold", "linear", "cubic"])
@pytest.mark.parametrize(("horizon", "knots"), [(13, 4), (25, 2), (7, 6), (5, 5), (25, 7)])
def test_splines_pass_through_knots_and_sum_to_one(kind, horizon, knots):
    matrix = spline_matrix(horizon, knots, kind)
    np.testing.assert_allclose(matrix.sum(1), 1.0, atol=1e-12)
    np.testing.assert_allclose(matrix[0], np.eye(knots)[0], atol=1e-12)
    np.testing.assert_allclose(matrix[-1], np.eye(knots)[-1], atol=1e-12)
    np.testing.assert_allclose(np.linalg.pinv(matrix) @ matrix, np.eye(knots), atol=1e-9)
    at = np.arange(horizon) * (knots - 1) / (horizon - 1)
    if kind != "hold":
        on = np.isclose(at, np.round(at))
        np.testing.assert_allclose(matrix[on], np.eye(knots)[np.round(at[on]).astype(int)], atol=1e-12)
        np.testing.assert_allclose(matrix @ np.arange(knots), at, atol=1e-12)  # straight lines stay straight


def test_no_knots_is_one_per_action():
    np.testing.assert_array_equal(spline_matrix(6, None, "cubic"), np.eye(6))


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=12), st.floats(0, 0.9), st.floats(0.02, 0.2))
def test_shift_keeps_the_integral(values, share, dt):
    rows = np.array(values)[None, :, None]
    elapsed = share * len(values) * dt
    moved = shift(rows, dt, elapsed)
    edges = np.arange(len(values) + 1) * dt
    integral = np.interp(elapsed, edges, np.append(0, np.cumsum(values) * dt))  # of the old plan up to the new start
    tail = values[-1] * elapsed  # the last action holds on beyond the old end
    assert moved.sum() * dt == pytest.approx(sum(values) * dt - integral + tail, abs=1e-9)


def test_shift_by_whole_cells_is_exact_and_backwards_is_none():
    rows = np.arange(6.0)[None, :, None]
    np.testing.assert_array_equal(shift(rows, 0.1, 0.2)[0, :, 0], [2, 3, 4, 5, 5, 5])
    np.testing.assert_array_equal(shift(rows, 0.1, -0.3), rows)
    np.testing.assert_array_equal(shift(rows, 0.1, 99.0)[0, :, 0], [5] * 6)


@given(st.integers(0, 10**7), st.sampled_from([0.02, 0.04, 0.05, 0.1]), st.floats(0, 0.999))
def test_cell_finds_whole_and_part(whole, dt, part):
    found, rest = cell((whole + part) * dt, dt)
    assert found + rest == pytest.approx(whole + part, abs=2e-6)
    assert 0 <= rest < 1
    assert cell(whole * dt, dt) == (whole, 0.0)


def test_softmax_is_its_definition_and_gives_infinite_costs_nothing():
    costs = torch.tensor([3.0, 1.0, float("inf"), 2.5])
    expected = np.exp(-np.array([3.0, 1.0, np.inf, 2.5]) / 0.7)
    np.testing.assert_allclose(weighting.softmax(costs, 0.7), expected / expected.sum(), rtol=1e-6)


@pytest.mark.parametrize("ess", [3.0, 10.0, 60.0])
@pytest.mark.parametrize("factor", [1.0, 1000.0, 1e-6])
def test_temperature_hits_the_effective_sample_size(ess, factor):
    costs = torch.as_tensor(factor * np.random.default_rng(0).gamma(2.0, size=128), dtype=torch.float32)
    weights = weighting.softmax(costs, weighting.temperature_for(costs, ess))
    assert 1 / weights.square().sum() == pytest.approx(ess, rel=1e-3)


def test_temperature_is_bounded_by_the_interquartile_range():
    costs = torch.tensor([0.0, 1.0, 2.0, 3.0, 1e9, float("inf")])
    assert weighting.interquartile(costs) == 2.0
    assert weighting.temperature_for(costs, 1.0) == pytest.approx(2e-3, rel=1e-3)
    assert weighting.temperature_for(costs, 6.0) == pytest.approx(2e3, rel=1e-3)
    ties = torch.full((8,), 4.0)
    np.testing.assert_allclose(weighting.softmax(ties, weighting.temperature_for(ties, 2.0)), 1 / 8)


def test_elites_share_weight_and_leave_out_infinite_costs():
    costs = torch.tensor([5.0, float("inf"), 1.0, 2.0])
    np.testing.assert_allclose(weighting.elites(costs, 2), [0, 0, 0.5, 0.5])
    np.testing.assert_allclose(weighting.elites(costs, 4), [1 / 3, 0, 1 / 3, 1 / 3])


def test_risk_by_hand():
    returns = torch.tensor([[1.0, 5.0], [2.0, 5.0], [6.0, float("nan")]])

    def of(**planner):
        return risk.aggregate(returns, fakes.spec(**planner).planner)

    assert of(risk="mean")[0] == 3.0
    assert of(risk="std", risk_weight=2.0)[0] == pytest.approx(3 + 2 * np.sqrt(14 / 3))
    assert of(risk="cvar", cvar_alpha=0.3)[0] == 6.0
    assert of(risk="cvar", cvar_alpha=0.6)[0] == 4.0
    assert of(risk="cvar", cvar_alpha=1.0)[0] == 3.0
    assert all(of(risk=kind)[1].isnan() for kind in ("mean", "std", "cvar"))


def test_disagreement_and_roughness_by_hand():
    states = torch.tensor([[[[0.0, 0.0], [1.0, 0.0]]], [[[0.0, 2.0], [3.0, 0.0]]]])  # two members, one candidate, two steps
    assert risk.disagreement(states, torch.tensor([0.5, 2.0])) == pytest.approx((0 + 1 / 2) / 2 + (1 / 0.5 + 0) / 2)
    rows = torch.tensor([[[0.5], [0.0], [1.0]]])
    assert risk.roughness(rows, torch.tensor([1.0])) == pytest.approx(0.25 + 0.25 + 1.0)


def test_rate_limits_hold_for_every_candidate():
    space = ActionSpace(fakes.spec(2, rate=10.0, limits=(-2.0, 6.0)))
    last = space.normal(torch.tensor([5.0, -2.0]))
    rows = space.physical(space.limit(3 * torch.randn(200, 12, 2, generator=torch.Generator().manual_seed(0)), last))
    steps = rows.diff(dim=1, prepend=space.physical(last).expand(200, 1, 2))
    assert steps.abs().max() <= 10.0 * fakes.DT + 1e-5
    assert rows.min() >= -2 - 1e-5
    assert rows.max() <= 6 + 1e-5


def test_trajectory_sampling_by_hand():
    model = fakes.Linear([[1.0]], [[0.0]], offsets=[[1.0], [10.0], [100.0]])
    actions, start = torch.zeros(2, 4, 1), torch.zeros(1)
    inf = rollout(model, start, actions, "tsinf")
    assert inf.shape == (3, 2, 5, 1)
    np.testing.assert_array_equal(inf[:, 0, -1, 0], [4, 40, 400])
    mean = rollout(model, start, actions, "mean")
    np.testing.assert_allclose(mean[:, 0, :, 0], [np.arange(5) * 37.0])
    one = rollout(model, start, actions, "ts1", torch.Generator().manual_seed(0))[:, 0, :, 0]
    steps = one.diff(dim=1)
    np.testing.assert_array_equal(steps.sort(0).values, torch.tensor([[1.0], [10.0], [100.0]]).expand(3, 4))  # each member once a step
    assert len({tuple(row.tolist()) for row in steps}) == 3
    assert any(len(set(row.tolist())) > 1 for row in steps)  # particles do change members


def simulate(sent_time, sent, delays, state, begin, end):
    """Double integrators under held, delayed commands, exactly: piece by piece between changes."""
    state, dims = np.array(state, dtype=float), len(delays)
    edges = np.unique(np.clip(np.concatenate([[begin, end], *(np.asarray(sent_time) + d for d in delays)]), begin, end))
    for a, b in itertools.pairwise(edges):
        for i in range(dims):
            past = np.asarray(sent_time) + delays[i] <= a + 1e-12
            u, h = (sent[np.flatnonzero(past)[-1], i] if past.any() else 0.0), b - a
            state[2 * i] += h * state[2 * i + 1] + u * h**2 / 2
            state[2 * i + 1] += u * h
    return state


@pytest.mark.parametrize(("delays", "apply_time"), [((0.2, 0.2), 0.3), ((0.0, 0.0), 0.25), ((0.1, 0.3), 0.2), ((0.0, 0.0), -0.1)])
def test_predicted_start_is_the_true_state(delays, apply_time):
    """Commands change on the grid of the model; the last step may be a partial one."""
    rng = np.random.default_rng(1)
    times, sent = np.arange(-4, 3) * fakes.DT, rng.uniform(-4, 4, (7, 2))
    if apply_time < 0.25:
        keep = times < apply_time - 1e-9
        times, sent = times[keep], sent[keep]
    robot = fakes.spec(2, delays=delays)
    state = rng.normal(size=4)
    ask = fakes.request(state, apply_time=apply_time, sent_time=times, sent=sent, axes=2)
    found = Delays(robot).start(fakes.double_integrator(2), ask)
    expected = simulate(times, sent, delays, state, 0.0, max(0.0, apply_time + min(delays)))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("delays", [(0.0, 0.3), (0.25, 0.1), (0.04, 0.04), (0.0, 2.0)])
def test_axes_with_different_delays_roll_out_as_they_will_play(delays):
    """Each cell's command is the exact mean of what is in effect: sent before the plan, or by the plan, per axis."""
    rng = np.random.default_rng(2)
    robot = fakes.spec(2, delays=delays, horizon=8)
    times, sent = np.arange(-20, 0) * 0.02, rng.uniform(-4, 4, (20, 2))
    ask = fakes.request(np.zeros(4), sent_time=times, sent=sent, axes=2)
    actions = rng.uniform(-4, 4, (3, 8, 2))
    lags = Delays(robot)
    pending = lags.pending(ask)
    assert (pending is None) == (delays[0] == delays[1])
    played = lags.played(torch.as_tensor(actions, dtype=torch.float32), pending)
    edges = min(delays) + np.arange(9) * fakes.DT
    for row, own in zip(played, actions, strict=True):
        told = fakes.request(np.zeros(4), sent_time=np.append(times, np.arange(8) * fakes.DT), sent=np.vstack([sent, own]), axes=2)
        np.testing.assert_allclose(row, commands_in_effect(told, edges, robot.delays, robot.action_zero), atol=1e-5)


def test_commands_in_effect_by_hand():
    ask = fakes.request([0, 0], sent_time=[0.0, 0.1], sent=[[2.0], [4.0]])
    mean = commands_in_effect(ask, np.array([0.0, 0.1, 0.2]), np.array([0.05]), np.array([-1.0]))
    np.testing.assert_allclose(mean[:, 0], [(-1 + 2) / 2, (2 + 4) / 2])
    np.testing.assert_array_equal(commands_in_effect(fakes.request([0, 0]), np.array([0.0, 1.0]), np.zeros(1), np.array([0.5])), [[0.5]])
