"""The benchmark: this program beside its peers, each part one file that `run`s and returns its tables."""
