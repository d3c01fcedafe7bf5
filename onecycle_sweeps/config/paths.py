"""The paths that a user writes: `~` is a home folder, and a relative path starts in the working folder."""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from onecycle_sweeps import credentials
from onecycle_sweeps.config.schema import Config, ConfigError, node_of

# These are stored as absolute paths, because a job has a working folder of its own, and a sweep may be resumed from
# another one. data.path is relative to data.root.
PATHS = ("runs_dir", "data.root", "model.weights_file")
# `~` or `~user` where a path begins on a command line: Hydra's grammar allows it only in quotes.
TYPED_HOME = re.compile(r"(?:(?<=[=,\[])|(?<=:///))(~[\w.-]*)(?=[/,\]]|$)")


def expanded(path: str) -> str:
    """The path with `~` or `~user` replaced by the home folder; raises ValueError for an unknown user."""
    found = os.path.expanduser(path)
    if found.startswith("~"):
        user = found.partition("/")[0]
        raise ValueError(
            f"{path} begins with the home folder of a user who is unknown on this machine; "
            f"if {user} is a folder, write ./{user}"
        )
    return found


def absolute(path: str, cwd: Path) -> str:
    """The absolute form of a path that may be relative to `cwd`."""
    return str(cwd.absolute() / expanded(path))


def absolute_uri(uri: str, cwd: Path) -> str:
    """A store's URI with an absolute path if it is an sqlite database."""
    dialect, mark, path = uri.partition(":///")
    if not dialect.startswith("sqlite") or not mark or path.startswith(("/", ":")) or not path:
        return uri
    return f"{dialect}:///{os.path.normpath(absolute(path, cwd))}"


def with_homes(node: Any) -> Any:
    """A config node with the home folder in place of each `~/`, or `~user/` of a known user, that begins a text."""
    if isinstance(node, dict):
        return {key: with_homes(value) for key, value in node.items()}
    if isinstance(node, list):
        return [with_homes(value) for value in node]
    return os.path.expanduser(node) if isinstance(node, str) and node.startswith("~") and "/" in node else node


def typed_with_homes(arguments: Sequence[str]) -> list[str]:
    """A command's arguments with home folders in place of `~`, which a shell expands only in some arguments."""
    return [
        TYPED_HOME.sub(lambda found: os.path.expanduser(found[1]), argument)
        if "=" in argument
        # `~key` deletes a key, but never begins with `~/`.
        else (os.path.expanduser(argument) if argument.startswith("~/") else argument)
        for argument in arguments
    ]


def located(config: Config, cwd: Path) -> Config:
    """A plain config with absolute paths, relative ones starting in `cwd`, and without the password in its URI."""
    config = {
        key: with_homes(value) if isinstance(value, dict) and "_target_" in value else value
        for key, value in config.items()
    }
    for key in PATHS:
        node, leaf = node_of(config, key), key.rpartition(".")[2]
        # The check of the config reports a value that is not a text.
        if isinstance(value := node.get(leaf), str) and value.strip():
            node[leaf] = _made_absolute(key, value, absolute, cwd)
    match config:
        case {"tracking": {"uri": str(uri)}}:
            config["tracking"]["uri"] = credentials.move_to_environment(
                _made_absolute("tracking.uri", uri, absolute_uri, cwd)
            )
    return config


def moved(config: Config, before: Path, after: Path) -> Config:
    """A config with absolute paths, where each path that moved with the folder `before` begins with `after` instead."""
    config = {key: dict(value) if isinstance(value, dict) else value for key, value in config.items()}
    for key in PATHS:
        node, leaf = node_of(config, key), key.rpartition(".")[2]
        value = node.get(leaf)
        if isinstance(value, str) and not (path := before / value).exists() and path.is_relative_to(before):
            found = after / path.relative_to(before)
            node[leaf] = str(found) if found.exists() else value
    return config


def _made_absolute(key: str, value: str, locate: Callable[[str, Path], str], cwd: Path) -> str:
    try:
        return locate(value, cwd)
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from error
