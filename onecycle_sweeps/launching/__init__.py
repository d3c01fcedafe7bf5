"""Where trials run: the commands, the queue and workers of this machine, slurm/ for a cluster, and the doctor."""
