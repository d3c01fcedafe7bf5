import math
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import hand_made
from hand_made import entry, range_test_entry, training
from onecycle_sweeps import report
from onecycle_sweeps.outcome import read
from onecycle_sweeps.report import canvas, figures
from onecycle_sweeps.report.comparison import compare
from onecycle_sweeps.report.figures import budgets_of, draw_budgets, styles_of
from onecycle_sweeps.sweep import Sweep
from onecycle_sweeps.trial_folder import TrialFolder

SUGGESTIONS = {"minimum": 0.2, "steepest": 0.1, "valley": 0.01, "slide": 0.1, "max_lr": 0.2}
FALLING = [(10 ** (i / 20 - 4), 2.3 - i / 60 + (i % 3) / 20, 2.3 - i / 60) for i in range(100)]


def size(path: Path | None) -> tuple[int, int]:
    """Width and height of a PNG, which must be whole and hold more than an empty frame."""
    assert path is not None
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and data[-8:-4] == b"IEND" and len(data) > 5000
    return struct.unpack(">II", data[16:24])


def drawn(sweep: Sweep) -> list[Path]:
    """The pictures of a sweep's report, in their order."""
    return [path for path in report.write(report.compare(sweep)) if path.suffix in (".png", ".svg")]


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """Two policies x two seeds, one of which diverged."""
    entries = [entry(f"{policy}{seed}", policy, seed) for policy in ("onecycle", "clr") for seed in (0, 1)]
    made = hand_made.sweep(tmp_path, range_test_entry(), *entries)
    for one in entries[:3]:
        training(made.trial(one.signature), accuracy={1: 0.5, 4: 0.9}, loss={1: 2.0, 4: 0.1})
    training(made.trial("clr1"), status="diverged", cause="the loss is nan", accuracy={1: 0.3}, loss={1: math.inf})
    return made


def test_a_trajectory_is_drawn_in_the_trials_folder(sweep: Sweep) -> None:
    trial = sweep.trial("onecycle0")
    path = report.draw_trajectory(trial)
    assert path == trial.path / "lr_momentum.png"
    width, height = size(path)
    assert width > 2 * height


@pytest.mark.parametrize("momentum", [None, (0.9,) * 5], ids=["none", "constant"])
def test_a_trajectory_needs_no_cycled_momentum(tmp_path: Path, momentum: tuple[float, ...] | None) -> None:
    trial = TrialFolder(tmp_path / "trial")
    training(trial, accuracy={4: 0.9}, momentum=momentum)
    path = report.draw_trajectory(trial)
    assert size(path) == (900, 320)


def test_a_trial_without_a_step_has_no_trajectory(tmp_path: Path) -> None:
    trial = TrialFolder(tmp_path / "trial")
    trial.create({"task": "train"})
    assert report.draw_trajectory(trial) is None
    assert not list(trial.path.glob("*.png"))


@pytest.mark.parametrize("mode", ["exp", "linear"])
@pytest.mark.parametrize("seeds", [1, 3])
def test_a_range_test_is_drawn_with_its_suggestions(tmp_path: Path, mode: str, seeds: int) -> None:
    trial = TrialFolder(tmp_path / "range")
    hand_made.range_test(trial, *[FALLING] * seeds, mode=mode, suggestions=SUGGESTIONS)
    path = report.draw_range_test(trial)
    assert path == trial.path / "range_test.png"
    assert size(path) == (750, 480)


@pytest.mark.parametrize(
    "end", [(5.0, math.nan, math.nan), (5.0, math.inf, math.inf), (5.0, 1e300, 1e299)], ids=["nan", "inf", "huge"]
)
def test_a_range_test_that_blew_up_is_drawn_without_a_verdict(tmp_path: Path, end: tuple[float, ...]) -> None:
    trial = TrialFolder(tmp_path / "range")
    hand_made.range_test(trial, [*FALLING, (end[0], end[1], end[2])])
    assert size(report.draw_range_test(trial)) == (750, 480)


def test_a_range_test_of_one_lost_step_is_drawn(tmp_path: Path) -> None:
    trial = TrialFolder(tmp_path / "range")
    hand_made.range_test(trial, [(0.1, math.nan, math.nan)], mode="linear")
    assert report.draw_range_test(trial).exists()


def test_a_range_test_without_a_step_is_refused(tmp_path: Path) -> None:
    trial = TrialFolder(tmp_path / "range")
    hand_made.range_test(trial)
    with pytest.raises(ValueError, match="has no range test to draw"):
        report.draw_range_test(trial)


def test_no_line_of_a_mark_crosses_a_label_above_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = TrialFolder(tmp_path / "range")
    hand_made.range_test(trial, FALLING, suggestions=SUGGESTIONS | {"slide": 3.0})
    kept: list[canvas.Axes] = []
    monkeypatch.setattr(canvas, "save", lambda axes, path, dpi: kept.append(axes))
    report.draw_range_test(trial)
    figure = canvas.figure_of(kept[0])
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in kept[0].texts]
    assert len(boxes) == len(SUGGESTIONS)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    marks = [line for line in kept[0].lines if np.size(line.get_xdata()) == 2]
    assert len(marks) == len(SUGGESTIONS)
    assert not any(line.get_window_extent().overlaps(box) for line in marks for box in boxes)


@pytest.mark.slow
def test_a_report_has_the_csv_and_the_figures_in_the_sweeps_folder(sweep: Sweep) -> None:
    files = report.write(report.compare(sweep))
    drawn = [f"{name}.{form}" for name in ("trajectories", "val_accuracy", "val_loss") for form in ("png", "svg")]
    names = ["report.html", "trials.csv", "claims.csv", "evaluations.csv", "trajectories.csv", *drawn]
    assert files == [sweep.report / name for name in names]
    assert [size(path)[0] for path in files if path.suffix == ".png"] == [1500, 2250, 2250]
    assert sorted(path.name for path in sweep.report.iterdir()) == sorted(names)


def budgets(tmp_path: Path, policies: Sequence[str], epochs: Sequence[int]) -> Sweep:
    """Policies whose accuracy rises with the epochs, and by 5 points from each policy to the next."""
    entries = [entry(f"{p}{e}s{s}", p, s, {"epochs": str(e)}) for p in policies for e in epochs for s in range(2)]
    made = hand_made.sweep(tmp_path, *entries)
    for one in entries:
        policy, budget, seed = policies.index(one.varies["policy"]), int(one.varies["epochs"]), int(one.varies["seed"])
        training(made.trial(one.signature), accuracy={4: 0.5 + budget / 100 + policy / 20 + seed / 50})
    return made


def test_accuracy_is_drawn_against_the_budget_where_epochs_vary(tmp_path: Path) -> None:
    found = budgets_of(read(budgets(tmp_path, ("constant", "onecycle"), (8, 2, 4))))
    (axes,) = canvas.axes()
    draw_budgets(axes, found, "final val accuracy (%)")
    means = dict(zip(found, (line for line in axes.lines if line.get_marker() == "None"), strict=True))
    assert list(means) == ["constant", "onecycle"]
    assert np.asarray(means["onecycle"].get_ydata()) == pytest.approx([58, 60, 64])
    assert np.asarray(means["constant"].get_xdata()) == pytest.approx([2, 4, 8], rel=0.05)
    dots = np.concatenate([np.asarray(line.get_ydata()) for line in axes.lines if line.get_marker() == "o"])
    assert sorted(dots) == pytest.approx(sorted([52, 54, 54, 56, 58, 60, 57, 59, 59, 61, 63, 65]))
    assert axes.get_xscale() == "log" and [text.get_text() for text in axes.get_xticklabels()] == ["2", "4", "8"]


@pytest.mark.slow
def test_one_budget_makes_no_figure_of_budgets(tmp_path: Path) -> None:
    sweep = budgets(tmp_path, ("constant", "onecycle"), (4,))
    assert "accuracy_by_budget.png" not in {path.name for path in drawn(sweep)}


@pytest.mark.slow
def test_more_policies_than_colours_are_drawn_against_the_budget(tmp_path: Path) -> None:
    sweep = budgets(tmp_path, [f"policy{i}" for i in range(9)], (2, 4))
    path = drawn(sweep)[-2]
    assert path == sweep.report / "accuracy_by_budget.png" and size(path) == (1125, 690)


@pytest.mark.slow
def test_a_report_can_be_written_again_over_the_earlier_one(sweep: Sweep) -> None:
    earlier = {path: path.read_bytes() for path in report.write(report.compare(sweep))}
    assert {path: path.read_bytes() for path in report.write(report.compare(sweep))} == earlier


def test_a_sweep_that_has_not_begun_has_no_figures(tmp_path: Path) -> None:
    sweep = hand_made.sweep(tmp_path, range_test_entry(), entry("a", "step", 0))
    assert drawn(sweep) == []
    assert [path.name for path in report.write(report.compare(sweep))] == ["report.html", "trials.csv"]


@pytest.mark.slow
def test_a_sweep_in_which_all_diverged_is_drawn(tmp_path: Path) -> None:
    sweep = hand_made.sweep(tmp_path, *(entry(f"a{seed}", "step", seed) for seed in range(2)))
    training(sweep.trial("a0"), status="diverged", cause="nan", accuracy={1: math.nan}, loss={1: math.nan})
    training(sweep.trial("a1"), status="diverged", cause="nan")
    assert len(drawn(sweep)) == 6


@pytest.mark.slow
def test_a_running_trial_is_drawn_up_to_its_last_step(tmp_path: Path) -> None:
    sweep = hand_made.sweep(tmp_path, *(entry(f"a{seed}", "step", seed) for seed in range(2)))
    training(sweep.trial("a0"), status="stopped", accuracy={1: 0.5, 3: 0.6}, loss={1: 1.0, 3: 0.9})
    training(sweep.trial("a1"), status="stopped", accuracy={1: 0.6}, loss={1: 1.0})
    assert len(drawn(sweep)) == 6


@pytest.mark.slow
def test_names_that_look_like_mathematics_are_drawn_as_text(tmp_path: Path) -> None:
    sweep = hand_made.sweep(tmp_path, entry("a", "step", 0, {"data.root": r"$\frac{$"}))
    training(sweep.trial("a"), accuracy={4: 0.9}, loss={4: 0.1})
    assert len(drawn(sweep)) == 6


def test_a_group_keeps_its_colour_when_the_ranking_changes(tmp_path: Path) -> None:
    sweep = hand_made.sweep(tmp_path, entry("a", "step", 0), entry("b", "clr", 0))
    training(sweep.trial("b"), accuracy={4: 0.8})
    before = styles_of([row.group for row in compare(sweep).rows], [e.group for e in sweep.trials])
    training(sweep.trial("a"), accuracy={4: 0.9})
    after = styles_of([row.group for row in compare(sweep).rows], [e.group for e in sweep.trials])
    assert list(before) == list(reversed(after)) and before == after


def test_of_many_groups_the_best_are_in_colours_of_their_own(tmp_path: Path) -> None:
    entries = [entry(f"a{i}", "step", 0, {"epochs": str(i)}) for i in range(1, 31)]
    sweep = hand_made.sweep(tmp_path, *entries)
    for i, one in enumerate(entries):
        training(sweep.trial(one.signature), accuracy={4: i / 100})
    styles = styles_of([row.group for row in compare(sweep).rows], [e.group for e in entries])
    coloured = [group for group, style in styles.items() if style.highlighted]
    assert coloured == [one.group for one in entries[: -len(coloured) - 1 : -1]]
    assert len({styles[group].colour for group in coloured}) == len(coloured) == len(canvas.COLOURS)
    assert {style.colour for style in styles.values() if not style.highlighted} == {canvas.GREY}


@pytest.mark.parametrize("last", [20_000.0, 100.0], ids=["linear", "logarithmic"])
def test_large_losses_and_small_rates_leave_room_for_the_labels_of_their_axes(tmp_path: Path, last: float) -> None:
    made = hand_made.sweep(tmp_path, entry("a", "step", 0), entry("b", "clr", 0))
    training(made.trial("a"), accuracy={4: 0.9}, loss={1: 123_456.0, 4: last}, lr=(4.35e-4, 2e-4, 1e-4, 1e-4, 1e-5))
    training(made.trial("b"), accuracy={4: 0.9}, lr=[last * 1e-9] * 5)
    comparison = compare(made)
    groups = figures.shown_groups([row.group for row in comparison.rows], comparison.outcomes)
    plots = {plot.name: plot for plot in figures.figures(groups, comparison.outcomes)}
    for name in ("trajectories", "val_loss"):
        (axes,) = canvas.tiles(1, 1, canvas.PANEL_WIDTH, canvas.PANEL_HEIGHT)
        plots[name].panels[0].draw(axes)
        canvas.figure_of(axes).canvas.draw()
        assert axes.yaxis.label.get_window_extent().x0 >= 0
        ticks = [tick for tick in axes.get_yticklabels() if 0 < float(tick.get_position()[1]) < 1e-3]
        assert [float(tick.get_text()) for tick in ticks] == pytest.approx([tick.get_position()[1] for tick in ticks])
        assert not any(".e" in tick.get_text() for tick in ticks)
