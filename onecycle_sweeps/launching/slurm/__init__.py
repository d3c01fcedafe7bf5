"""Sweeps as jobs of a SLURM cluster: what is asked of it, what is known of the jobs, and what runs on a node."""
