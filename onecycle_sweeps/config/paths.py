"""The paths that a user names: `~` is a home folder, and a relative path starts in the working folder."""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from onecycle_sweeps import credentials
from onecycle_sweeps.config.schema import Config, ConfigError

# These are stored as absolute paths, because a job has a working folder of its own, and a sweep may be resumed from
# another one. data.path lies below data.root.
PATHS = (("runs_dir",), ("data", "root"), ("model", "weights_file"))
# `~` or `~user` where a path begins on a command line: Hydra's grammar does not allow it outside quotes.
TYPED_HOME = re.compile(r"(?:(?<=[=,\[])|(?<=:///))(~[\w.-]*)(?=[/,\]]|$)")


def expanded(path: str) -> str:
    """The path with the home folder for `~` or `~user`; raises ValueError if there is no such user."""
    found = os.path.expanduser(path)
    if found.startswith("~"):
        user = found.partition("/")[0]
        raise ValueError(
            f"{path} begins with the home folder of a user whom this machine does not know; "
            f"a folder of that name is written ./{user}"
        )
    return found


def absolute(path: str, cwd: Path) -> str:
    """The absolute path of one that is relative to `cwd`."""
    return str(cwd.absolute() / expanded(path))


def absolute_uri(uri: str, cwd: Path) -> str:
    """A store's URI in which the path of an sqlite database is absolute."""
    dialect, mark, path = uri.partition(":///")
    if not dialect.startswith("sqlite") or not mark or path.startswith(("/", ":")) or not path:
        return uri
    return f"{dialect}:///{os.path.normpath(absolute(path, cwd))}"


def with_homes(node: Any) -> Any:
    """A config node in which every text that begins with `~/`, or with `~user/` for a known user, is expanded."""
    if isinstance(node, dict):
        return {key: with_homes(value) for key, value in node.items()}
    if isinstance(node, list):
        return [with_homes(value) for value in node]
    return os.path.expanduser(node) if isinstance(node, str) and node.startswith("~") and "/" in node else node


def typed_with_homes(arguments: Sequence[str]) -> list[str]:
    """A command's arguments with home folders for `~`, which a shell expands in some arguments only."""
    return [
        TYPED_HOME.sub(lambda found: os.path.expanduser(found[1]), argument)
        if "=" in argument
        # `~key` deletes a key, but never begins with `~/`.
        else (os.path.expanduser(argument) if argument.startswith("~/") else argument)
        for argument in arguments
    ]


def located(config: Config, cwd: Path) -> Config:
    """A plain config whose relative paths, which start in `cwd`, are absolute, and whose URI has no password."""
    config = {
        key: with_homes(value) if isinstance(value, dict) and "_target_" in value else value
        for key, value in config.items()
    }
    for *parents, leaf in PATHS:
        node = _node(config, parents)
        # The check of the config reports what is no text.
        if isinstance(value := node.get(leaf), str) and value.strip():
            node[leaf] = _made_absolute(".".join((*parents, leaf)), value, absolute, cwd)
    match config:
        case {"tracking": {"uri": str(uri)}}:
            config["tracking"]["uri"] = credentials.move_to_environment(
                _made_absolute("tracking.uri", uri, absolute_uri, cwd)
            )
    return config


def moved(config: Config, before: Path, after: Path) -> Config:
    """A located config after the folder `before` was moved to `after`, with the paths that exist there only."""
    config = {key: dict(value) if isinstance(value, dict) else value for key, value in config.items()}
    for *parents, leaf in PATHS:
        node = _node(config, parents)
        value = node.get(leaf)
        if isinstance(value, str) and not (path := before / value).exists() and path.is_relative_to(before):
            found = after / path.relative_to(before)
            node[leaf] = str(found) if found.exists() else value
    return config


def _node(config: Config, parents: Sequence[str]) -> Config:
    node = config
    for parent in parents:
        node = found if isinstance(found := node.get(parent), dict) else {}
    return node


def _made_absolute(key: str, value: str, locate: Callable[[str, Path], str], cwd: Path) -> str:
    try:
        return locate(value, cwd)
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from error
