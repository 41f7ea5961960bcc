"""The replay against what was put in, in plain Python."""

from __future__ import annotations

import numpy as np
import pytest

from mbrl_control.agents.base import Transition
from mbrl_control.data.replay import Batch, Replay
from mbrl_control.errors import DataError, SnapshotError


def fill(replay, lengths, image=False):
    """Episodes whose observations count 0, 1, 2, … through all of them; the last of each is terminated if its length is odd."""
    put, at = [], 0
    for length in lengths:
        for k in range(length):
            over = k == length - 1
            values = [np.full((3, 64, 64), n % 256, np.uint8) if image else np.array([n, -n], np.float32) for n in (at, at + 1)]
            put.append(Transition(values[0], np.array([at / 10], np.float32), float(at), values[1], over and length % 2 == 1,
                                  over and length % 2 == 0))
            replay.append(put[-1])
            at += 1
        at += 1
    return put


def rng():
    return np.random.default_rng(0)


def test_transitions_come_back_as_they_were_put_in_and_all_equally_often():
    replay = Replay(100, (2,), 1)
    put = fill(replay, [3, 1, 4, 5])
    batch = replay.sample(13_000, rng())
    counts = {}
    for n in range(len(batch)):
        one = next(t for t in put if t.observation[0] == batch.observation[n, 0])
        assert batch.following[n].tolist() == one.following.tolist()
        assert batch.action[n, 0] == one.action[0]
        assert (float(batch.reward[n]), float(batch.terminated[n])) == (one.reward, float(one.terminated))
        counts[one.reward] = counts.get(one.reward, 0) + 1
    assert len(counts) == 13
    assert max(counts.values()) < 1150  # 1000 expected, deviation 31
    assert min(counts.values()) > 850
    everything = replay.all()
    assert everything.reward.tolist() == [t.reward for t in put]
    assert set(replay.observations(500, rng())[:, 0].tolist()) == {float(t.observation[0]) for t in put}


def test_a_full_ring_holds_the_newest_and_never_half_a_transition():
    replay = Replay(10, (2,), 1)
    put = fill(replay, [4, 3, 4, 3])
    assert (len(replay), replay.transitions) == (10, 14)
    # The episodes take 5 + 4 + 5 + 4 rows; the newest ten are the last of the second and all of the third and fourth.
    assert replay.all().reward.tolist() == [t.reward for t in put[7:]]
    assert set(replay.sample(300, rng()).reward.tolist()) == {t.reward for t in put[7:]}


def test_sequences_are_successive_rows_flagged_where_an_episode_begins():
    replay = Replay(100, (2,), 1)
    fill(replay, [3, 2, 4])
    drawn = replay.sequences(400, 5, rng())
    first_rows, ended = {0, 4, 7}, {3}
    for n in range(400):
        at = [int(v) for v in drawn.observation[n, :, 0]]
        assert at == list(range(at[0], at[0] + 5))
        assert drawn.is_first[n].tolist() == [1.0] + [float(v in first_rows) for v in at[1:]]
        assert drawn.terminated[n].tolist() == [float(v in ended) for v in at]
        wanted = [0.0 if v in first_rows else float(v - 1) for v in at]
        assert drawn.reward[n].tolist() == wanted
        np.testing.assert_allclose(drawn.action[n, :, 0], np.array(wanted) / 10, rtol=1e-6)
    assert {int(v) for v in drawn.observation[:, 0, 0]} == set(range(12 - 5 + 1))


def test_sequences_of_a_full_ring_do_not_run_over_its_seam():
    replay = Replay(10, (2,), 1)
    fill(replay, [4, 3, 4, 3])
    starts = replay.sequences(300, 4, rng()).observation[:, :, 0]
    assert (np.diff(starts.numpy(), axis=1) == 1).all()
    assert set(starts[:, 0].tolist()) == set(range(8, 15))


def test_images_stay_bytes():
    replay = Replay(20, (3, 64, 64), 1, np.uint8)
    fill(replay, [5], image=True)
    drawn = replay.sequences(2, 3, rng())
    assert drawn.observation.shape == (2, 3, 3, 64, 64)
    assert str(drawn.observation.dtype) == "torch.uint8"
    assert str(replay.sample(4, rng()).following.dtype) == "torch.uint8"


@pytest.mark.parametrize("capacity", [100, 10])
def test_what_was_saved_goes_on_with_the_same_draws(capacity):
    one, two = Replay(capacity, (2,), 1), Replay(capacity, (2,), 1)
    fill(one, [4, 3, 4, 3])
    two.load(one.save())
    for left, right in zip(vars(one.sample(50, rng())).values(), vars(two.sample(50, rng())).values(), strict=True):
        assert (left == right).all()
    fill(one, [3])
    fill(two, [3])
    assert one.all().reward.tolist() == two.all().reward.tolist()
    assert one.save()["truncated"].sum() == two.save()["truncated"].sum() > 0


def test_after_a_load_an_episode_begins_though_the_saved_one_was_open():
    replay, other = Replay(20, (2,), 1), Replay(20, (2,), 1)
    open_end = Transition(np.zeros(2), np.zeros(1), 1.0, np.ones(2), False, False)
    replay.append(open_end)
    other.load(replay.save())
    other.append(open_end)
    assert other.save()["first"].tolist() == [1, 0, 1, 0]


def test_what_does_not_fit_is_refused_and_changes_nothing():
    replay = Replay(20, (2,), 1)
    fill(replay, [3])
    saved = replay.save()
    for name, wrong in (("observation", np.zeros((4, 3), np.float32)), ("reward", np.zeros(4)), ("other", np.zeros(4)),
                        ("reward", np.zeros(3, np.float32))):
        with pytest.raises(SnapshotError):
            replay.load({**saved, name: wrong})
    with pytest.raises(SnapshotError):
        Replay(3, (2,), 1).load(saved)
    assert replay.all().reward.tolist() == [0.0, 1.0, 2.0]


def test_too_little_is_said():
    replay = Replay(20, (2,), 1)
    with pytest.raises(DataError, match="no transition"):
        replay.sample(1, rng())
    fill(replay, [2])
    with pytest.raises(DataError, match="3 observations; a sequence needs 4"):
        replay.sequences(1, 4, rng())


def test_batches_join_and_divide():
    replay = Replay(20, (2,), 1)
    fill(replay, [3])
    batch = replay.all()
    assert Batch.join([batch, batch.rows(slice(0, 1))]).reward.tolist() == [0.0, 1.0, 2.0, 0.0]
