"""Networks, one file per family; each is named by `_target_` in conf/model."""
