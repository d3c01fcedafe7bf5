"""Where trials run: a worker's side, the queue on this machine, and the command that drives them."""
