import numpy as np
import pytest

from mbrl_calibration import signals
from mbrl_calibration.residuals import whiteness
from mbrl_calibration.runs import Run
from mbrl_control.errors import DataError

PERIOD = 0.002
TIME = np.arange(5000) * PERIOD


def sine(hz: float) -> np.ndarray:
    return np.sin(2 * np.pi * hz * TIME)


@pytest.mark.parametrize("hz", [1.0, 5.0, 10.0, 20.0])
def test_the_low_pass_has_no_phase_and_the_gain_of_two_butterworth_passes(hz):
    inside = slice(1000, -1000)
    passed = signals.low_pass(sine(hz)[:, None], PERIOD, 10.0)[inside, 0]
    wave = np.exp(2j * np.pi * hz * TIME[inside])
    response = 2 * np.mean(passed * np.conj(wave)) * 1j
    # The bilinear transform warps frequencies by tan, which the design makes up for at the cut-off alone.
    warped = np.tan(np.pi * hz * PERIOD) / np.tan(np.pi * 10.0 * PERIOD)
    assert abs(response) == pytest.approx(1 / (1 + warped ** (2 * signals.ORDER)), rel=2e-3)
    assert np.angle(response) == pytest.approx(0.0, abs=2e-3)


def test_a_cut_off_beyond_half_the_rate_does_nothing():
    values = sine(3.0)[:, None]
    assert signals.low_pass(values, PERIOD, 250.0) is values


def test_lone_spikes_go_and_steps_and_noise_stay():
    rng = np.random.default_rng(0)
    clean = np.where(TIME < 5, 0.0, 1.0) + 0.01 * rng.standard_normal(len(TIME))
    spiked = clean.copy()
    spiked[[500, 1500, 3500]] += 3.0
    out = signals.despike(spiked[:, None])[:, 0]
    assert np.abs(out[[500, 1500, 3500]] - np.round(clean[[500, 1500, 3500]])).max() < 0.05
    others = np.setdiff1d(np.arange(len(TIME)), [500, 1500, 3500])
    assert (out[others] == spiked[others]).mean() > 0.999


def test_a_coarse_sensor_that_flickers_is_left_alone():
    rng = np.random.default_rng(0)
    coarse = 0.1 * np.round(10 * (0.02 * rng.standard_normal(len(TIME)) + 0.3 * sine(0.3)))
    assert (signals.despike(coarse[:, None])[:, 0] == coarse).all()


def test_commands_on_the_grid_are_means_of_what_was_in_force():
    time = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    run = Run("r", time, np.zeros((6, 1)), np.array([[0.0], [1.0], [2.0], [3.0], [4.0], [5.0]]), np.full((6, 1), np.nan))
    grid = signals.even(run, 0.1, np.array([0.05]))
    # At t the command sent 0.05 earlier counts; the cell around t = 0.2 is 0.15 to 0.25, in which the command of 0.1 to 0.2 acts.
    np.testing.assert_allclose(grid.time[:3], [0.1, 0.2, 0.3])
    np.testing.assert_allclose(grid.command[:3, 0], [0.0, 1.0, 2.0], atol=1e-9)


def test_a_run_that_is_too_short_is_told():
    run = Run("short", np.array([0.0, 0.1]), np.zeros((2, 1)), np.zeros((2, 1)), np.full((2, 1), np.nan))
    with pytest.raises(DataError, match=r"short: 0.1 s are too short for steps of 0.1 s"):
        signals.even(run, 0.1, np.zeros(1))


def test_white_residuals_are_white_and_others_have_their_correlation_time():
    rng, rho = np.random.default_rng(3), 0.8
    noise = rng.standard_normal((50, 400))
    assert whiteness(noise, 0.01).white
    assert whiteness(noise, 0.01).time_s == pytest.approx(0.01, rel=0.1)
    coloured = noise.copy()
    for k in range(1, 400):
        coloured[:, k] = rho * coloured[:, k - 1] + np.sqrt(1 - rho**2) * noise[:, k]
    found = whiteness(coloured, 0.01, lags=60)
    assert not found.white
    assert found.correlation[:3] == pytest.approx([rho, rho**2, rho**3], abs=0.03)
    assert found.time_s == pytest.approx(0.01 * (1 + rho) / (1 - rho), rel=0.15)
