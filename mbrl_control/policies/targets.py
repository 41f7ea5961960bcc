"""What a critic is to learn from rewards, discounts and values along trajectories, and how returns are scaled. Time is the first axis.

`discount[t]` is what the value after step t is worth at step t: gamma where the task goes on, 0 where it ended (never where it was cut
by a time limit). It multiplies everything after the step, so nothing is ever gained after an end.
"""

from __future__ import annotations

import torch


def discounts(terminated: torch.Tensor, gamma: float) -> torch.Tensor:
    """[T, ...] gamma (1 - terminated): where the task ended, nothing follows. Truncation must not be told as termination."""
    return gamma * (1 - terminated.float())


def td0(reward: torch.Tensor, discount: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
    """[...] reward + discount · value of what follows (Sutton and Barto 2018, equation 6.2)."""
    return torch.addcmul(reward, discount, following)


def n_step(reward: torch.Tensor, discount: torch.Tensor, value: torch.Tensor, n: int) -> torch.Tensor:
    """Returns over n steps and the value after them (Sutton and Barto 2018, equation 7.1).

    Args:
        reward: [T, ...] of each step.
        discount: [T, ...] after each step.
        value: [T + 1, ...] of each state.
        n: steps, at least 1; fewer where the trajectory is over before.

    Returns:
        [T, ...].
    """
    steps = len(reward)
    total, passed = torch.zeros_like(reward), torch.ones_like(reward)
    for k in range(min(n, steps)):
        total[:steps - k] += passed[:steps - k] * reward[k:]
        passed[:steps - k] *= discount[k:]
    last = torch.arange(steps).add(n).clamp(max=steps)
    return total + passed * value[last]


def lambda_return(reward: torch.Tensor, discount: torch.Tensor, value: torch.Tensor, lam: float | torch.Tensor) -> torch.Tensor:
    """Mean of all n-step returns, weighted by (1 - lambda) lambda^(n-1) (Sutton and Barto 2018, 12.3; Hafner et al. 2020, equation 6).

    Args:
        reward: [T, ...] of each step.
        discount: [T, ...] after each step.
        value: [T + 1, ...] of each state; the last is all that stands for what comes after the trajectory.
        lam: lambda, or [T, ...] of them: 0 after a step whose following row is of another episode, so that only `value` is used there.

    Returns:
        [T, ...]; the gradient flows through all three.
    """
    now = reward + discount * (1 - lam) * value[1:]
    carried = (discount * lam).unbind(0)
    returns = [value[-1]]
    for here, share in zip(reversed(now.unbind(0)), reversed(carried), strict=True):
        returns.append(torch.addcmul(here, share, returns[-1]))
    return torch.stack(returns[:0:-1])


def weights(discount: torch.Tensor) -> torch.Tensor:
    """[T, ...] product of the discounts before each step: how much a step of an imagined trajectory is still real. The first is 1."""
    return torch.cat([torch.ones_like(discount[:1]), discount[:-1]]).cumprod(0)


class ReturnScale:
    """The range of returns, from their 5th to their 95th percentile, averaged over updates (Hafner et al. 2023, "Actor learning").

    Small ranges are not blown up: where rewards are sparse that would amplify noise.

    Args:
        rate: of the exponential average, per update; it starts from 0.
        least: what the scale is at least.
    """

    def __init__(self, rate: float = 0.01, least: float = 1.0) -> None:
        self.rate, self.least = rate, least
        self.range = torch.zeros(1)

    def update(self, returns: torch.Tensor) -> torch.Tensor:
        """Take in a batch of returns [...]; gives the scale [], at least `least`."""
        low, high = returns.detach().flatten().quantile(torch.tensor([0.05, 0.95])).unbind(0)
        self.range.lerp_(high - low, self.rate)
        return self.scale()

    def scale(self) -> torch.Tensor:
        """[] what advantages are divided by."""
        return self.range[0].clamp(min=self.least)
