"""Coloured noise for action sequences, drawn once: no random numbers and no Fourier transform in the planning loop."""

from __future__ import annotations

import numpy as np
import torch

# A prime, so that every iteration of a plan sees every set in time, whatever the number of iterations.
MAX_SETS = 31
MIN_SETS = 3
MAX_NUMBERS = 8_000_000


def colour_factor(length: int, beta: float) -> np.ndarray:
    """[L, L] matrix F with F @ white ~ noise whose spectral density falls as f^-beta (Pinneri et al. 2020, section 3.1).

    The covariance is that of a stretch of a sequence of four times the length, so that the last action is not tied to the
    first as it is when the noise is generated circularly at its own length. Every step has unit variance.

    Args:
        length: L steps.
        beta: 0 white, 2 a random walk's colour.
    """
    if beta == 0 or length == 1:
        return np.eye(length)
    span = 4 * length
    frequency = np.fft.rfftfreq(span)
    frequency[0] = frequency[1]
    power = frequency**-beta
    covariance = np.fft.irfft(power, span)[:length]
    toeplitz = covariance[np.abs(np.arange(length)[:, None] - np.arange(length)[None, :])] / covariance[0]
    # Smooth noise has near-singular covariance; the jitter keeps the factorisation from failing and is too small to matter.
    root: np.ndarray = np.linalg.cholesky(toeplitz + 1e-9 * np.eye(length))
    return root


def noise_bank(rows: int, length: int, axes: int, beta: float, seed: int) -> torch.Tensor:
    """[sets, rows, length, axes] coloured noise, unit variance, float32; every odd row mirrors the one before it.

    Mirrored pairs have exactly zero mean, which halves the work of estimating the mean of a near-symmetric cost.
    Several sets, used in turn, keep the search from looking in the same directions at every plan.
    """
    sets = max(MIN_SETS, min(MAX_SETS, MAX_NUMBERS // (rows * length * axes)))
    rng = np.random.default_rng([seed, 0x5EED])
    white = rng.standard_normal((sets, (rows + 1) // 2, axes, length), dtype=np.float64)
    coloured = (white @ colour_factor(length, beta).T).swapaxes(-1, -2)
    both = np.empty((sets, 2 * coloured.shape[1], length, axes))
    both[:, 0::2], both[:, 1::2] = coloured, -coloured
    return torch.as_tensor(both[:, :rows], dtype=torch.float32).contiguous()
