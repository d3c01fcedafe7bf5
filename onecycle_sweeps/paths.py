"""Where the files lie that a user names: `~` is a home folder, and a relative path begins in the working folder."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# `~` or `~user` where a path begins on a command line: Hydra's grammar has no place for it outside quotes.
TYPED_HOME = re.compile(r"(?:(?<=[=,\[])|(?<=:///))(~[\w.-]*)(?=[/,\]]|$)")


def expanded(path: str) -> str:
    """The path with the home folder in the place of `~` or `~user`; raises ValueError where there is no such user."""
    found = os.path.expanduser(path)
    if found.startswith("~"):
        user = found.partition("/")[0]
        raise ValueError(
            f"{path} begins with the home folder of a user whom this machine does not know; "
            f"a folder of that name is written ./{user}"
        )
    return found


def absolute(path: str, cwd: Path) -> str:
    """The same place from every working folder, given as it is seen from `cwd`."""
    return str(cwd.absolute() / expanded(path))


def absolute_uri(uri: str, cwd: Path) -> str:
    """The same store from every working folder: the path of an sqlite database is made absolute."""
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
    """A command's arguments with home folders in the place of `~`, which a shell expands in some arguments alone."""
    return [
        TYPED_HOME.sub(lambda found: os.path.expanduser(found[1]), argument)
        if "=" in argument
        # No deletion of a key begins like this.
        else (os.path.expanduser(argument) if argument.startswith("~/") else argument)
        for argument in arguments
    ]
