"""Blocks of ports: a cluster claims one for as long as it is up, because a restarted daemon needs its earlier port."""

import os
import random
import socket
import tempfile
from contextlib import suppress
from pathlib import Path

CLAIMS = Path(tempfile.gettempdir()) / f"slurm-cluster-ports-{os.getuid()}"
SIZE = 32
# Below the ports that Linux assigns to outgoing connections.
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
    """Release the block that a folder has claimed."""
    for link in CLAIMS.glob("*"):
        if os.readlink(link) == str(folder):
            link.unlink()


def _is_free(port: int) -> bool:
    with suppress(OSError), socket.create_server(("127.0.0.1", port)):
        return True
    return False
