import itertools
import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

import hand_made
from hand_made import ONECYCLE, entry, range_test_entry, training
from kinds_of_sweeps import KINDS
from onecycle_sweeps import report
from onecycle_sweeps.outcome import read
from onecycle_sweeps.policies import OneCycle
from onecycle_sweeps.report import canvas, figures, range_tests
from onecycle_sweeps.report.canvas import Style
from onecycle_sweeps.report.comparison import compare
from onecycle_sweeps.report.groups import Group
from onecycle_sweeps.report.scores import budgets_of, draw_budgets
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


def styles(sweep: Sweep) -> Mapping[Group, Style]:
    """The style of each group of a sweep, best group first."""
    comparison = compare(sweep)
    return figures.shown_groups([row.group for row in comparison.rows], comparison.outcomes).styles


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
    width, height = size(path)
    assert width > 2 * height


def test_a_trial_without_a_step_has_no_trajectory(tmp_path: Path) -> None:
    trial = TrialFolder(tmp_path / "trial")
    trial.create({"task": "train"})
    assert report.draw_trajectory(trial) is None
    assert not list(trial.path.glob("*.png"))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["exp", "linear"])
@pytest.mark.parametrize("seeds", [1, 3])
def test_a_range_test_is_drawn_with_its_suggestions(tmp_path: Path, mode: str, seeds: int) -> None:
    trial = TrialFolder(tmp_path / "range")
    hand_made.range_test(trial, *[FALLING] * seeds, mode=mode, suggestions=SUGGESTIONS)
    path = report.draw_range_test(trial)
    assert path == trial.path / "range_test.png"
    assert size(path)[0] == 750


@pytest.mark.slow
@pytest.mark.parametrize(
    "end", [(5.0, math.nan, math.nan), (5.0, math.inf, math.inf), (5.0, 1e300, 1e299)], ids=["nan", "inf", "huge"]
)
def test_a_range_test_that_blew_up_is_drawn_without_a_verdict(tmp_path: Path, end: tuple[float, ...]) -> None:
    trial = TrialFolder(tmp_path / "range")
    hand_made.range_test(trial, [*FALLING, (end[0], end[1], end[2])])
    assert size(report.draw_range_test(trial))[0] == 750


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
    kept: list[Any] = []
    monkeypatch.setattr(canvas, "save", lambda figure, path, dpi: kept.append(figure))
    report.draw_range_test(trial)
    (axes,) = kept[0].axes
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == len(SUGGESTIONS)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    marks = [line for line in axes.lines if np.size(line.get_xdata()) == 2]
    assert len(marks) == len(SUGGESTIONS)
    assert not any(line.get_window_extent().overlaps(box) for line in marks for box in boxes)


@pytest.mark.slow
def test_a_report_has_the_csv_and_the_figures_in_the_sweeps_folder(sweep: Sweep) -> None:
    files = report.write(report.compare(sweep))
    plots = ("differences", "val_accuracy", "val_loss", "trajectories")
    drawn = [f"{name}.{form}" for name in plots for form in ("png", "svg")]
    names = ["report.html", "trials.csv", "claims.csv", "evaluations.csv", "trajectories.csv", *drawn]
    assert files == [sweep.report / name for name in names]
    assert all(size(path)[0] > 600 for path in files if path.suffix == ".png")
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
    axes = canvas.new_axes(canvas.blank(5, 3))
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
    assert size(next(path for path in drawn(sweep) if path.name == "accuracy_by_budget.png"))[0] > 900


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
    assert {path.stem for path in drawn(sweep)} == {"trajectories", "val_accuracy", "val_loss"}


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
    before = styles(sweep)
    training(sweep.trial("a"), accuracy={4: 0.9})
    after = styles(sweep)
    assert list(before) == list(after)[::-1]
    assert {group: style.colour for group, style in before.items()} == {g: style.colour for g, style in after.items()}


def test_of_many_groups_the_best_are_in_colours_of_their_own(tmp_path: Path) -> None:
    entries = [entry(f"a{i}", "step", 0, {"epochs": str(i)}) for i in range(1, 31)]
    sweep = hand_made.sweep(tmp_path, *entries)
    for i, one in enumerate(entries):
        training(sweep.trial(one.signature), accuracy={4: i / 100})
    found = styles(sweep)
    coloured = [group for group, style in found.items() if style.highlighted]
    assert coloured == [one.group for one in entries[: -len(coloured) - 1 : -1]]
    assert len({found[group].colour for group in coloured}) == len(coloured) == len(canvas.COLOURS)
    assert {style.colour for style in found.values() if not style.highlighted} == {canvas.GREY}


def rates(tmp_path: Path, scales: Sequence[str]) -> Sweep:
    """Two policies at several rates, of which onecycle does best at the highest and clr at the lowest one."""
    entries = [entry(f"{p}{s}", p, 0, {"max_lr_scale": s}) for p in ("onecycle", "clr") for s in scales]
    made = hand_made.sweep(tmp_path, *entries)
    for one in entries:
        scale = float(one.varies["max_lr_scale"])
        final = 0.8 + (scale if one.varies["policy"] == "onecycle" else -scale) / 100
        training(made.trial(one.signature), accuracy={1: 0.5, 4: final}, lr=[0.3 * scale] * 5, max_lr=0.3 * scale)
    return made


def test_a_policy_has_a_hue_and_each_of_its_rates_a_shade(tmp_path: Path) -> None:
    found = styles(rates(tmp_path, ("0.1", "1", "5")))
    by_policy = {
        policy: {dict(group)["max_lr_scale"]: style for group, style in found.items() if ("policy", policy) in group}
        for policy in ("onecycle", "clr")
    }
    for (policy, shades), colour, best in zip(by_policy.items(), canvas.COLOURS, ("5", "0.1"), strict=False):
        assert shades[best].colour == colour and shades[best].highlighted, policy
        others = [style.colour for scale, style in shades.items() if scale != best]
        assert set(others) <= {canvas.shade(colour, strength) for strength in canvas.SHADES}
        assert len(set(others)) == len(others) == 2
        assert not any(style.highlighted for scale, style in shades.items() if scale != best)


def test_of_rates_with_a_result_the_score_is_drawn_with_a_line_for_each_policy(tmp_path: Path) -> None:
    comparison = compare(rates(tmp_path, ("0.1", "1", "5")))
    groups = figures.shown_groups([row.group for row in comparison.rows], comparison.outcomes)
    (plot,) = (one for one in report.plots(comparison, groups) if one.name == "score_over_max_lr")
    axes = canvas.drawn(plot.panels[0])
    lines = [line for line in axes.lines if len(np.atleast_1d(line.get_xdata())) == 3]
    assert [np.asarray(line.get_xdata()).tolist() for line in lines] == [pytest.approx([0.03, 0.3, 1.5])] * 2
    assert [label for label, _ in plot.legend] == ["onecycle", "clr"]


@pytest.mark.parametrize("is_off", [False, True])
def test_the_plan_is_drawn_only_where_it_differs_from_what_was_used(tmp_path: Path, is_off: bool) -> None:
    sweep = hand_made.sweep(tmp_path, entry("a", "onecycle", 0))
    policy = OneCycle(max_lr=0.3, total_steps=20)
    lr = [policy(step).lr + (0.01 if is_off and step == 7 else 0.0) for step in range(20)]
    training(sweep.trial("a"), accuracy={19: 0.9}, lr=lr, momentum=[policy(s).momentum or 0.0 for s in range(20)])
    config = {"task": "train", "seed": 0, "epochs": 2, "policy": {"_target_": ONECYCLE, "max_lr": "auto"}}
    sweep.trial("a").create(config | {"optimizer": {"momentum": 0.9}})
    comparison = compare(sweep)
    groups = figures.shown_groups([row.group for row in comparison.rows], comparison.outcomes)
    assert groups.examples[sweep.trials[0].group].planned.lr
    plot = figures.trajectories(groups)
    assert ("planned" in dict(plot.legend)) == is_off
    assert len(canvas.drawn(plot.panels[0]).lines) == (2 if is_off else 1)


def test_a_linear_range_test_has_a_panel_of_its_own_for_what_was_evaluated(tmp_path: Path) -> None:
    made = KINDS["range tests"](tmp_path)
    linear, exponential = read(made)
    loss, accuracy = (canvas.drawn(panel) for panel in range_tests.panels_of(linear, "linear"))
    assert (loss.get_ylabel(), accuracy.get_ylabel()) == ("training loss", "val accuracy (%)")
    assert len(range_tests.panels_of(exponential, "exp")) == len(canvas.figure_of(loss).axes) == 1


@pytest.mark.slow
@pytest.mark.parametrize("reverse", [False, True])
def test_of_equal_lines_each_one_is_seen(tmp_path: Path, reverse: bool) -> None:
    from PIL import Image

    styles = [
        Style(*look, canvas.DASHED if look[1] else canvas.SOLID)
        for look in zip(canvas.COLOURS[:6], canvas.DASHES, strict=False)
    ]
    for one, other in itertools.combinations(styles, 2):
        axes = canvas.new_axes(figure := canvas.blank(4, 1))
        axes.axis("off")
        for style in (other, one) if reverse else (one, other):
            axes.plot([0, 1], [0.5, 0.5], **style.line())
        canvas.save(figure, path := tmp_path / "lines.png")
        pixels = np.asarray(Image.open(path).convert("RGB"), dtype=int).reshape(-1, 3)
        for style in (one, other):
            wanted = [int(style.colour[i : i + 2], 16) for i in (1, 3, 5)]
            assert (np.abs(pixels - wanted).max(axis=1) < 40).sum() > 20, (one, other)


@pytest.mark.slow
def test_values_that_are_not_finite_are_drawn_as_such_and_in_no_mean(tmp_path: Path) -> None:
    finals = {"0.1": (0.9, math.nan), "0.3": (math.inf, math.nan), "1": (0.8, 0.7)}
    keys = [(rate, seed, epochs) for rate in finals for seed in (0, 1) for epochs in ("1", "2")]
    made = hand_made.sweep(
        tmp_path, *(entry(f"{r}-{s}-{e}", "onecycle", s, {"max_lr": r, "epochs": e}) for r, s, e in keys)
    )
    for rate, seed, epochs in keys:
        values = {1: 0.5, 4: finals[rate][seed]}
        training(made.trial(f"{rate}-{seed}-{epochs}"), accuracy=values, max_lr=float(rate))
    comparison = compare(made)
    groups = figures.shown_groups([row.group for row in comparison.rows], comparison.outcomes)
    plots = {plot.name: plot for plot in report.plots(comparison, groups)}
    axes = Figure().subplots()
    plots["val_accuracy"].panels[-1].draw(axes)
    assert [text.get_text() for text in axes.texts].count("not finite") == 4, "two rates at two lengths"
    assert any("not finite" in line for line in plots["score_over_max_lr"].panels[0].captions)
    assert drawn(made)
