"""Code of a user's that reads its environment and is called back by Hydra: what it saw is in the file `seen`."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from hydra.experimental.callback import Callback
from omegaconf import OmegaConf

from onecycle_sweeps.images import Source
from onecycle_sweeps.models.simple_cnn import SimpleCNN
from onecycle_sweeps.sources.digits import load

AT_IMPORT = os.environ.get("SHADE")


def note(*words: Any) -> None:
    """Write down what happens, in which process and in which shade."""
    with Path("seen").open("a") as file:
        print(*words, os.environ.get("SHADE"), AT_IMPORT, os.getpid(), file=file)


def seen(folder: Path) -> list[list[str]]:
    """What was written down in a folder."""
    return [line.split() for line in (folder / "seen").read_text().splitlines()]


class Net(SimpleCNN):
    """A net that notes when it is built."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        note("net")
        super().__init__(in_channels, num_classes, (4,))


class Noting(Callback):
    """Notes what it is told."""

    def on_multirun_start(self, config: Any, **_: Any) -> None:
        note("multirun")

    def on_job_start(self, config: Any, **_: Any) -> None:
        note("start", OmegaConf.select(config, "hydra.job.num"), config.max_lr, config.hydra.runtime.output_dir)

    def on_job_end(self, config: Any, job_return: Any, **_: Any) -> None:
        note("end", OmegaConf.select(config, "hydra.job.num"), job_return.status.name, job_return._return_value)


def half() -> Source:
    """The digits, or half of them in the shade."""
    source = load()
    assert isinstance(source.train_images, np.ndarray)
    count = 700 if os.environ.get("SHADE") == "dark" else 1400
    return Source(
        source.train_images[:count],
        source.train_labels[:count],
        source.test_images,
        source.test_labels,
        source.class_names,
    )
