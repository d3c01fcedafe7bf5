"""Loaders of raw data, one file per family; each is named by `_target_` in conf/data and returns a `Source`."""
