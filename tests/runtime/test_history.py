"""What happened, pieced together from requests: the same stretches as from a log of it."""

from __future__ import annotations

import numpy as np
import pytest
from asking import Cart, spec_of

from mbrl_control.data.episodes import Episode
from mbrl_control.data.sequences import sequences
from mbrl_control.runtime.history import History

DELAYED = spec_of()
DELAYED = DELAYED.model_copy(update={"command": [DELAYED.command[0].model_copy(update={"delay_s": 0.05})]})


def logged(requests, cart):
    """The log of the same time: what was really sent."""
    time = np.array([r.state_time for r in requests])
    return Episode(time, np.array([r.state for r in requests]), np.array([cart.push(t) for t in time])[:, None])


def fed(spec, count, seconds=100.0, skip=()):
    history, cart, all_of_it = History(spec, seconds), Cart(), []
    for k in range(count):
        request = cart.request()
        all_of_it.append(request)
        if k not in skip:
            history.add(request)
    return history, logged(all_of_it, cart)


@pytest.mark.parametrize("spec", [spec_of(), DELAYED], ids=["prompt", "delayed"])
@pytest.mark.parametrize("steps", [1, 10])
def test_stretches_are_those_of_a_log(spec, steps):
    history, episode = fed(spec, 120)
    found, wanted = history.stretches(steps, 1000), sequences(episode, spec, steps)
    np.testing.assert_allclose(found.start, wanted.start, atol=1e-9)
    np.testing.assert_allclose(found.state, wanted.state, atol=1e-9)
    np.testing.assert_allclose(found.action, wanted.action, atol=1e-9)
    few = history.stretches(steps, 7)
    assert len(few) == 7
    assert (few.start[0], few.start[-1]) == (found.start[0], found.start[-1])


def test_the_latest_step_ends_with_the_newest_state():
    history, episode = fed(DELAYED, 120)
    found, wanted = history.latest(), sequences(episode, DELAYED)
    np.testing.assert_allclose(found.state, wanted.state[-1:], atol=1e-9)
    np.testing.assert_allclose(found.action, wanted.action[-1:], atol=1e-9)


def test_nothing_is_known_before_a_whole_step_with_its_commands():
    for count in range(6):
        history, _ = fed(DELAYED, count)  # the step takes 0.04 s and its commands begin 0.05 s before it
        assert len(history.latest()) == len(history.stretches(1, 9)) == 0
    assert len(fed(DELAYED, 6)[0].latest()) == 1


def test_it_keeps_so_many_seconds_and_no_more():
    history, _ = fed(spec_of(), 500, seconds=2.0)
    starts = history.stretches(1, 1000).start
    assert starts[0] == pytest.approx(499 * 0.02 - 2.0, abs=0.021)
    assert starts[-1] == pytest.approx(499 * 0.02 - 0.04)


def test_nothing_is_made_up_across_requests_that_did_not_come():
    history, _ = fed(spec_of(), 100, skip=(50,))
    missing = 50 * 0.02
    for steps in (1, 5):
        starts = history.stretches(steps, 1000).start
        assert len(starts)
        assert not ((starts < missing - 1e-9) & (starts + steps * 0.04 > missing + 1e-9)).any()
        assert (starts < missing).any()
        assert (starts > missing).any()
    assert not len(fed(spec_of(), 52, skip=(50,))[0].latest())


def test_a_new_episode_or_a_clock_that_went_back_begins_a_new_history():
    history, cart = History(spec_of(), 10.0), Cart()
    for _ in range(60):
        history.add(cart.request())
    cart.restart()
    history.add(cart.request())
    assert not len(history.stretches(1, 9))
    for _ in range(30):
        history.add(cart.request())
    assert history.stretches(1, 100).start[0] == pytest.approx(60 * 0.02)
    history.add(Cart().request())
    assert not len(history.stretches(1, 9))


def test_a_state_that_came_twice_counts_once():
    history, cart = History(spec_of(), 10.0), Cart()
    for _ in range(20):
        request = cart.request()
        history.add(request)
        history.add(request)
    assert len(history.stretches(1, 100)) == 18


@pytest.mark.parametrize("spec", [spec_of(), DELAYED], ids=["prompt", "delayed"])
def test_steps_that_lead_to_a_state_to_come_are_those_that_the_log_will_hold(spec):
    history, cart = History(spec, 100.0), Cart()
    requests = [cart.request() for _ in range(61)]
    for request in requests[:60]:
        history.add(request)
    to_come = requests[60]
    found = history.leading_to(to_come.state_time, to_come.state, 5)
    episode = logged(requests, cart)
    wanted = sequences(Episode(episode.time, episode.state, np.append(episode.action[:-1], [[9.0]], axis=0)), spec, 5)  # the last: expected
    np.testing.assert_allclose(found.start, wanted.start[-1:], atol=1e-9)
    np.testing.assert_allclose(found.state, wanted.state[-1:], atol=1e-9)
    np.testing.assert_allclose(found.action, wanted.action[-1:], atol=1e-9)


def test_so_many_steps_lead_to_a_state_as_are_known():
    state, spec = np.array([1.0, 2.0]), spec_of()
    assert not len(History(spec, 10.0).leading_to(1.0, state, 8)), "nothing is known"
    lengths = []
    for count in (1, 2, 3, 5, 60):
        history, cart = History(spec, 10.0), Cart()
        for _ in range(count):
            history.add(cart.request())
        found = history.leading_to(cart.now, state, 8)
        lengths.append(found.action.shape[1] if len(found) else 0)
        assert not len(found) or found.state[0, -1].tolist() == [1.0, 2.0]
    assert lengths == [0, 1, 1, 2, 8], "a model step is two ticks"
    history = fed(spec, 60, skip=(55,))[0]
    assert history.leading_to(60 * 0.02, state, 8).action.shape[1] == 2, "since the request that did not come"
