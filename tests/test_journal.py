"""The journal: append-only, whole lines, one file per attempt, and a reader that stitches them."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecycle_sweeps import journal
from onecycle_sweeps.journal import LR, TRAIN_LOSS, Journal


def written(folder: Path, attempt: int, start: int, *blocks: tuple[int, list[float]]) -> Journal:
    folder.mkdir(exist_ok=True)
    book = Journal(folder, attempt, start)
    for step, losses in blocks:
        book.append(step, {LR: [0.1] * len(losses), TRAIN_LOSS: losses})
    return book


def losses(folder: Path) -> dict[int, float]:
    return dict(zip(*journal.read(folder).series(TRAIN_LOSS), strict=True))


def test_what_was_appended_is_read_back_to_the_last_bit(tmp_path: Path):
    values = [0.1, 1 / 3, 1e-300, 2.0**60]
    written(tmp_path, 1, 0, (0, values[:3]), (3, values[3:])).end("finished")
    assert losses(tmp_path) == dict(enumerate(values))
    assert journal.read(tmp_path).attempts[0].end == "finished"


def test_an_attempt_that_continues_replaces_the_steps_from_its_start_on(tmp_path: Path):
    written(tmp_path, 1, 0, (0, [1.0, 1.1, 1.2]), (3, [1.3]))
    written(tmp_path, 2, 2, (2, [2.2, 2.3, 2.4]))
    assert losses(tmp_path) == {0: 1.0, 1: 1.1, 2: 2.2, 3: 2.3, 4: 2.4}


def test_only_what_a_checkpoint_covers_is_durable(tmp_path: Path):
    book = written(tmp_path, 1, 0, (0, [1.0, 1.1, 1.2]))
    assert journal.read(tmp_path).durable == 0
    book.saved(2)
    assert journal.read(tmp_path).durable == 2
    written(tmp_path, 2, 2, (2, [2.2]))
    assert journal.read(tmp_path).durable == 2


def test_a_line_torn_at_the_end_is_counted_and_the_rest_survives(tmp_path: Path):
    book = written(tmp_path, 1, 0, (0, [1.0, 1.1]), (2, [1.2]))
    os.truncate(book.path, book.path.stat().st_size - 5)
    assert losses(tmp_path) == {0: 1.0, 1: 1.1}
    record = journal.read(tmp_path)
    assert record.torn == 1
    assert not record.covers(TRAIN_LOSS, 3)
    assert record.covers(TRAIN_LOSS, 2)


def test_a_file_torn_in_its_first_line_does_not_hide_the_other_attempts(tmp_path: Path):
    written(tmp_path, 1, 0, (0, [1.0]))
    (tmp_path / "0002.jsonl").write_text('{"attempt":2,"fr')
    assert losses(tmp_path) == {0: 1.0}


def test_two_writers_never_share_a_file(tmp_path: Path):
    written(tmp_path, 1, 0)
    with pytest.raises(FileExistsError):
        Journal(tmp_path, 1, 0)


def test_after_a_write_that_failed_half_way_the_next_line_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    book = written(tmp_path, 1, 0, (0, [1.0]))
    whole = os.write

    def full_disk(file: int, data: memoryview) -> int:
        if len(data) < 20:
            raise OSError(28, "No space left on device")
        return whole(file, data[: len(data) // 2])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full_disk)
        with pytest.raises(OSError, match="No space left"):
            book.append(1, {TRAIN_LOSS: [1.1, 1.2]})
    book.end("failed", "the disk is full")
    record = journal.read(tmp_path)
    assert losses(tmp_path) == {0: 1.0}
    assert record.torn == 1
    assert (record.attempts[0].end, record.attempts[0].cause) == ("failed", "the disk is full")


def test_the_latest_block_is_found_in_the_tail_of_a_long_file(tmp_path: Path):
    book = written(tmp_path, 1, 0, *((step, [1 / 3] * 1000) for step in range(0, 30_000, 1000)))
    assert book.path.stat().st_size > 2**19
    block = journal.latest_block(tmp_path)
    assert block is not None
    assert block.step == 29_000


def test_a_step_costs_few_bytes(tmp_path: Path):
    book = written(tmp_path, 1, 0, (0, [1 / 3] * 1000))
    assert book.path.stat().st_size < 50 * 1000


def test_each_line_is_json_with_the_time_of_its_writing(tmp_path: Path):
    book = written(tmp_path, 1, 0, (0, [1.0]))
    lines = [json.loads(line) for line in book.path.read_text().splitlines()]
    assert all("time" in line for line in lines)


@st.composite
def attempts(draw: st.DrawFn) -> list[tuple[int, list[tuple[int, bool, bool, float]]]]:
    """Each attempt's start and blocks: length, whether evaluated, whether saved, the fraction of the line kept."""
    part = st.tuples(st.integers(1, 9), st.booleans(), st.booleans(), st.sampled_from([1.0, 1.0, 1.0, 0.0, 0.3, 0.99]))
    found, reached = [], 0
    for blocks in draw(st.lists(st.lists(part, max_size=8), max_size=4)):
        start = draw(st.integers(0, reached))
        reached = start + sum(length for length, *_ in blocks)
        found.append((start, blocks))
    return found


@contextmanager
def recorded(made: list[tuple[int, list[tuple[int, bool, bool, float]]]]) -> Iterator[Path]:
    """The folder of these attempts' journal; each loss encodes its attempt and its step."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, (start, blocks) in enumerate(made, 1):
            book, step = Journal(folder, number, start), start
            for length, evaluated, saved, kept in blocks:
                before = book.path.stat().st_size
                book.append(step, {TRAIN_LOSS: [number + i / 1000 for i in range(step, step + length)]})
                step += length
                if kept < 1:
                    os.truncate(book.path, before + int(kept * (book.path.stat().st_size - before)))
                    with book.path.open("a") as file:
                        file.write("\n")
                if evaluated:
                    book.append(step - 1, {"val/loss": [number + 0.5]})
                if saved:
                    book.saved(step)
            if blocks and blocks[-1][1]:
                book.end("stopped", 'asked to: "saved":99, "end":1')
        yield folder


@pytest.mark.slow
@given(attempts(), st.integers(0, 40), st.sampled_from([1, 40, 200, 1 << 16]))
def test_reading_from_a_step_gives_what_the_whole_record_has_from_there(made, start: int, near: int):
    with recorded(made) as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "NEAR_BYTES", near)
        whole = journal.read(folder)
        known = journal.attempts(folder)
        assert known == tuple(replace(attempt, blocks=(), torn=0) for attempt in whole.attempts)
        assert journal.durable(known) == whole.durable
        cut = [part for block in whole.blocks if (part := block.between(start, 10**9)).metrics]
        assert list(journal.blocks(folder, known, start)) == cut


def test_the_end_of_a_long_journal_is_read_without_its_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    book = written(tmp_path, 1, 0, *((step, [1 / 3] * 100) for step in range(0, 100_000, 100)))
    book.saved(100_000)
    parsed = []
    loads = json.loads

    def counted(line: bytes) -> object:
        parsed.append(len(line))
        return loads(line)

    monkeypatch.setattr(json, "loads", counted)
    (block,) = journal.blocks(tmp_path, journal.attempts(tmp_path), 99_900)
    assert (block.step, block.end) == (99_900, 100_000)
    assert sum(parsed) < 2 * journal.NEAR_BYTES < book.path.stat().st_size / 10
