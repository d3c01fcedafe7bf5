"""A drawing of each policy of conf/policy/: its learning rate and its momentum over a run."""

import io
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from illustrations import screenshots
from onecycle_sweeps.config import nodes
from onecycle_sweeps.policies import Policy
from onecycle_sweeps.report import canvas

CONF = Path(__file__).resolve().parents[2] / "conf"
POLICIES = tuple(sorted(path.stem for path in (CONF / "policy").glob("*.yaml")))
STEPS_PER_EPOCH, EPOCHS = 100, 10
# What the optimizer has where a policy leaves the momentum alone.
MOMENTUM = 0.9
SIZE, DPI, FEW_COLOURS = (7.0, 1.9), 130, 24


def made(name: str) -> Policy:
    """The policy of that name by its defaults, with max_lr 1, in a run of 10 epochs of 100 steps."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("config", [f"policy={name}", "max_lr=1", f"epochs={EPOCHS}"])
    config: Any = OmegaConf.to_container(composed, resolve=True)
    return nodes.policy(config, 1.0, STEPS_PER_EPOCH)


def draw(name: str, path: Path) -> None:
    """Draw a policy's rate and momentum side by side, on axes that are the same for all policies."""
    steps = range(STEPS_PER_EPOCH * EPOCHS)
    policy = made(name)
    values = [policy(step) for step in steps]
    momenta = [MOMENTUM if value.momentum is None else value.momentum for value in values]
    drawing = canvas.blank(*SIZE)
    for place, (label, series, limits) in enumerate(
        [("rate / max_lr", [v.lr for v in values], (-0.04, 1.08)), ("momentum", momenta, (0.78, 0.97))]
    ):
        axes = canvas.new_axes(drawing)
        axes.set_position((0.085 + 0.5 * place, 0.24, 0.39, 0.7))
        axes.plot([step / STEPS_PER_EPOCH for step in steps], series, color=canvas.COLOURS[place], linewidth=1.8)
        axes.set(xlabel="epoch", ylabel=label, xlim=(0, EPOCHS), ylim=limits)
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png", dpi=DPI, facecolor="white")
    screenshots.save(buffer.getvalue(), path, FEW_COLOURS)
