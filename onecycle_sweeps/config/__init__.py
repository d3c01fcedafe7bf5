"""The config: schema (keys and their bounds), nodes (named code), paths, preset (published figures)."""
