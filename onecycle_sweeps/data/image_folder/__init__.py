"""Photographs in class folders: <path>/train/CLASS/* beside val/ or test/, or <path>/CLASS/*, in a folder or a .tar."""

from onecycle_sweeps.data.image_folder.loading import load as load
