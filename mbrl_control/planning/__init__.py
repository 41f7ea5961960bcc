"""What to do: sampling planners on one loop, their proposals, and rollouts."""
