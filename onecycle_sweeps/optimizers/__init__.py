"""Optimizers that torch lacks; only conf/ names them."""
