"""A preset's published figures beside what came of it: each verdict, and what makes figures not comparable."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import hand_made
from hand_made import entry, training
from onecycle_sweeps import report, sweep
from onecycle_sweeps.config.preset import read
from onecycle_sweeps.config.schema import ConfigError
from onecycle_sweeps.report.reproduction import PublishedRow
from onecycle_sweeps.sweep import Sweep

FIGURE = {"what": "one cycle", "accuracy": 0.92, "tolerance": 0.005}
PAIR = {"row": "one", "over": "base", "what": "an eighth of the steps"}


def preset(**node: Any) -> Any:
    return read({"source": "a paper", "rows": {"one": FIGURE}, "budgets_may_differ": True} | node)


def made(
    tmp_path: Path,
    one: Sequence[float | str],
    base: Sequence[float | str] = (),
    *,
    facts: Any = None,
    command: tuple[str, ...] = ("experiment=paper",),
    base_evaluated: tuple[int, ...] = (),
) -> Sweep:
    """A sweep of the rows `one` and `base`, a final accuracy or a status a seed, each evaluated once; target 0.9."""
    rows = [("one", one, (9,) * len(one)), ("base", base, base_evaluated or (79,) * len(base))]
    entries = [entry(f"{row}{seed}", row, seed, target=0.9) for row, ends, _ in rows for seed in range(len(ends))]
    found = hand_made.sweep(tmp_path, *entries)
    for row, ends, steps in rows:
        for seed, end in enumerate(ends):
            folder, step = found.trial(f"{row}{seed}"), steps[seed]
            if isinstance(end, str):
                training(folder, status=end, cause="nan")
            else:
                # Each epoch ends with an evaluation, the target is reached at the last one alone.
                accuracy = dict.fromkeys(range(49, step, 50), 0.0) | {step: end}
                training(folder, accuracy=accuracy, loss={step: 0.1}, lr=[0.1] * (step + 1), steps_per_epoch=50)
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


def test_unfinished_and_diverged_seeds_are_reported(tmp_path: Path):
    line = only(made(tmp_path, (0.92, "stopped", "diverged"))).line
    assert "over 1 of 3 seeds, 1 diverged" in line and "(1 of 3 trials have not finished)" in line


@pytest.mark.parametrize(
    ("typed", "reason"),
    [
        ("epochs=5", "epochs=5 was typed"),
        ("model=lenet", "model=lenet was typed"),
        ("+policy.gamma=2", "+policy.gamma=2 was typed"),
        ("data.val_fraction=0.1", "data.val_fraction=0.1 was typed, and what is scored is not the official test set"),
        ("data=cifar10_jpeg", "data=cifar10_jpeg was typed, and JPEG is lossy"),
    ],
)
def test_an_override_that_departs_from_the_preset_is_named(tmp_path: Path, typed: str, reason: str):
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


def test_data_of_another_size_than_the_sources_are_noticed(tmp_path: Path):
    row = only(made(tmp_path, (0.92,), facts=preset(steps_per_epoch=193)))
    assert (row.verdict, row.reasons) == ("not comparable", ("50 steps an epoch, 193 with the data of the source",))
    assert only(made(tmp_path / "same", (0.92,), facts=preset(steps_per_epoch=50))).verdict == "reproduced"


def test_a_preset_in_another_setting_says_why_its_figures_cannot_be_met(tmp_path: Path):
    facts = preset(comparable="another net", note="A trap", run_here=False)
    found = made(tmp_path, (0.99,), facts=facts)
    assert (only(found).verdict, only(found).reasons) == ("not comparable", ("another net",))
    said = report.remarks(report.compare(found))
    assert any("published figures: a paper. A trap" in line for line in said)
    assert any("untested at its full size" in line for line in said)
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
        ((0.92, 0.93, 0.94), (0.90, 0.911, 0.919), 0.02, "reproduced"),
        ((0.92, 0.93, 0.94), (0.90, 0.911, 0.919), 0.01, "reproduced, and exceeded"),
        ((0.92, 0.93, 0.94), (0.91, 0.921, 0.929), 0.02, "not reproduced"),
        ((0.92, 0.93, 0.94), (0.91, 0.921, 0.929), 0, "reproduced"),
        ((0.92, 0.93, 0.94), (0.93, 0.91, 0.92), 0, "direction agrees, not significant"),
        ((0.99, 0.99, 0.99), (0.99, 0.98, 0.5), 0.02, "direction agrees, not significant"),
        ((0.99,), (0.92,), 0, "direction agrees, not significant"),
        ((0.92,), (0.92,), 0, "direction agrees, not significant"),
        ((0.91,), (0.92,), 0, "not reproduced"),
        ((0.90, 0.911, 0.919), (0.92, 0.93, 0.94), 0, "not reproduced"),
        ((0.92, "diverged"), (0.90,), 0, "not reproduced"),
        (("stopped",), (0.90,), 0, "open"),
    ],
)
def test_a_gain_is_the_difference_of_the_means(tmp_path: Path, one: Any, base: Any, gain: float, verdict: str):
    facts = preset(rows={}, pairs=[PAIR | {"gain": gain}])
    assert only(made(tmp_path, one, base, facts=facts)).verdict == verdict


def test_a_published_pair_agrees_with_the_claim_about_it(tmp_path: Path):
    """Two pairs, of which the preset's baseline is in the first alone: both are claims, adjusted together."""
    ends = {"one": (0.99, 0.985, 0.988, 0.99, 0.987), "base": (0.97, 0.4917, 0.975, 0.97, 0.972)}
    ends["tenth"] = (0.98, 0.982, 0.983, 0.979, 0.981)
    entries = [entry(f"{row}{seed}", row, seed) for row, some in ends.items() for seed in range(len(some))]
    found = hand_made.sweep(tmp_path, *entries)
    for row, some in ends.items():
        for seed, end in enumerate(some):
            training(found.trial(f"{row}{seed}"), accuracy={4: end}, loss={4: 0.1}, chance=0.5044)
    pairs = [PAIR | {"gain": 0}, PAIR | {"gain": 0, "over": "tenth"}]
    found = replace(found, published=preset(rows={}, pairs=pairs, baseline="base"), command=("experiment=paper",))
    comparison = report.compare(found)
    claims = {(claim.name, claim.baseline): claim for claim in comparison.claims.claims}
    assert list(claims) == [("one", "base"), ("tenth", "base"), ("one", "tenth")]
    over_base, over_tenth = comparison.published
    assert claims["one", "base"].kind == "no difference shown"
    assert over_base.verdict == "direction agrees, not significant" and "p=0.61" in over_base.reasons
    chance = "seed 1 of base stayed at chance (49.17 %)"
    assert chance in over_base.line and chance in claims["one", "base"].sentence
    assert claims["one", "tenth"].kind == "better" and over_tenth.verdict == "reproduced"
    assert "chance" not in over_tenth.line + claims["one", "tenth"].sentence
    assert "Against base by final/val_accuracy, no difference shown: one, tenth." in comparison.claims.sentence
    assert "Against tenth by final/val_accuracy, better: one." in comparison.claims.sentence


@pytest.mark.parametrize(
    ("one", "base", "steps", "speed_up", "verdict", "words"),
    [
        ((0.92, 0.93, 0.92), (0.91, 0.92, 0.91), (79, 89, 74), 8.14, "reproduced", "8.14 times fewer steps"),
        ((0.92, 0.93, 0.92), (0.91, 0.92, 0.91), (79, 89, 74), 20, "not reproduced", "8.14 times fewer"),
        ((0.92, 0.93, 0.92), (0.91, 0.92, 0.91), (79, 89, 74), 4, "reproduced, and exceeded", "8.14 times fewer"),
        ((0.92, 0.93, 0.92), (0.91, 0.92, 0.91), (79, 8, 9), 1, "direction agrees, not significant", "1.93 times"),
        ((0.92,), (0.91,), (79,), 1, "direction agrees, not significant", "8.00 times fewer"),
        ((0.89,), (0.91,), (79,), 1, "not reproduced", "never reached by 1 of 1 seeds of one"),
        (
            (0.92, 0.92),
            (0.8, 0.91),
            (79, 79),
            1,
            "direction agrees, not significant",
            "at least 8.00 times fewer steps, the geometric mean over the seeds; never reached by 1 of 2 seeds of base",
        ),
        ((0.92,), (0.8,), (79,), 20, "open", "at least 8.00"),
    ],
)
def test_a_published_speed_up_is_compared_with_that_of_the_claim(
    tmp_path: Path, one: Any, base: Any, steps: tuple[int, ...], speed_up: float, verdict: str, words: str
):
    facts = preset(rows={}, pairs=[PAIR | {"speed_up": speed_up, "tolerance": 0.01}], baseline="base")
    found = report.compare(made(tmp_path, one, base, facts=facts, base_evaluated=steps))
    (row,), (claim,) = found.published, found.claims.claims
    assert row.verdict == verdict and words in row.ours
    assert claim.speedup is not None
    assert claim.speedup.ratio is None or claim.speedup.missed or f"{claim.speedup.ratio:.2f} times" in row.ours


def test_rows_of_unlike_precision_are_not_compared(tmp_path: Path):
    found = made(tmp_path, (0.92, 0.93), (0.90, 0.92), facts=preset(rows={}, pairs=[PAIR | {"gain": 0}]))
    for one in found.trials:
        precision = "bf16" if one.varies["policy"] == "one" else "fp32"
        found.trial(one.signature).write(
            "resolved", (found.trial(one.signature).resolved() or {}) | {"precision": precision}
        )
    row = only(found)
    assert row.verdict == "not comparable" and "precision: bf16 against fp32" in row.reasons


def test_an_order_can_be_tested_in_another_setting_and_a_figure_cannot(tmp_path: Path):
    pairs = [PAIR | {"gain": 0}, PAIR | {"gain": 0.02}, PAIR | {"speed_up": 1}, PAIR | {"speed_up": 7.4}]
    facts = preset(rows={}, pairs=pairs, comparable="another net", steps_per_epoch=193)
    rows = made(tmp_path, (0.95, 0.96, 0.97), (0.92, 0.931, 0.939), facts=facts, base_evaluated=(79, 89, 74))
    verdicts = [row.verdict for row in report.compare(rows).published]
    assert verdicts == ["reproduced", "not comparable", "reproduced", "not comparable"]


def test_another_target_makes_a_speed_up_another_one(tmp_path: Path):
    facts = preset(rows={}, pairs=[PAIR | {"speed_up": 1}, PAIR | {"gain": 0}])
    accuracies = (0.95, 0.96, 0.97), (0.92, 0.931, 0.939)
    found = made(tmp_path, *accuracies, facts=facts, command=("experiment=paper", "target_accuracy=0.9"))
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
def test_a_wrong_published_node_is_refused(node: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        read(node)
