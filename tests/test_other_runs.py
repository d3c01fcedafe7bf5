"""compare: a verdict on runs from elsewhere, which claims nothing that the runs do not show."""

import html
import json
import math
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onecycle_sweeps import cli
from onecycle_sweeps.other_runs import LoggedRun, RunsOfMeasure, judged, logs

NOISE = [-0.9, -0.4, 0.1, 0.3, 0.9, -0.2, 0.6, -0.6]


def table(folder: Path, name: str = "runs.csv", *, seeds: bool = False, **means: float) -> Path:
    """A CSV file with three rows of each of eight runs in groups of these means; the last row counts."""
    lines = ["group,run,step,val_loss" + ",seed" * seeds]
    for place, (group, mean) in enumerate(means.items()):
        for run, noise in enumerate(NOISE):
            for step in (1, 2, 3):
                own = run if seeds else f"{group}{run}"
                # Of the runs of a seed only a little noise is their own.
                value = mean + noise + place * run / 1000 if step == 3 else 50.0
                lines.append(f"{group},{own},{step},{value}" + f",{run}" * seeds)
    path = folder / name
    path.write_text("\n".join(lines))
    return path


def compared(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, list[dict[str, Any]]]:
    """The exit status, and the claims, which are all of standard output."""
    status = cli.main(["compare", *map(str, arguments), "--json"])
    return status, json.loads(capsys.readouterr().out)["claims"]


def test_each_run_counts_with_its_last_row_and_lower_losses_are_better(tmp_path: Path, capsys: Any) -> None:
    status, claims = compared(capsys, table(tmp_path, old=5.0, much_lower=2.0, higher=9.0, same=5.0))
    assert status == 1
    assert [claim["name"] for claim in claims] == ["much_lower", "higher", "same"]
    assert [claim["kind"] for claim in claims] == ["better", "worse", "undecided"]
    assert {claim["baseline"] for claim in claims} == {"old"}
    assert [claim["difference"] for claim in claims] == pytest.approx([-3.0, 4.0, 0.0], abs=0.02)
    assert all(claim["low"] < claim["difference"] < claim["high"] for claim in claims)
    assert all(claim["p"] <= claim["p_adjusted"] for claim in claims)


def test_the_goal_and_the_baseline_can_be_typed(tmp_path: Path, capsys: Any) -> None:
    path = table(tmp_path, old=5.0, high=9.0)
    assert compared(capsys, path, "--goal", "max")[1][0]["kind"] == "better"
    (claim,) = compared(capsys, path, "--baseline", "high")[1]
    assert (claim["name"], claim["kind"], claim["difference"]) == ("old", "better", pytest.approx(-4.0, abs=0.02))


LOWER_IS_BETTER = (
    *(
        "brier_score",
        "brier",
        "FIDScore",
        "fid",
        "fid50k_full",
        "wer",
        "wer_score",
        "test/cer",
        "perplexity_score",
        "ppl",
    ),
    *(
        "val_ppl",
        "error_score",
        "top1_error",
        "top5_err",
        "loss_score",
        "valLoss",
        "rmse_5",
        "mae",
        "MAE@10",
        "nll_top1",
    ),
    *("bpc", "edit_distance_score", "kl_divergence", "val_mse2"),
)
HIGHER_IS_BETTER = (
    *("score", "top1", "val_top5_accuracy", "mAP", "mAP50", "val/mAP", "f1_score", "accuracy_score"),
    *("neg_mean_squared_error", "neg_log_loss"),
)


@pytest.mark.slow
@pytest.mark.parametrize("measure", [*LOWER_IS_BETTER, *HIGHER_IS_BETTER])
def test_the_goal_is_that_of_the_measure_whatever_follows_its_name(measure: str, tmp_path: Path, capsys: Any) -> None:
    rows = [f"{group},{mean + NOISE[i] / 100}" for group, mean in (("old", 2), ("lower", 1)) for i in range(4)]
    (tmp_path / "runs.csv").write_text("\n".join([f"group,{measure}", *rows]))
    (claim,) = compared(capsys, tmp_path / "runs.csv")[1]
    assert claim["kind"] == ("better" if measure in LOWER_IS_BETTER else "worse")


@pytest.mark.parametrize("measure", ["quality", "accuracy_loss", "time_to_accuracy"])
def test_a_name_that_does_not_tell_the_goal_is_not_guessed_from(measure: str, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "runs.csv").write_text(f"group,{measure}\na,1\na,2\nb,1\nb,2\n")
    assert cli.main(["compare", str(tmp_path / "runs.csv")]) == 2
    assert "--goal must be min or max" in capsys.readouterr().err


def test_runs_are_paired_only_if_seeds_are_named(tmp_path: Path, capsys: Any) -> None:
    path = table(tmp_path, seeds=True, old=5.0, lower=4.9)
    assert compared(capsys, path)[1][0]["kind"] == "undecided"
    assert compared(capsys, path, "--seed", "seed")[1][0]["kind"] == "better"


@pytest.mark.parametrize(("margin", "mean", "status"), [(2.0, 5.0, 0), (0.2, 5.0, 3), (0.2, 9.0, 1), (2.0, 2.0, 0)])
def test_a_group_is_shown_to_be_no_worse_or_is_undecided(
    margin: float, mean: float, status: int, tmp_path: Path, capsys: Any
) -> None:
    found, (claim,) = compared(capsys, table(tmp_path, main=5.0, change=mean), "--no-worse-than", margin)
    assert found == status
    assert claim["kind"] == {0: "no worse" if mean == 5.0 else "better", 1: "worse", 3: "undecided"}[status]


def test_a_group_that_is_a_little_worse_passes_a_margin_that_allows_it(tmp_path: Path, capsys: Any) -> None:
    path = table(tmp_path, main=5.0, change=6.2)
    assert compared(capsys, path)[0] == 1
    assert compared(capsys, path, "--no-worse-than", 3)[0] == 0


def test_two_files_without_a_column_of_groups_are_two_groups(tmp_path: Path, capsys: Any) -> None:
    for name, mean in (("main", 0.9), ("pr", 0.5)):
        rows = "\n".join(f"{mean + noise / 100}" for noise in NOISE)
        (tmp_path / f"{name}.csv").write_text(f"accuracy\n{rows}\n")
    status, (claim,) = compared(capsys, tmp_path / "main.csv", tmp_path / "pr.csv")
    assert (status, claim["name"], claim["baseline"], claim["kind"]) == (1, "pr", "main", "worse")


def test_files_whose_groups_and_runs_have_the_same_names_are_not_mixed(tmp_path: Path, capsys: Any) -> None:
    main, change = table(tmp_path, "main.csv", onecycle=5.0), table(tmp_path, "change.csv", onecycle=9.0)
    status, (claim,) = compared(capsys, main, change)
    assert (status, claim["name"], claim["baseline"], claim["kind"]) == (1, "change", "main", "worse")
    assert claim["difference"] == pytest.approx(4.0)


def test_an_export_of_wandb_has_a_column_for_each_run(tmp_path: Path, capsys: Any) -> None:
    names = [f"{group}-seed{seed}" for group in ("sgd", "adamw") for seed in range(4)]
    header = ["Step", *(f"{name} - val_loss{end}" for name in names for end in ("", "__MIN", "__MAX"))]
    last = [str((1.0 if "sgd" in name else 3.0) + NOISE[i] / 10) for i, name in enumerate(names)]
    rows = [["0", *["9"] * 24], ["10", *(value for one in last for value in (one, "0", "0"))]]
    (tmp_path / "wandb.csv").write_text("\n".join(",".join(row) for row in [header, *rows]))
    (claim,) = compared(capsys, tmp_path / "wandb.csv")[1]
    assert (claim["name"], claim["baseline"], claim["kind"]) == ("adamw", "sgd", "worse")


def test_runs_of_wandb_that_have_the_same_name_are_runs_of_their_own(tmp_path: Path, capsys: Any) -> None:
    columns = [f"{group} - {name}" for group in ("sgd", "adam") for _ in range(3) for name in ("val_loss", "_step")]
    values = [str(one) for mean in (1.0, 2.0) for noise in NOISE[:3] for one in (mean + noise / 100, 1)]
    (tmp_path / "wandb.csv").write_text("\n".join([",".join(["Step", *columns]), ",".join(["1", *values])]))
    (claim,) = compared(capsys, tmp_path / "wandb.csv")[1]
    assert (claim["name"], claim["kind"]) == ("adam", "worse")
    assert claim["difference"] == pytest.approx(1.0)


@pytest.mark.parametrize(("names", "said"), [(("net-18", "net-50"), True), (("net-seed1", "net-seed2"), False)])
def test_runs_that_a_bare_number_tells_apart_are_said_to_be_of_one_group(
    names: tuple[str, str], said: bool, tmp_path: Path, capsys: Any
) -> None:
    columns = [f"{name} - val_loss" for name in (*names, "other_a")]
    (tmp_path / "wandb.csv").write_text(",".join(["Step", *columns]) + "\n1,1.1,1.2,2.0\n")
    cli.main(["compare", str(tmp_path / "wandb.csv")])
    assert ("net-18, net-50" in capsys.readouterr().err) is said


def test_a_run_of_wandb_without_any_value_is_counted(tmp_path: Path, capsys: Any) -> None:
    header = ",".join(["Step", *(f"{group}_{i} - val_loss" for group in ("sgd", "adam") for i in range(3))])
    (tmp_path / "wandb.csv").write_text(f"{header}\n1,1,1.1,,2,2.1,2.2\n2,1,1.1,,2,2.1,2.2\n")
    assert cli.main(["compare", str(tmp_path / "wandb.csv")]) == 1
    assert "without a finite val_loss: 1 of the runs of sgd" in capsys.readouterr().err


RUNS_OF = {
    **dict.fromkeys(["adam_3", "adam-3", "adam 3", "adam-seed3", "adam_seed_3", "adam seed=3", "adam-run3"], "adam"),
    **{f"{name}-seed3": name for name in ("resnet18", "vit-b16", "adam-lr-0.1", "adam_1e-3")},
    **{name: name for name in ("resnet18", "resnet50", "vit-b16", "adam-lr-0.1", "adam_1e-3", "prune3", "seed3", "3")},
}


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS_OF)
def test_a_run_is_of_the_group_that_its_name_without_the_seed_says(run: str, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "wandb.csv").write_text(f"Step,other - val_loss,{run} - val_loss\n1,1,2\n")
    (claim,) = compared(capsys, tmp_path / "wandb.csv")[1]
    assert claim["name"] == RUNS_OF[run]
    for name in ("other", run):
        (tmp_path / name).mkdir()
        (tmp_path / name / "trainer_state.json").write_text('{"log_history": [{"step": 1, "eval_loss": 1.0}]}')
    files = [tmp_path / name / "trainer_state.json" for name in ("other", run)]
    (claim,) = compared(capsys, *files)[1]
    assert claim["name"] == RUNS_OF[run]


def test_the_states_of_a_trainer_are_runs(tmp_path: Path, capsys: Any) -> None:
    files = []
    for group, mean in (("linear", 2.0), ("cosine", 1.0)):
        for seed in range(3):
            folder = tmp_path / f"{group}_{seed}" / "checkpoint-20"
            folder.mkdir(parents=True)
            history = [{"step": 10, "loss": 5.0}, {"step": 20, "eval_loss": mean + NOISE[seed] / 10}]
            (folder / "trainer_state.json").write_text(
                json.dumps({"log_history": [*history, {"step": 20, "runtime": 3}]})
            )
            files.append(folder / "trainer_state.json")
    status, (claim,) = compared(capsys, *files)
    assert (status, claim["name"], claim["baseline"], claim["kind"]) == (0, "cosine", "linear", "better")


def test_a_state_of_a_trainer_that_ends_in_nan_is_left_out_and_one_that_ends_in_a_summary_counts(
    tmp_path: Path, capsys: Any
) -> None:
    files = []
    for group, ends in (("good", [1.0, 1.0]), ("hot", [0.5, math.nan]), ("lion", [0.8, 0.8])):
        for seed in range(3):
            folder = tmp_path / f"{group}-seed{seed}"
            folder.mkdir()
            rows = [{"step": 10 + i, "eval_loss": end + NOISE[seed] / 100} for i, end in enumerate([0.5, *ends])]
            text = json.dumps({"log_history": [*rows, {"step": 12, "train_runtime": 3.0}]})
            (folder / "trainer_state.json").write_text(text)
            files.append(folder / "trainer_state.json")
    _, claims = compared(capsys, *files)
    assert [(claim["name"], claim["kind"]) for claim in claims] == [("lion", "better")]


def test_a_run_of_wandb_that_ends_in_nan_is_left_out_and_a_short_one_counts(tmp_path: Path, capsys: Any) -> None:
    ends = {"good": ["1", "1", "1"], "hot": ["0.5", "NaN", "NaN"], "short": ["0.5", "", ""]}
    names = [(group, seed) for group in ends for seed in range(3)]
    rows = [",".join(["Step", *(f"{group}_{seed} - val_loss" for group, seed in names)])]
    for step in range(3):
        values = [ends[group][step] for group, _ in names]
        rows.append(
            ",".join(
                [
                    str(step),
                    *(
                        f"{value}{seed}" if "." in value else value
                        for value, (_, seed) in zip(values, names, strict=True)
                    ),
                ]
            )
        )
    (tmp_path / "wandb.csv").write_text("\n".join(rows))
    _, claims = compared(capsys, tmp_path / "wandb.csv")
    assert [(claim["name"], claim["kind"]) for claim in claims] == [("short", "better")]


@pytest.mark.slow
def test_the_runs_of_an_mlflow_experiment_are_compared(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri := f"sqlite:///{tmp_path}/mlflow.db")
    client = MlflowClient(uri)
    experiment = client.create_experiment("mine", artifact_location=str(tmp_path))
    for group, mean in (("sgd", 0.5), ("adamw", 0.9)):
        for seed in range(4):
            run = client.create_run(experiment, run_name=f"{group} seed={seed}")
            for step in range(5):
                value = mean + NOISE[seed] / 100 - 0.1 * (4 - step)
                client.log_metric(run.info.run_id, "val_accuracy", value, step=step)
            client.set_terminated(run.info.run_id)
    client.create_run(experiment, run_name="sgd seed=9")
    assert cli.main(["compare", "mlflow:mine"]) == 0
    assert "not finished: 1 of the runs of mine" in capsys.readouterr().err
    _, claims = compared(capsys, "mlflow:mine")
    assert [(claim["name"], claim["kind"]) for claim in claims] == [("adamw", "better")]
    assert claims[0]["worth_steps"] == pytest.approx(4)
    assert cli.main(["compare", "mlflow:mine", "--target", "0.45", "--report", str(tmp_path / "made")]) == 0
    assert "steps to 0.45" in capsys.readouterr().out and (tmp_path / "made" / "curves.csv").exists()
    assert cli.main(["compare", "mlflow:other"]) == 2
    assert "mine" in capsys.readouterr().err
    experiment = client.create_experiment("named", artifact_location=str(tmp_path))
    for name in RUNS_OF:
        run = client.create_run(experiment, run_name=name)
        client.log_metric(run.info.run_id, "val_loss", 1.0)
        client.set_terminated(run.info.run_id)
        for param, value in (("width", len(name)), ("data.seed", name), ("depth", 2)):
            client.log_param(run.info.run_id, param, value)
    notes: list[str] = []
    (found,) = logs.read(["mlflow:named"], logs.Asked(), notes.append)
    assert any("differ in width," in line for line in notes)
    assert {run.name: run.group for run in found.runs} == RUNS_OF


def test_what_was_guessed_and_what_differs_is_said(tmp_path: Path, capsys: Any) -> None:
    path = table(tmp_path, old=5.0, new=2.0)
    path.write_text(path.read_text().replace("new,new0,3,", "new,new0,4,") + "\nnew,bad,1,1.0\nnew,bad,2,nan")
    assert cli.main(["compare", str(path)]) == 0
    shown = capsys.readouterr()
    for words in (
        "--group group",
        "--run run",
        "--step step",
        "--measure val_loss",
        "--goal min",
        "3 to 4",
        "without a finite val_loss: 1 of the runs of new",
    ):
        assert words in shown.err
    assert "better" in shown.out and "Welch" in shown.out


@pytest.mark.parametrize("state", ["crashed", "failed", "killed", "running"])
def test_runs_that_did_not_finish_are_counted_and_said(state: str, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "table_of_wandb.csv"
    ends = [("adam", "finished", 1.0), ("adam", state, 1.1), ("sgd", "finished", 2.0), ("sgd", "finished", 2.1)]
    rows = [f"r{i},{end},{group},{value}" for i, (group, end, value) in enumerate(ends)]
    path.write_text("\n".join(["Name,State,optimizer,val_loss", *rows]))
    assert cli.main(["compare", str(path)]) == 1
    assert "1 of the runs of adam did not finish" in (told := capsys.readouterr().err) and "of sgd" not in told
    path.write_text(path.read_text().replace(state, "finished"))
    assert cli.main(["compare", str(path)]) == 1
    assert "did not finish" not in capsys.readouterr().err


def diverging(folder: Path, last: list[str]) -> Path:
    """A CSV file of four good runs and four of a group `hot`, which are better until their last rows, as given."""
    lines = ["group,run,step,train_loss,val_loss,test_accuracy"]
    for run in range(4):
        for step in range(6):
            lines += [
                f"{group},{run},{step},,{mean + NOISE[run] / 100}," for group, mean in (("good", 1), ("hot", 0.5))
            ]
        lines += [f"good,{run},{6 + i},,{1 + NOISE[run] / 100}," for i in range(len(last))]
        lines += [f"hot,{run},{6 + i},{cells}" for i, cells in enumerate(last)]
    lines += [f"other,{run},0,,{2 + NOISE[run] / 100}," for run in range(4)]
    path = folder / "diverging.csv"
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize(
    "last", [[",nan,"], [",nan,", ",NaN,"], [",inf,", ",-inf,"], [",nan,", "0.4,,"], [",,"], [",,", ",,", ",,"]]
)
def test_runs_that_diverged_are_left_out_and_counted_however_long_they_went_on(
    last: list[str], tmp_path: Path, capsys: Any
) -> None:
    assert cli.main(["compare", str(diverging(tmp_path, last)), "--measure", "val_loss"]) == 1
    shown = capsys.readouterr()
    assert "hot" not in shown.out
    assert "without a finite val_loss: 4 of the runs of hot" in shown.err


@pytest.mark.parametrize(
    "last", [["0.4,,"], ["0.4,,", "0.3,,", "0.2,,"], [",,0.9"], [",nan,", ",0.5,"], [",NA,", ",0.5,"]]
)
def test_a_value_that_is_absent_from_rows_of_another_kind_is_no_divergence(
    last: list[str], tmp_path: Path, capsys: Any
) -> None:
    _, claims = compared(capsys, diverging(tmp_path, last), "--measure", "val_loss")
    assert [(claim["name"], claim["kind"]) for claim in claims] == [("hot", "better"), ("other", "worse")]


def test_the_only_column_of_numbers_is_the_measure_even_if_some_are_not_finite(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "runs.csv").write_text("group,run,loss\na,0,1.0\na,1,1.1\nb,0,nan\nb,1,2.0\nb,2,2.1\n")
    (claim,) = compared(capsys, tmp_path / "runs.csv")[1]
    assert claim["difference"] == pytest.approx(1.0)


def test_a_run_far_out_is_compared_by_trimmed_means_and_said(tmp_path: Path, capsys: Any) -> None:
    path = table(tmp_path, old=5.0, new=2.0)
    path.write_text(path.read_text() + "\nnew,far,3,900")
    assert cli.main(["compare", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "Yuen" in shown and "new (val_loss)" in shown and "better" in shown


def curves(folder: Path, name: str = "curves.csv", *, slope: float = -0.01, noise: float = 0.0, **ends: float) -> Path:
    """A CSV file with six runs of 41 steps in groups, which end at these values with this slope."""
    drawn = random.Random(1)
    lines = ["group,run,step,val_loss"]
    for group, end in ends.items():
        for run, shift in enumerate(NOISE[:6]):
            # Of the slope of each run a hundredth is its own.
            own = slope * (1 + shift / 100)
            lines += [
                f"{group},{run},{step},{end + shift / 50 + own * (step - 100) + drawn.gauss(0, noise)}"
                for step in range(20, 101, 2)
            ]
    path = folder / name
    path.write_text("\n".join(lines))
    return path


def test_a_gain_is_told_in_steps_of_the_baseline(tmp_path: Path, capsys: Any) -> None:
    path = curves(tmp_path, main=2.0, better=1.8, worse=2.1, same=2.0)
    _, claims = compared(capsys, path)
    assert [claim["kind"] for claim in claims] == ["better", "worse", "undecided"]
    # Each step of the baseline gains 0.01.
    assert [claim.get("worth_steps") for claim in claims] == [
        pytest.approx(20, rel=0.02),
        pytest.approx(-10, rel=0.02),
        None,
    ]
    assert cli.main(["compare", str(path)]) == 1
    shown = capsys.readouterr().out
    assert "better is worth 20 steps" in shown and "worse loses 10 steps" in shown


@pytest.mark.parametrize(
    ("slope", "noise", "words"),
    [(0.0, 0.01, "no significant slope"), (0.01, 0.0, "do not improve")],
)
def test_a_gain_is_not_told_in_steps_where_the_baseline_has_stopped_gaining(
    slope: float, noise: float, words: str, tmp_path: Path, capsys: Any
) -> None:
    path = curves(tmp_path, main=2.0, better=1.5, slope=slope, noise=noise)
    (claim,) = compared(capsys, path)[1]
    assert (claim["kind"], claim["worth_steps"]) == ("better", None)
    cli.main(["compare", str(path)])
    shown = capsys.readouterr().out
    assert words in shown and "is worth" not in shown


def test_steps_to_a_target_are_those_of_the_first_value_that_reaches_it(tmp_path: Path, capsys: Any) -> None:
    path = curves(tmp_path, main=2.0, quick=1.8)
    rows = [line.split(",") for line in path.read_text().splitlines()[1:]]
    reached: dict[tuple[str, str], float] = {}
    for group, run, step, value in rows:
        if float(value) <= 2.1:
            reached.setdefault((group, run), float(step))
    steps = {group: [at for (own, _), at in reached.items() if own == group] for group in ("main", "quick")}
    logs = {group: sum(map(math.log, of)) / len(of) for group, of in steps.items()}
    (claim,) = compared(capsys, path, "--target", 2.1)[1]
    assert claim["speedup"]["ratio"] == pytest.approx(math.exp(logs["main"] - logs["quick"]))
    assert claim["speedup"]["low"] < claim["speedup"]["ratio"] < claim["speedup"]["high"]
    cli.main(["compare", str(path), "--target", "2.1"])
    assert f"{sum(steps['main']) / 6:.1f} ±" in capsys.readouterr().out


def test_a_target_that_runs_have_missed_makes_a_bound(tmp_path: Path, capsys: Any) -> None:
    path = curves(tmp_path, main=2.0, quick=1.8)
    (claim,) = compared(capsys, path, "--target", 1.9)[1]
    assert claim["speedup"]["missed_baseline"] == 6 and claim["speedup"]["bound"] == "at least"
    (claim,) = compared(capsys, path, "--target", 1)[1]
    assert claim["speedup"]["ratio"] is None


@pytest.mark.slow
def test_the_page_of_a_comparison_says_what_the_terminal_says(tmp_path: Path, capsys: Any) -> None:
    path = curves(tmp_path, main=2.0, better=1.8)
    path.write_text(path.read_text().replace("main", "<b>main</b>"))
    assert cli.main(["compare", str(path), "--target", "2.1", "--report", str(tmp_path / "made")]) == 0
    shown, page = capsys.readouterr(), (tmp_path / "made" / "report.html").read_text()
    assert "<b>main</b>" not in page and "http:" not in page and "https:" not in page
    read = html.unescape(re.sub("<[^>]+>", "", page))
    answer, *_ = shown.out.splitlines()
    assert answer.startswith("By val_loss, better reached 1.799, 0.2 below") and answer in read
    for line in shown.out.splitlines():
        if line.startswith(("Compared by", "Speed-up", "better is worth")):
            assert line in read
    for line in shown.err.splitlines():
        assert line.removeprefix("onecycle_sweeps: ") in read
    names = {one.name for one in (tmp_path / "made").iterdir()}
    figures = {f"val_loss{part}.{form}" for part in ("", "_differences") for form in ("png", "svg")}
    assert names == {"report.html", "claims.csv", "runs.csv", "curves.csv"} | figures
    assert page.count("<svg") > 2


@pytest.mark.slow
def test_a_page_of_runs_without_steps_has_their_ends(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "ends.csv"
    path.write_text("group,run,score\n" + "\n".join(f"{g},{i},{n}" for g in "ab" for i, n in enumerate(NOISE)))
    assert cli.main(["compare", str(path), "--report", str(tmp_path / "made")]) == 0
    assert {one.name for one in (tmp_path / "made").iterdir()} == {
        *("report.html", "claims.csv", "runs.csv", "score.png", "score.svg"),
        *("score_differences.png", "score_differences.svg"),
    }


def test_columns_may_be_separated_by_semicolons(tmp_path: Path, capsys: Any) -> None:
    path = table(tmp_path, old=5.0, lower=2.0)
    with_commas = compared(capsys, path)
    path.write_text(path.read_text().replace(",", ";"))
    assert compared(capsys, path) == with_commas


def test_a_row_without_a_seed_is_in_no_pair(tmp_path: Path, capsys: Any) -> None:
    path = table(tmp_path, seeds=True, old=5.0, lower=4.9)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line.removesuffix("0") if line.endswith(",0") else line for line in lines))
    assert cli.main(["compare", str(path), "--seed", "seed"]) == 0
    shown = capsys.readouterr()
    assert "7 pairs" in shown.out and "no seed: 6 of the rows" in shown.err


@pytest.mark.parametrize("word", ["None", "NA", "null", "nan", "N/A"])
def test_words_for_nothing_are_names_of_groups_and_runs(word: str, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "runs.csv"
    rows = [f"{group},{run},{mean + i / 100}" for group, mean in ((word, 1), ("flip", 2)) for i, run in enumerate("ab")]
    path.write_text("\n".join(["augment,run,loss", *rows, f"{word},{word},1.02", f"flip,{word},2.02"]))
    assert cli.main(["compare", str(path), "--group", "augment"]) == 1
    shown = capsys.readouterr()
    assert "left out" not in shown.err
    (claim,) = compared(capsys, path, "--group", "augment", "--seed", "run")[1]
    assert (claim["name"], claim["baseline"]) == ("flip", word)
    assert claim["difference"] == pytest.approx(1.0)


def test_the_groups_of_a_number_column_that_has_none_are_all_compared(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "runs.csv"
    rows = [f"{clip},{i},{mean + i / 100}" for clip, mean in (("None", 1), ("0.5", 2), ("1.0", 3)) for i in range(3)]
    path.write_text("\n".join(["clip,seed,loss", *rows]))
    _, claims = compared(capsys, path, "--group", "clip", "--seed", "seed")
    assert [(claim["baseline"], claim["name"]) for claim in claims] == [("None", "0.5"), ("None", "1.0")]


def test_pairs_that_are_fewer_than_the_runs_are_said_on_the_terminal_and_on_the_page(
    tmp_path: Path, capsys: Any
) -> None:
    path, made = tmp_path / "runs.csv", tmp_path / "made"
    seeds = {"base": range(4), "few": range(1, 9), "all": range(4)}
    rows = [f"{group},{seed},{0.9 + NOISE[seed % 8] / 100}" for group, own in seeds.items() for seed in own]
    path.write_text("\n".join(["group,seed,accuracy", *rows]))
    cli.main(["compare", str(path), "--seed", "seed", "--report", str(made)])
    page = html.unescape(re.sub("<[^>]+>", "", (made / "report.html").read_text()))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "few 3 pairs of its 8 runs" in line]
    assert "the 4 of base" in line and "all 4 pairs" not in line and line in page
    path.write_text("\n".join(["group,seed,accuracy", *(row for row in rows if not row.startswith("few"))]))
    cli.main(["compare", str(path), "--seed", "seed"])
    assert "have a pair" not in capsys.readouterr().out


def test_it_has_a_help_text(capsys: Any) -> None:
    for typed in (["compare", "--help"], ["help", "compare"]):
        assert cli.main(typed) == 0
        assert "--no-worse-than" in capsys.readouterr().out


MISTAKES = {
    "no file": (["none.csv"], "there is no file none.csv"),
    "no column": (["runs.csv", "--measure", "accuracy"], "--measure accuracy is not among the columns"),
    "no such baseline": (["runs.csv", "--baseline", "x"], "--baseline x is not among the groups"),
    "no option": (["runs.csv", "--better", "x"], "compare --help"),
    "no margin": (["runs.csv", "--no-worse-than", "-1"], "--no-worse-than must be"),
    "one group": (["one.csv"], "at least 2 groups"),
    "no goal": (["odd.csv"], "--goal must be min or max"),
    "no table": (["empty.csv"], "not a CSV file"),
    "a step that is no number": (["steps.csv"], "--step step must have numbers"),
    "a value that is no number": (["texts.csv"], "--measure val_loss must have numbers"),
    "a target without steps": (["few.csv", "--target", "1"], "--target needs values of loss by step"),
    "a target of several measures": (["long.csv", "--target", "1"], "--target needs --measure, one of loss, wer"),
    "a report that is a file": (["runs.csv", "--report", "runs.csv"], "--report must name a folder"),
    "a header alone": (["header.csv"], "at least 2 groups"),
    "a file twice": (["runs.csv", "runs.csv"], "runs.csv is typed twice"),
    "rows that --run does not tell apart": (["mixed.csv", "--measure", "loss"], "a run of a has 2 rows"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_in_a_line(
    mistake: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    table(tmp_path, old=5.0, new=2.0)
    table(tmp_path, "one.csv", old=5.0)
    (tmp_path / "odd.csv").write_text("group,run,quality\n" + "\n".join(f"{g},{i},{i}" for g in "ab" for i in range(3)))
    (tmp_path / "mixed.csv").write_text("policy,lr,seed,loss\na,1,0,2\na,3,0,2\nb,1,0,2\n")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "header.csv").write_text("group,run,step,val_loss\n")
    (tmp_path / "few.csv").write_text("group,run,loss\na,1,1\na,2,1\nb,1,2\nb,2,1")
    (tmp_path / "long.csv").write_text(
        "group,run,step,metric,value\na,1,1,loss,1\nb,1,1,loss,1\na,1,1,wer,1\nb,1,1,wer,1"
    )
    (tmp_path / "steps.csv").write_text((tmp_path / "runs.csv").read_text().replace(",1,", ",first,"))
    (tmp_path / "texts.csv").write_text((tmp_path / "runs.csv").read_text() + "\nold,bad,1,high")
    arguments, words = MISTAKES[mistake]
    assert cli.main(["compare", *arguments]) == 2
    said = capsys.readouterr()
    assert words in said.err and not said.out


@pytest.fixture(scope="module")
def published(real_data: Path) -> Iterator[Path]:
    """Logs of trainings that others published."""
    yield real_data / "public_runs"


@pytest.mark.slow
def test_the_direction_of_each_published_measure_is_right(published: Path, capsys: Any) -> None:
    _, claims = compared(capsys, published / "algoperf_v05.csv")
    goals = {"loss": -1, "wer": -1, "ssim": 1, "accuracy": 1, "mean_average_precision": 1, "bleu": 1}
    assert {claim["measure"] for claim in claims} == set(goals)
    for claim in claims:
        gain = goals[claim["measure"]] * claim["difference"]
        assert claim["kind"] in (("better", "undecided") if gain > 0 else ("worse", "undecided"))


def final_losses(published: Path) -> dict[str, list[float]]:
    import pandas

    rows = pandas.read_csv(published / "nanogpt_track3.csv").sort_values("step", kind="stable")
    last = rows.groupby(["group", "run"]).tail(1)
    return {str(group): own["val_loss"].tolist() for group, own in last.groupby("group")}


def false_positives(groups: dict[str, list[float]], splits: int) -> float:
    """The share of random halves of a group that are called different."""
    drawn, called, made = random.Random(0), 0, 0
    for values in groups.values():
        for _ in range(splits // len(groups)):
            drawn.shuffle(values)
            half = len(values) // 2
            runs = [LoggedRun("a" if i < half else "b", str(i), None, None, value) for i, value in enumerate(values)]
            (claim,) = judged([RunsOfMeasure("val_loss", "min", tuple(runs))])
            called += claim.kind != "undecided"
            made += 1
    return called / made


@pytest.mark.slow
def test_halves_of_a_published_group_are_called_different_as_seldom_as_promised(published: Path) -> None:
    assert false_positives(final_losses(published), 600) < 0.075


@pytest.mark.parametrize("seeds", [True, False])
def test_runs_that_are_equal_but_for_float32_are_undecided(tmp_path: Path, capsys: Any, seeds: bool) -> None:
    finals = {"old": (0.865, 0.84 if seeds else 0.865), "new": (0.815, 0.79 if seeds else 0.815)}
    lines = [
        f"{group},{seed},{float(np.float32(value)) if group == 'old' else value}"
        for group, values in finals.items()
        for seed, value in enumerate(values)
    ]
    path = tmp_path / "runs.csv"
    path.write_text("\n".join(["group,seed,accuracy", *lines]))
    typed = ("--run", "seed", "--seed", "seed") if seeds else ("--run", "seed")
    (claim,) = compared(capsys, path, *typed)[1]
    assert claim["kind"] == "undecided" and claim["p"] is None
    assert claim["difference"] == pytest.approx(-0.05, abs=1e-6)
