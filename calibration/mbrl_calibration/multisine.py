"""Multisines: flat spectra in a band, small peaks, and no line of one command in another's."""

from __future__ import annotations

import math

import numpy as np

from mbrl_control.errors import UserError
from mbrl_control.robot import RobotSpec

DRAWS = 50
MOST_LINES = 40
TAPER_S = 0.5


def crest_factor(values: np.ndarray) -> float:
    """Greatest deviation from the mean over the root of its mean square: 1.414 for a sine, 1 for a square wave."""
    moved = values - values.mean()
    size = math.sqrt(float((moved**2).mean()))
    return float(np.abs(moved).max() / size) if size else math.nan


def band_of(spec: RobotSpec, seconds: float) -> tuple[float, float]:
    """The band that a robot's model is to know, Hz: to half of what its model step can tell, and a twentieth of it."""
    high = 0.25 / spec.model_dt
    return max(high / 20, 1 / seconds), high


def window(time: np.ndarray) -> np.ndarray:
    """[T] from 0 to 1 at the start and back at the end, with raised cosines."""
    length = time[-1] - time[0] if len(time) > 1 else 0.0
    edge = max(min(TAPER_S, 0.1 * length), 1e-9)
    near = np.clip(np.minimum(time - time[0], time[-1] - time) / edge, 0.0, 1.0)
    return np.asarray(0.5 - 0.5 * np.cos(np.pi * near))


def lines(seconds: float, band_hz: tuple[float, float], axes: int) -> list[np.ndarray]:
    """Frequencies of each command's sines, Hz: multiples of 1 / seconds within the band, dealt out in turn, so that their effects can be
    told apart (Pintelon and Schoukens, System Identification, section 2.7).

    Raises:
        UserError: the band holds fewer lines than there are commands.
    """
    low, high = band_hz
    if not 0 < low < high:
        raise UserError(f"band = [{low:g}, {high:g}] Hz is empty; the first number must be above 0 and below the second")
    first, last = math.ceil(low * seconds - 1e-9), math.floor(high * seconds + 1e-9)
    found = [np.arange(max(first, 1) + a, last + 1, axes) / seconds for a in range(axes)]
    if any(not len(own) for own in found):
        count = max(last - max(first, 1) + 1, 0)
        raise UserError(f"{seconds:g} s and a band of {low:g} to {high:g} Hz hold {count} frequencies for {axes} commands; excite longer "
                        "or widen the band")
    # Evenly: Schroeder's phases keep peaks small only for lines equally far apart.
    return [own[:: math.ceil(len(own) / MOST_LINES)] for own in found]


def phases(count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Schroeder's phases, -pi k (k - 1) / K (IEEE Transactions on Information Theory 1970), and random ones, [K] each."""
    k = np.arange(1, count + 1)
    return [-np.pi * k * (k - 1) / count, *rng.uniform(0, 2 * np.pi, (DRAWS, count))]


def multisine(time: np.ndarray, frequencies: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[T] sum of equal sines, with the phases, of those tried, that give the least crest factor; its peak is 1.

    Args:
        time: [T] s.
        frequencies: [K] Hz.
        rng: of the phases.
    """
    later = rng.uniform(0, time[-1] - time[0])  # turns the whole wave around, so that designs differ where Schroeder's phases are best
    waves = [np.cos(2 * np.pi * np.outer(time + later, frequencies) + phase).sum(axis=1) for phase in phases(len(frequencies), rng)]
    best = min(waves, key=crest_factor)
    return np.asarray(best / np.abs(best).max())
