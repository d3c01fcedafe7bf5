"""A few decoding processes that are given batches of photographs in turn, so that the next is ready when it is due."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np

from onecycle_sweeps import affinity
from onecycle_sweeps.data.image_folder.tree import Tree
from onecycle_sweeps.dataset import progress

PROGRAM = Path(__file__).with_name("decoding.py")
# Each takes about 30 MB; so many keep up with any disk.
MOST_PROCESSES = 16
# Of the images that cannot be read so many are named.
NAMED = 5


def images(tree: Tree, endings: tuple[str, ...]) -> set[str]:
    """The names of a tree's images: files whose names end as images' do, and others that Pillow finds to be some."""
    sure = {name for name in tree.files if name.lower().endswith(endings)}
    if others := [name for name in tree.files if name not in sure]:
        from onecycle_sweeps.data.image_folder import decoding

        with tree.archive() as archive, progress("looking into files of other names", len(others), "files") as count:
            for name in others:
                count(1)
                with suppress(OSError, ValueError), decoding.opened(tree.files[name], archive) as file:
                    if decoding.is_image(file):
                        sure.add(name)
    return sure


def read(
    tree: Tree, names: Sequence[str], size: int, batches: Iterable[np.ndarray], processes: int | None
) -> Iterator[np.ndarray]:
    """The decoded images, uint8 (n, 3, size, size), at each array of positions in `names` in turn.

    Raises ValueError that names the images which cannot be read: all of them where `batches` has an end to wait for,
    else those of the batch.
    """
    count = processes or min(affinity.processors(), MOST_PROCESSES)
    problems: list[str] = []
    with _decoders(tree, size, count) as decoders:
        shares = ([names[int(i)] for i in share] for batch in batches for share in np.array_split(batch, count))
        asked: deque[tuple[Decoder, list[str]]] = deque()
        for decoder, share in zip(decoders, shares, strict=False):
            asked.append(decoder.ask(share))
        while asked:
            whole = np.empty((sum(len(share) for _, share in islice(asked, count)), 3, size, size), np.uint8)
            start = 0
            for _ in range(count):
                decoder, share = asked.popleft()
                problems += decoder.answer(share, whole[start : start + len(share)])
                start += len(share)
                asked.extend(decoder.ask(following) for following in islice(shares, 1))
            if not problems:
                yield whole
            elif not isinstance(batches, Sized):
                break
    if problems:
        more = f"; and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
        few = "" if len(problems) == 1 else f"{len(problems)} images: "
        raise ValueError(f"cannot read {few}{'; '.join(problems[:NAMED])}{more}")


@dataclass(frozen=True)
class Decoder:
    """One decoding process; what it says of itself when it dies goes to `errors`."""

    tree: Tree
    process: subprocess.Popen[bytes]
    errors: IO[bytes]

    def ask(self, names: list[str]) -> tuple[Decoder, list[str]]:
        """Let the process decode the files of these names; returns both for the answer's turn."""
        assert self.process.stdin
        places = [self.tree.files[name] for name in names]
        try:
            self.process.stdin.write(json.dumps(places).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError as error:
            raise self._death() from error
        return self, names

    def answer(self, names: list[str], pixels: np.ndarray) -> list[str]:
        """Fill `pixels` with what was asked for; returns each file that cannot be read, with the reason."""
        stream = self.process.stdout
        assert isinstance(stream, io.BufferedReader)
        line = stream.readline()
        if not line or stream.readinto(pixels.reshape(-1).data) < pixels.size:
            raise self._death()
        return [f"{self.tree.path(names[number])}: {reason}" for number, reason in json.loads(line)]

    def _death(self) -> ValueError:
        code = self.process.wait()
        self.errors.seek(0)
        words = self.errors.read().decode(errors="replace").strip().splitlines()[-1:]
        killed = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"status {code}"
        hint = ", out of memory perhaps" if code == -signal.SIGKILL else ""
        return ValueError(": ".join([f"a decoding process ended with {killed}{hint}", *words]))


@contextmanager
def _decoders(tree: Tree, size: int, count: int) -> Iterator[Sequence[Decoder]]:
    """Start the processes, and end them when the caller leaves."""
    with ExitStack() as stack:
        errors = stack.enter_context(tempfile.TemporaryFile())
        archive = stack.enter_context(tree.archive())
        descriptors = () if archive is None else (archive,)
        # Without its own folder on the path, where a module might have the name of one that Pillow wants.
        command = [sys.executable, "-P", str(PROGRAM), str(size), *map(str, descriptors)]
        decoders = []
        for _ in range(count):
            # A session of its own: a Ctrl-C is this process's to answer.
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                pass_fds=descriptors,
                start_new_session=True,
            )
            stack.callback(_end, process)
            decoders.append(Decoder(tree, process, errors))
        yield decoders


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    # Closing flushes, to a process that may have died before.
    with suppress(BrokenPipeError), process:
        pass
