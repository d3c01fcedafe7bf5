"""A preset's published figures beside what came of it: each verdict, and what makes figures not comparable."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import hand_made
from hand_made import entry, training
from onecycle_sweeps import published, report, sweep
from onecycle_sweeps.checks import ConfigError
from onecycle_sweeps.report import PublishedRow
from onecycle_sweeps.sweep import Sweep

FIGURE = {"what": "one cycle", "accuracy": 0.92, "tolerance": 0.005}
PAIR = {"row": "one", "over": "base", "what": "an eighth of the steps"}


def preset(**node: Any) -> Any:
    return published.read({"source": "a paper", "rows": {"one": FIGURE}} | node)


def made(
    tmp_path: Path,
    one: Sequence[float | str],
    base: Sequence[float | str] = (),
    *,
    facts: Any = None,
    command: tuple[str, ...] = ("experiment=paper",),
    evaluated: tuple[int, int] = (9, 79),
) -> Sweep:
    """A sweep of the rows `one` and `base`, a final accuracy or a status a seed; the target is 0.9."""
    rows = [("one", one, evaluated[0]), ("base", base, evaluated[1])]
    entries = [entry(f"{row}{seed}", row, seed, target=0.9) for row, ends, _ in rows for seed in range(len(ends))]
    found = hand_made.sweep(tmp_path, *entries)
    for row, ends, step in rows:
        for seed, end in enumerate(ends):
            folder = found.trial(f"{row}{seed}")
            if isinstance(end, str):
                training(folder, status=end, cause="nan")
            else:
                training(folder, accuracy={step: end}, loss={step: 0.1}, lr=[0.1] * (step + 1), steps_per_epoch=50)
    found = replace(found, published=facts or preset(), command=command)
    found.save()
    return found


def only(found: Sweep) -> PublishedRow:
    (row,) = report.compare(found).published
    return row


@pytest.mark.parametrize(
    ("accuracies", "verdict"),
    [
        ((0.915, 0.915), "reproduced"),
        ((0.925, 0.925), "reproduced"),
        ((0.91, 0.93), "reproduced"),
        ((0.93, 0.94), "reproduced, and exceeded"),
        ((0.9149, 0.9149), "not reproduced"),
        ((0.93, "diverged"), "not reproduced"),
        (("stopped", "stopped"), "open"),
    ],
)
def test_a_mean_within_the_tolerance_or_above_it_reproduces_a_figure(tmp_path: Path, accuracies: Any, verdict: str):
    assert only(made(tmp_path, accuracies)).verdict == verdict


def test_seeds_that_have_not_finished_or_diverged_are_told(tmp_path: Path):
    line = only(made(tmp_path, (0.92, "stopped", "diverged"))).line
    assert "over 1 of 3 seeds, 1 diverged" in line and "(1 of 3 trials have not finished)" in line


@pytest.mark.parametrize(
    ("typed", "reason"),
    [
        ("epochs=5", "epochs=5 was typed"),
        ("model=lenet", "model=lenet was typed"),
        ("+policy.gamma=2", "+policy.gamma=2 was typed"),
        ("data.val_fraction=0.1", "data.val_fraction=0.1 was typed, and what is scored is not the official test set"),
        ("data=cifar10_jpeg", "data=cifar10_jpeg was typed, and JPEG costs accuracy"),
    ],
)
def test_whoever_leaves_the_preset_is_told_which_override_did_it(tmp_path: Path, typed: str, reason: str):
    row = only(made(tmp_path, (0.92,), command=("experiment=paper", typed)))
    assert (row.verdict, row.reasons) == ("not comparable", (reason,))


@pytest.mark.parametrize(
    "typed",
    [
        *(
            "recipe=paper/one",
            "seed=0,1",
            "runs_dir=/scratch",
            "hydra/launcher=slurm",
            "hydra.launcher.workers=2",
            "-m",
        ),
        *("data.root=/data", "device=cuda", "tracking.uri=http://127.0.0.1", "target_accuracy=0.8", "threads=2"),
    ],
)
def test_what_cannot_change_the_figure_leaves_it_comparable(tmp_path: Path, typed: str):
    assert only(made(tmp_path, (0.92,), command=("experiment=paper", typed))).verdict == "reproduced"


def test_other_data_than_the_sources_shows_in_the_steps_of_an_epoch(tmp_path: Path):
    row = only(made(tmp_path, (0.92,), facts=preset(steps_per_epoch=193)))
    assert (row.verdict, row.reasons) == ("not comparable", ("50 steps an epoch, 193 with the data of the source",))
    assert only(made(tmp_path / "same", (0.92,), facts=preset(steps_per_epoch=50))).verdict == "reproduced"


def test_a_preset_in_another_setting_says_why_its_figures_cannot_be_met(tmp_path: Path):
    facts = preset(comparable="another net", note="A trap", run_here=False)
    found = made(tmp_path, (0.99,), facts=facts)
    assert (only(found).verdict, only(found).reasons) == ("not comparable", ("another net",))
    said = report.remarks(report.compare(found))
    assert any("published figures: a paper. A trap" in line for line in said)
    assert any("untried at its full size" in line for line in said)
    assert any("here 99.00 % over 1 of 1 seeds: not comparable (another net)" in line for line in said)


@pytest.mark.parametrize(
    ("ends", "verdict"),
    [
        (("diverged", "diverged"), "reproduced"),
        ((0.1,), "reproduced"),
        ((0.9,), "not reproduced"),
        (("stopped",), "open"),
    ],
)
def test_a_divergence_can_be_what_was_published(tmp_path: Path, ends: Any, verdict: str):
    chance = {"what": "too much weight decay", "accuracy": 0.0995, "tolerance": 0.05, "diverges": True}
    assert only(made(tmp_path, ends, facts=preset(rows={"one": chance}))).verdict == verdict


@pytest.mark.parametrize(
    ("one", "base", "gain", "verdict"),
    [
        ((0.92,), (0.90,), 0.02, "reproduced"),
        ((0.92,), (0.91,), 0.02, "not reproduced"),
        ((0.92,), (0.92,), 0, "reproduced"),
        ((0.99,), (0.92,), 0, "reproduced"),
        ((0.91,), (0.92,), 0, "not reproduced"),
        ((0.92, "diverged"), (0.90,), 0, "not reproduced"),
        (("stopped",), (0.90,), 0, "open"),
    ],
)
def test_a_gain_is_the_difference_of_the_means(tmp_path: Path, one: Any, base: Any, gain: float, verdict: str):
    facts = preset(rows={}, pairs=[PAIR | {"gain": gain}])
    assert only(made(tmp_path, one, base, facts=facts)).verdict == verdict


@pytest.mark.parametrize(
    ("one", "base", "speed_up", "verdict", "words"),
    [
        ((0.92, 0.93), (0.91, 0.92), 8, "reproduced", "8.0 times fewer steps (10 against 80)"),
        ((0.92,), (0.91,), 20, "not reproduced", "8.0 times fewer"),
        ((0.92,), (0.91,), 4, "reproduced, and exceeded", "8.0 times fewer"),
        ((0.89,), (0.91,), 1, "not reproduced", "1 of 1 seeds never reached the target"),
        (
            (0.92,),
            (0.8,),
            1,
            "reproduced",
            "at least 8.0 times fewer steps (10 against 80, 1 of 1 seeds never got there)",
        ),
        ((0.92,), (0.8,), 20, "open", "at least 8.0"),
    ],
)
def test_a_speed_up_counts_steps_to_the_target(
    tmp_path: Path, one: Any, base: Any, speed_up: float, verdict: str, words: str
):
    facts = preset(rows={}, pairs=[PAIR | {"speed_up": speed_up}])
    row = only(made(tmp_path, one, base, facts=facts))
    assert row.verdict == verdict and words in row.ours


def test_an_order_can_be_tested_in_another_setting_and_a_figure_cannot(tmp_path: Path):
    pairs = [PAIR | {"gain": 0}, PAIR | {"gain": 0.02}, PAIR | {"speed_up": 1}, PAIR | {"speed_up": 7.4}]
    facts = preset(rows={}, pairs=pairs, comparable="another net", steps_per_epoch=193)
    verdicts = [row.verdict for row in report.compare(made(tmp_path, (0.95,), (0.92,), facts=facts)).published]
    assert verdicts == ["reproduced", "not comparable", "reproduced", "not comparable"]


def test_another_target_makes_a_speed_up_another_one(tmp_path: Path):
    facts = preset(rows={}, pairs=[PAIR | {"speed_up": 1}, PAIR | {"gain": 0}])
    found = made(tmp_path, (0.95,), (0.92,), facts=facts, command=("experiment=paper", "target_accuracy=0.9"))
    assert [row.verdict for row in report.compare(found).published] == ["not comparable", "reproduced"]


def test_rows_that_the_sweep_does_not_have_are_left_out(tmp_path: Path):
    facts = preset(rows={"one": FIGURE, "two": FIGURE}, pairs=[PAIR | {"gain": 0}])
    assert [row.name for row in report.compare(made(tmp_path, (0.92,), facts=facts)).published] == ["one"]


def test_a_sweep_keeps_what_it_is_compared_with(tmp_path: Path):
    facts = preset(pairs=[PAIR | {"gain": 0}], baseline="one", budgets_may_differ=True)
    loaded = sweep.load(made(tmp_path, (0.92,), facts=facts).folder)
    assert loaded.published == facts
    assert loaded.published is not None and (loaded.published.baseline, loaded.published.budgets_may_differ) == (
        "one",
        True,
    )


def test_a_sweep_that_was_written_before_presets_has_none(tmp_path: Path):
    found = hand_made.sweep(tmp_path)
    text = (found.folder / "sweep.json").read_text()
    assert '"published": null' in text
    (found.folder / "sweep.json").write_text(text.replace(',\n  "published": null', ""))
    assert sweep.load(found.folder) == found
    assert report.compare(found).published == ()


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({}, r"published\.source is missing"),
        ({"source": "x", "sauce": 1}, r"published\.sauce is unknown, the keys are source, "),
        (
            {"source": "x", "rows": {"one": {"accuracy": 92, "tolerance": 0, "what": "x"}}},
            r"rows\.one\.accuracy must be",
        ),
        ({"source": "x", "rows": {"one": {"accuracy": 0.9}}}, r"rows\.one\.what is missing"),
        ({"source": "x", "rows": {"one": 0.9}}, r"rows\.one must be a node"),
        ({"source": "x", "pairs": [PAIR]}, r"pairs\[0\] must have a gain or a speed_up, and not both"),
        ({"source": "x", "pairs": [PAIR | {"gain": 0, "speed_up": 2}]}, r"pairs\[0\] must have a gain or a speed_up"),
        ({"source": "x", "pairs": [PAIR | {"speed_up": 0.5}]}, r"pairs\[0\]\.speed_up must be a number of at least 1"),
    ],
)
def test_a_published_node_that_is_amiss_is_refused(node: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        published.read(node)
