"""Model-predictive control on a model that the robot learns while it runs."""

__version__ = "0.1.0"
