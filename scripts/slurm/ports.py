"""Blocks of ports: one cluster claims one as long as it is up, for a daemon that is started anew needs its old port."""

import os
import random
import socket
import tempfile
from pathlib import Path

CLAIMS = Path(tempfile.gettempdir()) / f"slurm-cluster-ports-{os.getuid()}"
SIZE = 32
# Below the ports that Linux gives to outgoing connections.
BLOCKS = range(12000, 32000, SIZE)


def claim(folder: Path) -> int:
    """The first port of a free block, which is the folder's until it is released."""
    CLAIMS.mkdir(exist_ok=True)
    for first in random.sample(BLOCKS, len(BLOCKS)):
        link = CLAIMS / str(first)
        if link.is_symlink() and not link.exists():
            link.unlink(missing_ok=True)
        try:
            link.symlink_to(folder)
        except FileExistsError:
            continue
        if all(_is_free(port) for port in range(first, first + SIZE)):
            return first
        link.unlink()
    raise SystemExit(f"no {SIZE} ports in a row are free between {BLOCKS.start} and {BLOCKS.stop}")


def release(folder: Path) -> None:
    """Give back what a folder has claimed."""
    for link in CLAIMS.glob("*"):
        if os.readlink(link) == str(folder):
            link.unlink()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
