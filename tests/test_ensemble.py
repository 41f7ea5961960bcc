"""The ensemble against definitions: batched products, likelihood, bounds, bootstrap, mirror, angles, snapshots."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from mbrl_control import robot
from mbrl_control.data.sequences import Sequences
from mbrl_control.errors import DataError, SnapshotError
from mbrl_control.models import division, ensemble, linear, network, open_loop_loss
from mbrl_control.models.encoding import Encoding, Normaliser

SPEC = robot.load("cartpole")
DT = SPEC.model_dt
pytestmark = pytest.mark.usefixtures("one_thread")


def swing(state: np.ndarray, action: np.ndarray) -> np.ndarray:
    """A made-up cart-pole step [M, S] that is symmetric under the mirror and does not depend on x."""
    x, theta, v, w = state.T
    v2 = v + DT * (5 * action[:, 0] - 0.1 * v)
    w2 = w + DT * (15 * np.sin(theta) - 3 * np.cos(theta) * action[:, 0])
    return np.stack([x + DT * (v + v2) / 2, theta + DT * (w + w2) / 2, v2, w2], 1)


def data(count: int, steps: int = 1, seed: int = 0) -> Sequences:
    rng = np.random.default_rng(seed)
    state = [rng.normal(size=(count, 4)) * [1.0, 2.0, 1.5, 3.0]]
    action = rng.uniform(-1, 1, (count, steps, 1))
    for k in range(steps):
        state.append(swing(state[-1], action[:, k]))
    return Sequences(np.stack(state, 1), action, np.arange(count) * DT)


def small(spec: robot.RobotSpec = SPEC, **options) -> ensemble.Ensemble:
    spec = spec.model_copy(update={"model": spec.model.model_copy(update={"members": 3, "hidden": [16, 16]})})
    return ensemble.build(spec, ensemble.Options(**options))


def fitted(epochs: int = 3, count: int = 400, seed: int = 0, **options) -> ensemble.Ensemble:
    model = small(**options)
    model.fit(data(count, model.stretch), np.random.default_rng(seed), epochs=epochs)
    return model


def starts(members: int, count: int = 7, seed: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    some = data(count, seed=seed)
    return torch.tensor(some.state[:, 0], dtype=torch.float32).expand(members, -1, -1).contiguous(), torch.tensor(some.action[:, 0]).float()


def test_batched_forward_is_each_member_on_its_own():
    weights = network.initial(4, [5, 8, 8, 3], np.random.default_rng(0))
    weights = [w + 0.1 for w in weights]
    inputs = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(0))
    together = network.forward(weights, inputs)
    for e in range(4):
        hidden = inputs[e]
        for layer in range(3):
            hidden = hidden @ weights[2 * layer][e] + weights[2 * layer + 1][e]
            if layer < 2:
                hidden = hidden / (1 + torch.exp(-hidden))
        torch.testing.assert_close(together[e], hidden, rtol=1e-5, atol=1e-6)


def test_nll_is_that_of_the_normal_distribution():
    error, log_variance = torch.tensor([0.3, -2.0, 0.0]), torch.tensor([-1.0, 0.5, 2.0])
    log_density = torch.distributions.Normal(torch.zeros(3), (0.5 * log_variance).exp()).log_prob(error)
    torch.testing.assert_close(network.gaussian_nll(error, log_variance), -log_density - 0.5 * math.log(2 * math.pi))


def test_log_variance_keeps_its_bounds_and_its_gradient():
    low, high = network.LOG_VARIANCE_BOUNDS
    raw = torch.tensor([-1e4, -30.0, -5.0, 0.0, 4.0, 1e4], requires_grad=True)
    bounded = network.bounded_log_variance(raw)
    assert (bounded >= low).all()
    assert (bounded <= high + math.log(2) * 1e-4).all()
    assert bounded[2].item() == pytest.approx(-5.0, abs=0.01)
    bounded[1:5].sum().backward()
    assert (raw.grad[1:5] > 0).all()
    assert torch.isfinite(raw.grad).all()


def test_gradients_are_clipped_member_by_member():
    parameter = torch.zeros(4, 3, 4, requires_grad=True)
    parameter.grad = torch.ones(4, 3, 4) * torch.tensor([0.01, 100.0, math.nan, math.inf])[:, None, None]
    network.clip_per_member([parameter], 5.0)
    assert torch.equal(parameter.grad[0], torch.full((3, 4), 0.01))
    assert parameter.grad[1].norm().item() == pytest.approx(5.0, rel=1e-4)
    assert torch.equal(parameter.grad[2:], torch.zeros(2, 3, 4))


def test_bootstrap_sets_differ_between_members_and_stay_for_the_fit(monkeypatch):
    model, seen = small(), []
    monkeypatch.setattr(open_loop_loss, "loss", spy := _spy(seen))
    count = 300  # with mirror images a multiple of the batch, so that an epoch leaves nothing out
    model.fit(data(count), np.random.default_rng(0), epochs=3, holdout=data(50, seed=1))
    assert spy
    per_epoch = len(seen) // 3
    whole = [torch.cat(seen[i * per_epoch:(i + 1) * per_epoch], 1)[:, :, 0] for i in range(3)]
    epochs = [[sorted(map(tuple, rows.tolist())) for rows in state] for state in whole]
    assert epochs[0] == epochs[1] == epochs[2], "one set of rows per member and fit"
    assert epochs[0][0] != epochs[0][1] != epochs[0][2]
    share = len(set(epochs[0][0])) / (2 * count)
    assert share == pytest.approx(1 - math.exp(-1), abs=0.05), "drawn with replacement from the data and its mirror image"


def _spy(seen: list[torch.Tensor]):
    true = open_loop_loss.loss

    def loss(weights, encoding, norm, state, action, floor):
        seen.append(state.clone())
        return true(weights, encoding, norm, state, action, floor)

    return loss


def test_each_member_keeps_its_own_best_weights(monkeypatch):
    model = small()
    errors = iter([[3.0, 3.0, 3.0], [1.0, 4.0, 2.0], [2.0, 1.0, 5.0]])
    kept: list[list[torch.Tensor]] = []

    def error(self, norm, held):
        kept.append([w.detach().clone() for w in self._weights])
        return torch.tensor(next(errors))

    monkeypatch.setattr(ensemble.Ensemble, "_error", error)
    model.fit(data(300), np.random.default_rng(0), epochs=3, holdout=data(50, seed=1))
    for member, epoch in enumerate([1, 2, 1]):
        for final, then in zip(model._weights, kept[epoch], strict=True):
            assert torch.equal(final[member], then[member])


def test_elites_are_the_best_on_held_out_data(monkeypatch):
    model = small(elites=2)
    monkeypatch.setattr(ensemble.Ensemble, "_error", lambda *_: torch.tensor([0.5, 2.0, 0.1]))
    model.fit(data(300), np.random.default_rng(0), epochs=1)
    assert model.members == 2
    assert model._elites.tolist() == [0, 2]
    assert model.step(*starts(2)).state.shape == (2, 7, 4)


@pytest.mark.parametrize("straight", [False, True])
def test_folded_step_is_the_definition(straight):
    """Normalise, network, scale back, trapezoid rule: step by step in float64."""
    model = fitted(friction=0.3, linear=straight)
    state, action = starts(3)
    norm, weights = model._norm, [w.double() for w in model._weights]
    features = torch.cat((state, state[..., 1:2].sin(), state[..., 1:2].cos(), action.expand(3, -1, -1), (state[..., 2:] / 0.3).tanh()), -1)
    hidden = (features.double() - norm.input_mean) * norm.input_inverse
    out = network.forward(weights, hidden)
    z = out[..., :4] * norm.target_scale + norm.target_mean
    rates = state[..., 2:].double() + z[..., 2:]
    positions = state[..., :2].double() + DT * (state[..., 2:].double() + rates) / 2 + z[..., :2]
    torch.testing.assert_close(model.step(state, action).state.double(), torch.cat((positions, rates), -1), rtol=1e-5, atol=1e-5)
    std = (0.5 * network.bounded_log_variance(out[..., 4:])).exp() * norm.error_scale
    torch.testing.assert_close(model.predict(state, action).std.double(), std, rtol=1e-4, atol=1e-6)


def test_a_linear_map_adds_to_the_means_and_not_to_the_variances():
    weights = network.initial(3, [4, 8, 6], np.random.default_rng(0), linear=3)
    layers, linear = network.parts(weights)
    linear.copy_(torch.arange(36.0).reshape(3, 4, 3))
    inputs = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    beside, alone = network.forward(weights, inputs), network.forward(layers, inputs)
    torch.testing.assert_close(beside[..., :3] - alone[..., :3], torch.einsum("ebi,eio->ebo", inputs, linear), rtol=1e-5, atol=1e-4)
    assert torch.equal(beside[..., 3:], alone[..., 3:])


def test_ridge_is_that_of_the_normal_equations():
    """Against numpy's least squares on rows extended by the square root of the penalty (Hoerl and Kennard 1970, section 5)."""
    rng = np.random.default_rng(0)
    inputs, outputs, penalty = rng.normal(size=(2, 30, 4)), rng.normal(size=(2, 30, 3)), 0.1
    gains = network.ridge(torch.tensor(inputs), torch.tensor(outputs), penalty)
    for x, y, gain in zip(inputs, outputs, gains, strict=True):
        longer = np.vstack([x, math.sqrt(penalty * 30) * np.eye(4)]), np.vstack([y, np.zeros((4, 3))])
        np.testing.assert_allclose(gain.numpy(), np.linalg.lstsq(*longer, rcond=None)[0], rtol=1e-9)


def test_a_linear_system_is_known_from_little_data_where_there_was_none():
    """Rates that are linear in rates and force, seen within +-1 and asked about at +-5."""
    def system(scale: float, count: int) -> Sequences:
        rng = np.random.default_rng(3)
        state, action = rng.uniform(-1, 1, (count, 1, 4)) * scale, rng.uniform(-1, 1, (count, 1, 1))
        rates = state[:, 0, 2:] @ np.array([[0.9, 0.1], [-0.2, 0.8]]) + action[:, 0] * [0.5, -0.3]
        positions = state[:, 0, :2] + DT * (state[:, 0, 2:] + rates) / 2
        return Sequences(np.stack([state[:, 0], np.concatenate([positions, rates], 1)], 1), action, np.arange(count) * DT)

    far, errors = system(5.0, 50), {}
    for straight in (False, True):
        model = small(linear=straight)
        model.fit(system(1.0, 60), np.random.default_rng(0), updates=60)
        predicted = model.step(torch.tensor(far.state[:, 0]).float().expand(3, -1, -1), torch.tensor(far.action[:, 0]).float()).state
        errors[straight] = float((predicted - torch.tensor(far.state[:, 1]).float())[..., 2:].square().mean().sqrt())
    assert errors[True] < 0.3 * errors[False]


def test_sets_to_judge_by_count_alike_whatever_their_sizes():
    model = fitted()
    small_set, large_set = data(40, seed=1), data(400, seed=2)
    norm = model._norm.cast(torch.float32)
    both = [open_loop_loss.thinned(some, model.trained) for some in (small_set, large_set)]
    alone = [model._error(norm, [one]) for one in both]
    torch.testing.assert_close(model._error(norm, both), (alone[0] + alone[1]) / 2)


def test_targets_are_what_the_step_adds():
    encoding = Encoding(SPEC, integrate=True)
    some = data(20)
    state, following = torch.tensor(some.state[:, 0]), torch.tensor(some.state[:, 1])
    z = encoding.targets(state, torch.tensor(some.action[:, 0]), following)
    torch.testing.assert_close(state @ encoding.carry.double() + z @ encoding.spread.double(), following)
    assert z[:, :2].abs().max() < 1e-6, "these positions follow the trapezoid rule"


def test_mirror_images_are_exact_and_the_statistics_symmetric():
    encoding = Encoding(SPEC, integrate=True)
    some = data(50)
    both = encoding.with_mirror_images(some)
    assert len(both) == 100
    assert np.array_equal(both.state[50:], -some.state)
    assert np.array_equal(both.action[50:], -some.action)
    features = encoding.features(torch.tensor(both.state[:, 0]), torch.tensor(both.action[:, 0]))
    assert torch.equal(features[50:, 4], -features[:50, 4]), "the sine flips"
    assert torch.equal(features[50:, 5], features[:50, 5]), "the cosine does not"
    norm = Normaliser.of(both, encoding)
    assert torch.allclose(norm.input_mean[[2, 3, 4, 6]], torch.zeros(4, dtype=torch.float64), atol=1e-15)


def test_ignored_signal_changes_nothing_but_itself():
    model = fitted()
    state, action = starts(3)
    moved = state.clone()
    moved[..., 0] += 4.0
    one, two = model.step(state, action).state, model.step(moved, action).state
    assert torch.equal(one[..., 1:], two[..., 1:])
    torch.testing.assert_close(two[..., 0] - one[..., 0], torch.full_like(one[..., 0], 4.0), atol=2e-6, rtol=0)


def test_angles_a_turn_apart_are_one_angle():
    model = fitted()
    state, action = starts(3)
    state[..., 1] = math.pi - 0.01
    turned = state.clone()
    turned[..., 1] -= 2 * math.pi
    difference = model.step(state, action).state - model.step(turned, action).state
    torch.testing.assert_close(difference[..., 1], torch.full_like(difference[..., 1], 2 * math.pi), atol=1e-5, rtol=0)
    torch.testing.assert_close(difference[..., 2:], torch.zeros_like(difference[..., 2:]), atol=1e-4, rtol=0)


def test_constant_signals_do_no_harm():
    some = data(200)
    still = Sequences(some.state * [1, 1, 0, 1], np.full_like(some.action, 0.3), some.start)
    spec = SPEC.model_copy(update={"model": SPEC.model.model_copy(update={"members": 2, "hidden": [8], "mirror": []})})
    model = ensemble.build(spec)
    figures = model.fit(still, np.random.default_rng(0), epochs=2)
    assert all(math.isfinite(v) for v in figures.values())
    assert torch.isfinite(model.step(*starts(2)).state).all()


def test_statistics_are_double_precision():
    some = data(1000)
    far = Sequences(some.state + np.array([1e5, 0, 0, 0]), some.action, some.start)
    spec = SPEC.model_copy(update={"model": SPEC.model.model_copy(update={"ignore": []})})
    norm = Normaliser.of(far, Encoding(spec, integrate=True))
    assert (1 / norm.input_inverse[0]).item() == pytest.approx(some.state[:, 0, 0].std(), rel=1e-9)


def test_equal_generators_give_equal_bits_and_others_do_not():
    one, two, three = fitted(seed=1), fitted(seed=1), fitted(seed=2)
    for name, array in one.snapshot().weights.items():
        assert np.array_equal(array, two.snapshot().weights[name]), name
    assert not np.array_equal(one.snapshot().weights["layer0.weight"], three.snapshot().weights["layer0.weight"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_snapshot_round_trip_is_bit_identical_and_in_place(dtype):
    model, other = fitted(elites=2), fitted(elites=2, seed=3)
    model.prepare(dtype)
    other.prepare(dtype)
    addresses = [other._folded.first[0].data_ptr(), other._folded.hidden[0][0].data_ptr(), other._folded.last.data_ptr()]
    other.load(model.snapshot())
    assert addresses == [other._folded.first[0].data_ptr(), other._folded.hidden[0][0].data_ptr(), other._folded.last.data_ptr()]
    assert other.version == model.version
    state, action = starts(2)
    assert torch.equal(model.step(state, action).state, other.step(state, action).state)
    noise = [m.step(state, action, torch.Generator().manual_seed(1)).state for m in (model, other)]
    assert torch.equal(*noise)
    assert torch.equal(model.scale(), other.scale())


@pytest.mark.parametrize("options", [{}, {"linear": True, "friction": 0.5}])
def test_the_precise_twin_is_the_model_in_float32_and_its_mirror_image_from_fit_to_fit_and_load_to_load(options):
    model, other = fitted(**options), fitted(seed=1, **options)
    exact = model.precise()
    state, action = starts(model.members)
    signs, sign = torch.as_tensor(model.encoding.state_sign).float(), torch.as_tensor(model.encoding.action_sign).float()
    assert signs.tolist() == [-1.0] * 4
    for change in (lambda: None, lambda: model.prepare(torch.bfloat16), lambda: model.load(other.snapshot()),
                   lambda: model.fit(data(400, seed=2), np.random.default_rng(2), epochs=1)):
        change()
        single = small(**options)
        single.load(model.snapshot())
        found, image = exact.step(state.repeat(2, 1, 1), action).state.chunk(2)
        assert torch.equal(found, single.step(state, action).state)
        np.testing.assert_allclose(image, signs * single.step(signs * state, sign * action).state, atol=2e-6)
        assert (exact.version, exact.members) == (model.version, 2 * model.members)
        # Where the robot rests by symmetry, so does the model, whatever its members think.
        rest = exact.step(torch.zeros(2 * model.members, 1, 4), torch.zeros(1, 1)).state
        assert rest.mean(0).abs().max() < 1e-6 < rest.abs().max()
        with torch.no_grad():
            whole = exact.rollout(state[0], action[:, None], "tsinf")
        if whole is not None:  # there is a compiler
            np.testing.assert_allclose(whole[:, :, 1], exact.step(state[:1].expand(2 * model.members, -1, -1), action).state, atol=1e-5)
    assert model.precise() is exact


def test_the_precise_twin_of_a_robot_without_symmetry_has_no_images():
    spec = SPEC.model_copy(update={"model": SPEC.model.model_copy(update={"mirror": []})})
    model = small(spec)
    model.fit(data(400), np.random.default_rng(0), epochs=1)
    assert model.precise().members == model.members


def test_a_snapshot_is_frozen():
    model = fitted()
    snapshot = model.snapshot()
    before = {n: a.copy() for n, a in snapshot.weights.items()}
    model.fit(data(300, seed=9), np.random.default_rng(4), epochs=2)
    assert all(np.array_equal(before[n], a) for n, a in snapshot.weights.items())


def test_wrong_snapshots_are_refused_and_leave_the_model_as_it_was():
    model = fitted()
    good = model.snapshot()
    before = model.step(*starts(3)).state
    bad_shape = {**good.weights, "layer0.weight": good.weights["layer0.weight"][:, :2]}
    missing = {n: a for n, a in good.weights.items() if n != "elites"}
    for bad in (dataclasses.replace(good, kind="linear"), dataclasses.replace(good, spec_hash="0" * 16),
                dataclasses.replace(good, weights=bad_shape), dataclasses.replace(good, weights=missing)):
        with pytest.raises(SnapshotError):
            model.load(bad)
    assert torch.equal(model.step(*starts(3)).state, before)


def test_no_step_before_the_first_fit():
    with pytest.raises(DataError, match="not been fitted"):
        small().step(*starts(3))


def test_too_little_data_is_told_in_words():
    with pytest.raises(DataError, match="too few"):
        small().fit(data(1), np.random.default_rng(0))


@pytest.mark.parametrize("straight", [False, True])
def test_new_statistics_leave_the_function_as_it_was(straight):
    model = fitted(linear=straight, friction=0.3)
    state, action = starts(3)
    before = model.predict(state, action)
    wider = data(500, seed=8)
    wider = Sequences(wider.state * 3, wider.action, wider.start)
    model._renormalise(Normaliser.of(model.encoding.with_mirror_images(wider), model.encoding), np.random.default_rng(0))
    model.prepare()
    after = model.predict(state, action)
    torch.testing.assert_close(after.mean, before.mean, rtol=1e-4, atol=1e-4)


def test_sampling_has_the_predicted_spread():
    model = fitted()
    state, action = starts(3, count=1)
    many, commands = state.expand(3, 20_000, 4), action.expand(20_000, 1)
    drawn = model.step(many, commands, torch.Generator().manual_seed(0)).state
    told = model.predict(state, action)
    torch.testing.assert_close(drawn.std(1), told.std[:, 0], rtol=0.03, atol=1e-6)


def test_half_precision_stays_close():
    model = fitted()
    state, action = starts(3)
    exact = model.step(state, action).state
    model.prepare(torch.bfloat16)
    assert ((model.step(state, action).state - exact).abs() / model.scale()).max() < 0.05


@pytest.mark.parametrize("stretch", [1, 5])
def test_it_learns_and_refits_improve(stretch):
    model = small(stretch=stretch)
    rng, held = np.random.default_rng(0), data(200, stretch, seed=7)
    first = model.fit(data(1500, stretch), rng, epochs=8, holdout=held)
    second = model.fit(data(1500, stretch), rng, epochs=8, holdout=held)
    assert second["holdout_mse"] < 0.7 * first["holdout_mse"]
    assert model.version == 2


def test_a_budget_ends_a_fit():
    figures = small().fit(data(3000), np.random.default_rng(0), epochs=1000, budget_s=0.2)
    assert figures["fit_s"] < 2.0
    assert figures["epochs"] < 1000


def test_held_out_blocks_are_the_same_at_every_refit():
    some = data(1000)
    now, later = (division.split(Sequences(some.state[:n], some.action[:n], some.start[:n]), DT, 0.1)[1] for n in (500, 1000))
    assert np.array_equal(now.start, later.start[:len(now.start)])
    assert len(later) / 1000 == pytest.approx(0.1, abs=0.03)


def test_linear_model_finds_a_linear_system_exactly():
    rng = np.random.default_rng(0)
    a, b, c = rng.normal(size=(4, 4)) * 0.4, rng.normal(size=(4, 1)), rng.normal(size=4)
    state, action = rng.normal(size=(200, 4)), rng.normal(size=(200, 1, 1))
    model = linear.build(SPEC)
    model.fit(Sequences(np.stack([state, state @ a.T + action[:, 0] @ b.T + c], 1), action, np.arange(200.0)), rng)
    np.testing.assert_allclose(model._matrix.numpy(), np.vstack([a.T, b.T]), atol=1e-6)
    np.testing.assert_allclose(model._offset.numpy(), c, atol=1e-6)
    other = linear.build(SPEC)
    other.load(model.snapshot())
    assert torch.equal(other.step(*starts(1)).state, model.step(*starts(1)).state)


def test_stretches_are_drawn_as_often_as_their_weights_say_and_mirror_images_like_their_originals():
    weights = np.array([1.0, 3.0, 0.0, 4.0])
    drawn = division.bootstrap(np.random.default_rng(0), 2000, 8, weights)
    shares = np.bincount(drawn.ravel(), minlength=8) / drawn.size
    np.testing.assert_allclose(shares, np.tile(weights, 2) / 16, atol=0.01)
    assert drawn.shape == (2000, 8)


def test_a_weight_of_two_in_least_squares_is_a_row_twice():
    some = data(60)
    twice = Sequences.join([some, some.select(np.arange(60) < 20)])
    weighted, repeated = linear.build(SPEC, linear.Options(ridge=0.0)), linear.build(SPEC, linear.Options(ridge=0.0))
    weighted.fit(some, np.random.default_rng(0), weights=np.where(np.arange(60) < 20, 2.0, 1.0))
    repeated.fit(twice, np.random.default_rng(0))
    state, action = starts(1)
    torch.testing.assert_close(weighted.step(state, action).state, repeated.step(state, action).state, rtol=1e-5, atol=1e-5)
