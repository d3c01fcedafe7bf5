"""What the program is compared with, one file a peer."""

SGD_SETTINGS = {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-4}
