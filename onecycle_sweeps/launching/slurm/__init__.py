"""Sweeps as jobs of a SLURM cluster: their submission, their status, and the program that runs on a node."""
