"""Whether the places that a sweep writes to can be used from this machine: its folders and its tracker."""

import os
import shutil
from pathlib import Path
from tempfile import TemporaryFile
from urllib.parse import urlsplit

from onecycle_sweeps import files, tracking
from onecycle_sweeps.credentials import address
from onecycle_sweeps.launching.finding import Finding, fails, ok

# File systems that several machines mount; a FUSE one says its name after a dot.
SHARED = (
    "nfs",
    "lustre",
    "gpfs",
    "beegfs",
    "ceph",
    "gluster",
    "cifs",
    "smb",
    "afs",
    "weka",
    "panfs",
    "orangefs",
    "pvfs",
)
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def runs_dir(folder: Path, *, on_nodes: bool) -> Finding:
    """Whether trials can be written to a folder from here, and whether other machines may see it."""
    about = "runs_dir"
    try:
        place = _try_writing(folder)
    except files.NoLocks as error:
        return fails(about, str(error))
    except OSError as error:
        return fails(about, f"{folder} cannot be written to ({error.strerror}): take another by runs_dir=...")
    line = f"{folder} can be written to, with {shutil.disk_usage(place).free / 1e9:.0f} GB free"
    if not on_nodes:
        return ok(about, line)
    kind = files.file_system(place)
    if kind.removeprefix("fuse.").startswith(SHARED):
        return ok(about, f"{line}, on {kind}, which machines share")
    return ok(about, f"{line}; warning: {kind} looks like this machine's own, the nodes must see it too (try --probe)")


def tracker(uri: str, *, on_nodes: bool = False) -> Finding:
    """Whether a store can be used from here; a server is asked something that its host check would refuse."""
    about = "tracking"
    try:
        tracking.check_uri(uri)
    except ValueError as error:
        return fails(about, str(error))
    if file := tracking.database_file(uri):
        try:
            _try_writing(file.parent)
        except files.NoLocks as error:
            return fails(about, str(error))
        except OSError as error:
            return fails(about, f"{file.parent} cannot be written to ({error.strerror}): take another tracking.uri=...")
        return ok(about, f"{address(uri)} can be written to from here, which is where it is filled")
    try:
        tracking.ping(uri)
    except tracking.StoreUnreachable as error:
        return fails(about, f"{error}: {_advice(str(error), uri)}")
    if on_nodes and urlsplit(uri).hostname in LOOPBACK:
        return ok(
            about, f"{address(uri)} answers here; warning: on a node that address is the node's own (try --probe)"
        )
    return ok(about, f"{address(uri)} answers")


def _try_writing(folder: Path) -> Path:
    """Write to a folder, or to the nearest one above it that is there; returns that one. Raises OSError."""
    place = next(path for path in (folder, *folder.parents) if path.exists())
    with TemporaryFile(dir=place) as file:
        file.write(b"onecycle")
        file.flush()
        os.fsync(file.fileno())
    files.check_locks(place)
    return place


def _advice(error: str, uri: str) -> str:
    """What to do about a store that does not answer as it should."""
    if "error code 403" in error:
        name = urlsplit(uri).netloc.rpartition("@")[2]
        return (
            "its host check, or a proxy, refuses the request. Start the server with "
            f"MLFLOW_SERVER_ALLOWED_HOSTS={name},localhost:* and every other name that it is called by"
        )
    if "error code 401" in error:
        return "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or ~/.mlflow/credentials (docker/README.md)"
    return "start it, or name another by tracking.uri=..."
