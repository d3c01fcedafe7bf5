"""The part of onecycle_sweeps that Hydra finds by its plugin namespace."""
