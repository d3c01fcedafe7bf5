"""Which learning-rate policy, and which maximum rate, is best for a model on its data: sweeps that answer it."""

__version__ = "0.2.0"
