"""Coloured noise for action sequences, drawn once: no random numbers and no Fourier transform in the planning loop."""

from __future__ import annotations

import numpy as np
import torch


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
    values, vectors = np.linalg.eigh(toeplitz)
    root: np.ndarray = vectors * np.sqrt(np.clip(values, 0, None))
    return root


def noise_bank(sets: int, rows: int, length: int, axes: int, beta: float, seed: int) -> torch.Tensor:
    """[sets, rows, length, axes] coloured noise, unit variance, float32; the second half of the rows mirrors the first.

    Mirrored pairs have exactly zero mean, which halves the work of estimating the mean of a near-symmetric cost.
    """
    rng = np.random.default_rng([seed, 0x5EED])
    white = rng.standard_normal((sets, (rows + 1) // 2, axes, length), dtype=np.float64)
    coloured = (white @ colour_factor(length, beta).T).swapaxes(-1, -2)
    both = np.empty((sets, 2 * coloured.shape[1], length, axes))
    both[:, 0::2], both[:, 1::2] = coloured, -coloured
    return torch.as_tensor(both[:, :rows], dtype=torch.float32).contiguous()
