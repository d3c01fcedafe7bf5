"""What a command line asks for, told before anything is imported: a verb, or workers on this machine; and conf/."""

from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
# A wheel carries conf/ inside the package; a checkout keeps it beside the package.
CONF = next(folder for folder in (HERE / "conf", HERE.parent / "conf") if folder.is_dir())
MULTIRUN = ("-m", "--multirun", "hydra.mode=MULTIRUN")


def is_verb(first: str) -> bool:
    """Whether a first argument is for the verbs: it is no override and no option of Hydra's."""
    return bool(first) and "=" not in first and not first.startswith(("-", "+", "~"))


def wants_workers(argv: Sequence[str]) -> bool:
    """Whether a command most likely needs workers here: a sweep whose launcher is not said to be another than local."""
    launchers = [argument.partition("=")[2] for argument in argv if argument.startswith("hydra/launcher=")]
    return any(argument in MULTIRUN for argument in argv) and all(name == "local" for name in launchers)
