"""What a check of the doctor's came to."""

from dataclasses import dataclass

OK, FAILS, SKIPPED = "ok", "FAILS", "skipped"


@dataclass(frozen=True)
class Finding:
    """One check: its word, what it is about, and a line that says what to do where it fails."""

    word: str
    about: str
    line: str

    @property
    def good(self) -> bool:
        return self.word == OK

    def __str__(self) -> str:
        return f"{self.word:<8} {self.about}: {self.line}"


def ok(about: str, line: str) -> Finding:
    """A check that found nothing amiss."""
    return Finding(OK, about, line)


def fails(about: str, line: str) -> Finding:
    """A check that found what would fail later."""
    return Finding(FAILS, about, line)


def skipped(about: str, line: str) -> Finding:
    """A check that was not made."""
    return Finding(SKIPPED, about, line)
