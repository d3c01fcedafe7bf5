"""What made a result: versions, the git commit, and a hash of the code that a config names."""

import functools
import hashlib
import importlib.metadata
import importlib.util
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

PACKAGES = ("onecycle-sweeps", "torch", "torchvision", "timm")


def versions() -> dict[str, str]:
    """The installed versions of this package and of torch, without importing them."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def code_hashes(config: Any) -> dict[str, str]:
    """A hash of the module or package behind each `_target_` of a config; a library's version where it is installed."""
    return {target: _hash(target) for target in sorted(set(_targets(config)))}


def git_commit(folder: Path) -> str | None:
    """The commit that a folder's checkout is at, with "-dirty" behind it if files differ; None outside a checkout."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _targets(config: Any) -> Iterator[str]:
    if isinstance(config, dict):
        if isinstance(config.get("_target_"), str):
            yield config["_target_"]
        for value in config.values():
            yield from _targets(value)
    elif isinstance(config, list):
        for value in config:
            yield from _targets(value)


def _hash(target: str) -> str:
    top = target.partition(".")[0]
    spec = importlib.util.find_spec(top)
    if spec is None or spec.origin is None:
        return "not found"
    if "site-packages" in Path(spec.origin).parts:
        return _version(top)
    source = _source(target, Path(spec.origin))
    files = sorted(source.parent.glob("*.py")) if source.name == "__init__.py" else [source]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


@functools.cache
def _version(top: str) -> str:
    """The distribution that a top-level package comes with; asked once, since the answer takes most of a second."""
    with suppress(importlib.metadata.PackageNotFoundError):
        return f"{top} {importlib.metadata.version(top)}"
    for distribution in importlib.metadata.packages_distributions().get(top, []):
        return f"{distribution} {importlib.metadata.version(distribution)}"
    return "unknown version"


def _source(target: str, origin: Path) -> Path:
    """The file of the deepest module in a dotted name, found without importing its packages."""
    found = origin
    for name in target.split(".")[1:]:
        package = found.parent
        candidates = [package / f"{name}.py", package / name / "__init__.py"]
        deeper = next((path for path in candidates if found.name == "__init__.py" and path.is_file()), None)
        if deeper is None:
            break
        found = deeper
    return found
