"""A command in a terminal of its own, recorded as an SVG that moves, and as the text that was left on the screen."""

import fcntl
import html
import os
import pty
import struct
import subprocess
import termios
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pyte

# Sizes in pixels: of a character, and of the margin around the screen.
WIDTH, HEIGHT, MARGIN, FONT = 7.83, 17, 14, 13
PAPER, INK = "#1b1f27", "#d7dae0"
COLOURS = {
    "black": "#5c6370",
    "red": "#ff7b72",
    "green": "#7ee787",
    "brown": "#e3b341",
    "blue": "#79c0ff",
    "magenta": "#d2a8ff",
    "cyan": "#56d4dd",
    "white": "#ffffff",
}
COLUMNS, LINES = 107, 36
# How long each screen is shown, the last one, and how many there are.
FRAME_SECONDS, LAST_SECONDS, MOST_FRAMES = 1.2, 8.0, 12
SHELL_PROMPT = "$ "

Row = tuple[tuple[str, str, bool], ...]


@dataclass(frozen=True)
class Recording:
    """The screens of a command, each as its rows of (text, colour, bold), with the seconds at which they were seen."""

    screens: tuple[tuple[float, tuple[Row, ...]], ...]

    @property
    def text(self) -> str:
        """The last screen as plain text."""
        rows = ["".join(text for text, _, _ in row).rstrip() for row in self.screens[-1][1]]
        return "\n".join(rows).strip("\n") + "\n"


def record(command: Sequence[str], typed: str, folder: Path, environment: Mapping[str, str]) -> Recording:
    """Run a command in a terminal, under a prompt at which `typed` stands.

    Raises RuntimeError with the last screen if it fails.
    """
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    stream.feed(f"{SHELL_PROMPT}{typed}\r\n".encode())
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    variables = {**environment, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LINES": str(LINES)}
    process = subprocess.Popen(
        command, cwd=folder, env=variables, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    began, screens = time.monotonic(), [(0.0, _rows(screen))]
    for piece in _output(ours):
        stream.feed(piece)
        seen = _rows(screen)
        if seen != screens[-1][1]:
            screens.append((time.monotonic() - began, seen))
    os.close(ours)
    made = Recording(tuple(screens))
    if process.wait():
        raise RuntimeError(f"{typed} ended with status {process.returncode}:\n{made.text}")
    return made


def svg(recording: Recording) -> str:
    """The screens after each other, the last one for longest; a reader who wants no motion sees the last alone."""
    screens = list(_few(recording.screens))
    total = FRAME_SECONDS * (len(screens) - 1) + LAST_SECONDS
    width, height = COLUMNS * WIDTH + 2 * MARGIN, LINES * HEIGHT + 2 * MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" '
        f'height="{height}" role="img">',
        "<title>A sweep in a terminal: its progress, and the table at its end</title>",
        f"<style>text{{font:{FONT}px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;"
        "white-space:pre}.b{font-weight:bold}",
        f"g{{visibility:hidden;animation:one {total}s step-end infinite}}",
        "g:last-of-type{visibility:visible;animation-name:last}",
        *(
            f"@keyframes {name}{{0%{{visibility:visible}}{100 * seconds / total:.3f}%,100%{{visibility:hidden}}}}"
            for name, seconds in (("one", FRAME_SECONDS), ("last", LAST_SECONDS))
        ),
        "@media(prefers-reduced-motion:reduce){g{animation:none!important}}</style>",
        f'<rect width="100%" height="100%" rx="8" fill="{PAPER}"/>',
    ]
    for number, rows in enumerate(screens):
        # As if the whole had begun long ago: a positive delay would show nothing at first.
        delay = FRAME_SECONDS * number - total
        parts.append(f'<g style="animation-delay:{delay:.1f}s" fill="{INK}">{"".join(_drawn(rows))}</g>')
    return "\n".join([*parts, "</svg>", ""])


def _output(terminal: int) -> Iterator[bytes]:
    """What a terminal shows, piece by piece, until nothing holds it any more."""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:
            return
        if not piece:
            return
        yield piece


def _rows(screen: pyte.Screen) -> tuple[Row, ...]:
    return tuple(_row(screen.buffer[line], screen.columns) for line in range(screen.lines))


def _row(characters: Mapping[int, pyte.screens.Char], columns: int) -> Row:
    """The pieces of a row that look alike, without the spaces at its end."""
    cells = [characters[column] for column in range(columns)]
    while cells and cells[-1].data == " ":
        cells.pop()
    alike = groupby(cells, key=lambda cell: (cell.fg, cell.bold))
    return tuple(("".join(cell.data for cell in group), colour, bold) for (colour, bold), group in alike)


def _few(screens: Sequence[tuple[float, tuple[Row, ...]]]) -> Iterable[tuple[Row, ...]]:
    """Screens that are about equally far apart in time, with the first and the last."""
    end = screens[-1][0]
    moments = [end * number / (MOST_FRAMES - 1) for number in range(MOST_FRAMES - 1)]
    chosen = {max(i for i, (at, _) in enumerate(screens) if at <= moment) for moment in moments}
    return [screens[i][1] for i in sorted(chosen | {len(screens) - 1})]


def _drawn(rows: Sequence[Row]) -> Iterator[str]:
    for line, row in enumerate(rows):
        column, pieces = 0, []
        for text, colour, bold in row:
            if text.strip():
                # Each piece has its place, since fonts differ in width.
                skipped = len(text) - len(text.lstrip(" "))
                shown = text.strip(" ")
                looks = f' fill="{_colour(colour)}"' if colour != "default" else ""
                looks += ' class="b"' if bold else ""
                place = f'x="{MARGIN + (column + skipped) * WIDTH:.1f}" textLength="{len(shown) * WIDTH:.1f}"'
                pieces.append(f"<tspan {place}{looks}>{html.escape(shown, quote=False)}</tspan>")
            column += len(text)
        if pieces:
            yield f'<text y="{MARGIN + (line + 0.75) * HEIGHT:.1f}">{"".join(pieces)}</text>'


def _colour(name: str) -> str:
    plain = name.removeprefix("bright")
    return COLOURS.get(plain, f"#{plain}")
