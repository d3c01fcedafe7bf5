"""What has to be known of a command line before any library is imported: its verb, workers, and folders with code.

It imports the standard library only, so that every process of the program can start with it.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

HERE = Path(__file__).resolve().parent
# A wheel carries conf/ inside the package; a checkout keeps it beside the package.
CONF = next(folder for folder in (HERE / "conf", HERE.parent / "conf") if folder.is_dir())
SEARCHPATH = re.compile(r"\+{0,2}hydra\.searchpath=\[(.*)\]")
HELP, HELP_OPTIONS = "help", ("--help", "-h")
MULTIRUN = ("-m", "--multirun", "hydra.mode=MULTIRUN")


def is_verb(first: str) -> bool:
    """Whether a first argument is a verb: neither an override nor an option of Hydra's."""
    return bool(first) and "=" not in first and not first.startswith(("-", "+", "~"))


def wants_workers(argv: Sequence[str]) -> bool:
    """Whether a command probably needs workers here: it is a sweep, and no launcher but local was typed."""
    launchers = [argument.partition("=")[2] for argument in argv if argument.startswith("hydra/launcher=")]
    return any(argument in MULTIRUN for argument in argv) and all(name == "local" for name in launchers)


def add_code(argv: Sequence[str], cwd: Path) -> None:
    """Append the folders in which a command's config may find code to sys.path, after everything installed."""
    sys.path += [str(folder) for folder in _code_folders(argv, cwd) if str(folder) not in sys.path]


def asks_for_help(argv: Sequence[str]) -> bool:
    """Whether a command line asks for this program's help, and not for a verb's or Hydra's."""
    first = argv[0] if argv else ""
    if is_verb(first):
        return first == HELP and len(argv) == 1
    return any(word in HELP_OPTIONS for word in argv)


def config_folders(argv: Sequence[str], cwd: Path) -> list[Path]:
    """The folders of the user's configs that a command line names."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config-dir", "-cd")
    parser.add_argument("--config-path", "-cp")
    try:
        typed, rest = parser.parse_known_args(list(argv))
    except argparse.ArgumentError:
        return []
    found = (SEARCHPATH.fullmatch(argument) for argument in rest)
    searched = [entry.strip("'\" ") for match in found if match for entry in match[1].split(",")]
    files = [unquote(entry.removeprefix("file://")) for entry in searched if not entry.startswith("pkg:")]
    return [cwd / name for name in (typed.config_dir, typed.config_path, *files) if name]


def _code_folders(argv: Sequence[str], cwd: Path) -> list[Path]:
    """The folder in which a command was typed, the folders of the user's configs, and their groups that hold code."""
    configs = config_folders(argv, cwd)
    beside = dict.fromkeys(code.parent for folder in configs for code in sorted(folder.glob("*/*.py")))
    groups = [group for group in beside if any(group.glob("*.yaml")) and not (group / "__init__.py").exists()]
    return [cwd, *configs, *groups]
