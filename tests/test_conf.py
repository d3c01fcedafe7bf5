"""Every file of conf/ composes, passes the checks and fits the code it names; presets are what was published."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.utils import get_object, instantiate

import program
from hydra_plugins.onecycle_sweeps.launcher import plain_settings
from onecycle_sweeps import composing, policies, sweep, trial
from onecycle_sweeps.config import keys, nodes, schema
from onecycle_sweeps.config.preset import read
from onecycle_sweeps.config.schema import DEFAULT_EPOCHS, LOCAL_LAUNCHER, check, check_launcher
from onecycle_sweeps.launching.slurm.options import KEYS
from onecycle_sweeps.planning import Planner, Request
from onecycle_sweeps.policies import Policy
from real_trials import CONF, composed, made

FILES = [path.relative_to(CONF).with_suffix("") for path in sorted(CONF.rglob("*.yaml"))]
# Recipes are composed with the presets whose rows they are.
OWN = [file for file in FILES if file.parent != Path() and file.parts[0] not in ("hydra", "recipe")]
# What a trial passes to the code of a group besides the keys of its node.
OFFERED = {
    "model": {"in_channels", "in_features", "num_classes", "out_features", "vocab_size", "context"},
    "policy": {"total_steps", "steps_per_epoch"},
    "data": set(),
}
# Files with keys that have no default, and their overrides.
TYPED = {
    Path("data/image_folder"): ["data.path=photographs"],
    Path("data/arrays"): ["data.path=series.npz"],
    Path("data/csv"): ["data.path=houses.csv", "data.label=price"],
    Path("data/keel"): ["data.name=magic"],
    Path("data/text"): ["data.path=book.txt"],
    Path("data/torch_dataset"): ["data.dataset={_target_: mine.Waves}"],
    Path("loop/function"): ["loop._target_=own_loops.train", "loop.measure=accuracy", "loop.goal=max"],
    Path("model/transformers"): ["model.name=folder"],
    Path("model/transformers_lm"): ["model.name=folder"],
    Path("model/torchvision"): ["model.name=resnet18"],
    Path("model/timm"): ["model.name=resnet18"],
}
PRESETS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
# Presets for which somebody has published figures.
PUBLISHED = [name for name in PRESETS if "\npublished:" in (CONF / "experiment" / f"{name}.yaml").read_text()]
STEPS_OF_CIFAR = {512: 97, 1000: 50}


def of_group(*groups: str) -> list[Path]:
    found = [file for file in FILES if str(file.parent) in groups]
    assert {str(file.parent) for file in found} == set(groups)
    return found


def config_with(file: Path) -> dict[str, Any]:
    return composing.plain(composed(f"{file.parent}={file.name}", *TYPED.get(file, [])))


def test_the_defaults_pass_the_checks():
    check(composing.plain(composed()))
    assert composed().epochs == DEFAULT_EPOCHS


@pytest.mark.slow
@pytest.mark.parametrize("file", OWN, ids=str)
def test_every_file_composes_and_passes_the_checks(file: Path):
    check(config_with(file))


def test_the_keys_of_the_launchers_are_known_where_they_are_typed_without_their_node():
    assert [{*of_launcher} for of_launcher in keys.LAUNCHERS.values()] == [{*LOCAL_LAUNCHER}, {*KEYS}]


@pytest.mark.slow
@pytest.mark.parametrize("file", of_group("model", "data", "policy"), ids=str)
def test_every_key_of_a_file_is_a_parameter_of_the_code_it_names(file: Path):
    group = str(file.parent)
    node = config_with(file)[group]
    if group == "data":
        node = nodes.loader({"data": node}).args[0]  # type: ignore[attr-defined]
    signature = inspect.signature(get_object(node["_target_"]))
    # Raises TypeError where a key is unknown, or a parameter has no value.
    signature.bind(**dict.fromkeys({*node, *(OFFERED[group] & signature.parameters.keys())} - {"_target_"}))


@pytest.mark.slow
@pytest.mark.parametrize("file", of_group("policy"), ids=str)
def test_every_policy_trains_as_planned(file: Path, runs_dir: Path):
    table = ("data=breast_cancer", "batch_size=20", "max_lr=0.1", "epochs=2")
    result = trial.run(made(runs_dir, *table, f"policy={file.name}"))
    assert (result["status"], result["warnings"], result["steps"]) == ("finished", [], 44)


@pytest.mark.slow
@pytest.mark.parametrize("file", of_group("optimizer"), ids=str)
def test_every_optimizer_trains_at_the_rate_of_its_own_range_test(file: Path, runs_dir: Path):
    result = trial.run(made(runs_dir, f"optimizer={file.name}", "epochs=3", "batch_size=64"))
    assert result["status"] == "finished"
    assert result["metrics"]["final/val_accuracy"] > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("file", of_group("task"), ids=str)
def test_every_task_ends_in_a_result_of_its_kind(file: Path, runs_dir: Path):
    result = trial.run(made(runs_dir, f"task={file.name}", "max_lr=0.1", "epochs=1"))
    assert (result["kind"], result["status"]) == (file.name, "finished")


@pytest.mark.parametrize("file", of_group("hydra/launcher"), ids=str)
def test_every_launcher_is_one_of_hydras(file: Path):
    launcher = instantiate(composed(f"hydra/launcher={file.name}").hydra.launcher)
    assert isinstance(launcher, Launcher)
    check_launcher(plain_settings(vars(launcher)["settings"]), {"local": LOCAL_LAUNCHER, "slurm": KEYS}[file.name])


def test_the_sweeper_is_configured_like_hydras_own():
    ours, hydras = (composed(*typed).hydra.sweeper for typed in ((), ("hydra/sweeper=basic",)))
    assert isinstance(instantiate(ours), Sweeper)
    assert {**ours, "_target_": hydras._target_, "params": hydras.params} == hydras
    assert ours._metadata.object_type is hydras._metadata.object_type


def test_three_seeds_are_swept_unless_others_are_typed():
    assert composed().hydra.sweeper.params == {"seed": "0,1,2"}


def test_hydra_writes_only_to_runs_dir():
    hydra = composed("runs_dir=elsewhere").hydra
    assert (hydra.output_subdir, hydra.run.dir, hydra.sweep.dir) == (None, ".", "elsewhere/sweeps")


def swept(preset: str) -> list[tuple[str, ...]]:
    """The overrides of a preset's jobs, each of its rows once and not for every seed."""
    recipes = composed(f"experiment={preset}").hydra.sweeper.params.get("recipe")
    return [(f"recipe={recipe.strip()}",) for recipe in recipes.split(",")] if recipes else [()]


def config(preset: str, *overrides: str) -> dict[str, Any]:
    """The plain config of a preset."""
    return composing.plain(composed(f"experiment={preset}", *overrides))


def policy(preset: str, recipe: str, steps_per_epoch: int) -> tuple[dict[str, Any], Policy]:
    row = config(preset, *([f"recipe={preset}/{recipe}"] if recipe else []))
    rate = schema.max_lr(row)
    assert rate is not None
    return row, nodes.policy(row, rate, steps_per_epoch)


def lrs(made: Policy, *steps: int) -> list[float]:
    return [made(step).lr for step in steps]


def test_there_are_presets():
    assert len(PRESETS) >= 6


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_sweeps_without_a_flag_and_each_of_its_jobs_passes_the_checks(preset: str):
    hydra = composed(f"experiment={preset}").hydra
    assert hydra.mode.name == "MULTIRUN" and len(hydra.sweeper.params.seed.split(",")) >= 3
    for job in swept(preset):
        check(config(preset, *job))


@pytest.mark.slow
@pytest.mark.parametrize("preset", PUBLISHED)
def test_every_published_row_is_one_of_the_presets_own(preset: str):
    facts = read(config(preset)["published"])
    assert facts is not None
    recipes = {o.rpartition("/")[2] for job in swept(preset) for o in job if o.startswith("recipe=")}
    trained = recipes or {composed(f"experiment={preset}").hydra.runtime.choices.policy}
    assert set(facts.rows) == trained - {"range_test"}
    assert {name for pair in facts.pairs for name in (pair.row, pair.over)} <= trained
    assert facts.baseline is None or facts.baseline in trained


def test_every_recipe_belongs_to_a_preset():
    used = {o.removeprefix("recipe=") for preset in PRESETS for job in swept(preset) for o in job if "/" in o}
    there = {str(path.relative_to(CONF / "recipe").with_suffix("")) for path in (CONF / "recipe").rglob("*.yaml")}
    assert used == there


@pytest.mark.slow
@pytest.mark.parametrize("preset", PUBLISHED)
def test_every_preset_is_planned_with_digits_in_place_of_its_data(preset: str, runs_dir: Path):
    plain, trials = composing.plain(composed()), []
    for job in swept(preset):
        own = config(preset, *job)
        # A peak that is a step of the long run lies beyond the end of one on digits.
        short = {"step_size_up": 40} if own["policy"].get("step_size_up") else {}
        own |= {"runs_dir": str(runs_dir), "policy": own["policy"] | short}
        choices = composed(f"experiment={preset}", *job).hydra.runtime.choices
        trials.append(
            Planner(runs_dir).plan(Request(own | {k: plain[k] for k in ("data", "model")}, job, dict(choices)))
        )
    groups = {entry.varies["policy"] for entry in sweep.entries(trials) if entry.kind == sweep.TRAIN}
    facts = read(config(preset)["published"])
    assert facts is not None and groups == set(facts.rows)
    assert all("published" not in trial.config for trial in trials)


def test_published_figures_do_not_change_a_signature(runs_dir: Path):
    bare = composing.plain(composed("max_lr=0.1")) | {"runs_dir": str(runs_dir)}
    with_figures = bare | {"published": {"source": "a paper"}}
    planner = Planner(runs_dir)
    assert planner.plan(Request(with_figures)).signature == planner.plan(Request(bare)).signature


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["mnist_sample", "superconvergence_small"])
def test_presets_whose_data_exists_are_planned_unchanged(preset: str, runs_dir: Path, real_data: Path):
    planner = Planner(runs_dir)
    for job in swept(preset):
        own = config(preset, *job)
        own["data"]["root"] = str(real_data)
        planner.plan(Request(own | {"runs_dir": str(runs_dir)}, job))


def test_a_typed_value_wins_over_the_presets():
    typed = composed("experiment=superconvergence", "recipe=superconvergence/clr", "seed=7", "epochs=3", "max_lr=1")
    assert (typed.seed, typed.epochs, typed.policy.max_lr) == (7, 3, 1)


def test_the_cycle_of_super_convergence_peaks_at_step_5000_of_10000():
    row, clr = policy("superconvergence", "clr", STEPS_OF_CIFAR[1000])
    assert clr.total_steps == row["epochs"] * 50 == 10_000  # type: ignore[attr-defined]
    assert lrs(clr, 0, 2500, 5000, 7500, 9999) == pytest.approx([0.1, 1.55, 3.0, 1.55, 0.1 + 2.9 / 5000])
    assert clr(5000).momentum is None
    assert [node["_target_"].rpartition(".")[2] for node in row["data"]["augment"]] == ["Flip"]
    assert {key: row["optimizer"][key] for key in ("momentum", "nesterov", "weight_decay")} == {
        "momentum": 0.9,
        "nesterov": False,
        "weight_decay": 1e-4,
    }


def test_the_piecewise_run_of_super_convergence_drops_at_50000_and_70000_of_80000():
    _, piecewise = policy("superconvergence", "piecewise", STEPS_OF_CIFAR[1000])
    assert piecewise.total_steps == 80_000  # type: ignore[attr-defined]
    ends = lrs(piecewise, 0, 49_999, 50_000, 69_999, 70_000, 79_999)
    assert ends == pytest.approx([0.35, 0.35, 0.035, 0.035, 0.0035, 0.0035])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "momentum", "weight_decay"),
    [
        *((f"clr_momentum_{m}", float(m), 1e-4) for m in ("0.80", "0.85", "0.95")),
        *((f"clr_weight_decay_{wd}", 0.9, float(wd)) for wd in ("1e-3", "1e-5", "1e-6")),
    ],
)
def test_the_other_rows_of_figure_11_differ_as_their_names_say(recipe: str, momentum: float, weight_decay: float):
    row, clr = policy("superconvergence", recipe, 50)
    assert (row["optimizer"]["momentum"], row["optimizer"]["weight_decay"]) == (momentum, weight_decay)
    assert clr == policy("superconvergence", "clr", 50)[1]


@pytest.mark.parametrize(("recipe", "tail"), [("fastai_0.08-0.8", (0.08, 8e-4)), ("smith_0.08-0.8", (8e-5, 8e-5))])
def test_resnet56_rises_41_epochs_falls_41_and_ends_with_13_below(recipe: str, tail: tuple[float, float]):
    row, cycle = policy("resnet56_cifar10", recipe, STEPS_OF_CIFAR[512])
    up = 41 * 97
    assert (row["epochs"], row["batch_size"], cycle.total_steps) == (95, 512, 95 * 97)  # type: ignore[attr-defined]
    assert lrs(cycle, 0, up - 1, 2 * up - 1) == pytest.approx([0.08, 0.8, 0.08])
    first, last = lrs(cycle, 2 * up, 95 * 97 - 1)
    assert first == pytest.approx(tail[0], rel=2e-3)
    assert last == pytest.approx(tail[1])


def test_resnet56_cycles_momentum_unless_the_row_sets_one():
    _, cycled = policy("resnet56_cifar10", "fastai_0.08-0.8", 97)
    assert [cycled(s).momentum for s in (0, 41 * 97 - 1, 9214)] == pytest.approx([0.95, 0.85, 0.95])
    row, constant = policy("resnet56_cifar10", "fastai_0.08-0.8_momentum_0.9", 97)
    assert (constant(4000).momentum, row["optimizer"]["momentum"]) == (None, 0.9)
    row, constant = policy("resnet56_cifar10", "smith_0.08-0.8", 97)
    assert (constant(4000).momentum, row["optimizer"]["momentum"], row["optimizer"]["nesterov"]) == (None, 0.95, True)


@pytest.mark.parametrize("epochs", [50, 70])
def test_the_higher_rate_runs_015_to_3_with_a_tenth_below(epochs: int):
    row, cycle = policy("resnet56_cifar10", f"fastai_0.15-3_{epochs}_epochs", 100)
    total = 100 * epochs
    assert row["epochs"] == epochs
    ends = lrs(cycle, 0, int(0.45 * total) - 1, int(0.9 * total) - 1, total - 1)
    assert ends == pytest.approx([0.15, 3.0, 0.15, 0.0015])


def test_page_rises_5_epochs_and_falls_19_to_nothing():
    row, cycle = policy("cifar10_fast", "", STEPS_OF_CIFAR[512])
    assert (row["epochs"], row["batch_size"], row["label_smoothing"]) == (24, 512, 0)
    assert isinstance(cycle, policies.OneCycle) and cycle.total_steps == 24 * 97
    assert lrs(cycle, 5 * 97 - 1) == pytest.approx([0.4])
    assert max(lrs(cycle, 0, 24 * 97 - 1)) < 1e-4
    # Halfway down, epoch 14.5 of 24.
    assert lrs(cycle, int(14.5 * 97) - 1)[0] == pytest.approx(0.2, rel=0.01)
    assert (row["optimizer"]["weight_decay"], row["optimizer"]["nesterov"]) == (5e-4, True)
    names = [node["_target_"].rpartition(".")[2] for node in row["data"]["augment"]]
    assert names == ["PadCrop", "Flip", "Cutout"]
    assert (row["data"]["augment"][2]["size"], row["data"]["augment"][2]["inside"]) == (8, True)


def test_fastais_documentation_trains_3s_and_7s_for_2_epochs_with_its_own_optimizer():
    row, cycle = policy("mnist_sample", "onecycle_5e-2", 193)
    assert (row["data"]["classes"], row["epochs"], row["batch_size"]) == ([3, 7], 2, 64)
    assert row["optimizer"]["_target_"] == "torch.optim.AdamW"
    assert (row["optimizer"]["beta2"], row["optimizer"]["weight_decay"]) == (0.99, 0.01)
    assert max(cycle(s).lr for s in range(2 * 193)) == pytest.approx(0.05, rel=1e-4)
    assert config("mnist_sample", "recipe=mnist_sample/range_test")["task"] == "range_test"


def test_the_small_super_convergence_gives_the_piecewise_run_eight_times_the_steps():
    one, _ = policy("superconvergence_small", "onecycle", 62)
    piecewise, _ = policy("superconvergence_small", "piecewise", 62)
    assert piecewise["epochs"] == 8 * one["epochs"]


def test_ants_and_bees_compare_the_tutorials_rate_with_that_of_a_range_test():
    step, steplr = policy("transfer_ants_bees", "step_lr", 15)
    assert lrs(steplr, 0, 7 * 15 - 1, 7 * 15) == pytest.approx([1e-3, 1e-3, 1e-4])
    assert schema.max_lr(config("transfer_ants_bees", "recipe=transfer_ants_bees/onecycle")) is None
    assert (step["epochs"], step["batch_size"]) == (8, 16)


@pytest.mark.slow
def test_a_preset_sweeps_with_and_without_m_and_typed_values_win(tmp_path: Path):
    folder = program.with_store(tmp_path)
    typed = ("experiment=superconvergence_small", "data=digits", "model=simple_cnn", "epochs=1", "seed=5")
    first = program.run(folder, *typed)
    assert first.returncode == 0, first.stderr
    made = program.sweep_of(folder)
    assert sorted(entry.name(None) for entry in made.trials) == ["onecycle seed=5", "piecewise seed=5"]
    assert made.published is not None and made.published.baseline == "piecewise"
    (reasons,) = re.findall(r"not comparable \(([^)]*)", first.stdout)[:1]
    assert {f"{typed} was typed" for typed in ("data=digits", "model=simple_cnn", "epochs=1")} <= set(
        re.split("; |, ", reasons)
    )
    again = program.run(folder, *typed, "recipe=superconvergence_small/onecycle", "-m")
    assert again.returncode == 0, again.stderr
    assert [entry.reused for entry in program.sweep_of(folder).trials] == [True]
