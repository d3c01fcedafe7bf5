"""What cannot work is refused before anything runs, in one line that names it."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import users_mistakes
from onecycle_sweeps.config.schema import ConfigError
from onecycle_sweeps.launching import preflight
from onecycle_sweeps.launching.preflight import Check, Perform, Preflight, Refusal
from onecycle_sweeps.planning import Planner, Trial
from real_trials import SHORT, planned, request


def net(name: str) -> tuple[str, str]:
    """The overrides that choose one of the user's nets."""
    return "~model", f"+model={{_target_: users_mistakes.{name}}}"


def policy(name: str) -> tuple[str, str]:
    """The overrides that choose one of the user's policies."""
    return "~policy", f"+policy={{_target_: users_mistakes.{name}, max_lr: 0.1}}"


def optimizer(target: str) -> tuple[str, ...]:
    """The overrides that choose an optimizer without momentum."""
    return f"optimizer._target_={target}", "~optimizer.momentum", "~optimizer.nesterov"


def check(runs_dir: Path, *overrides: str, elsewhere: bool = False) -> Check:
    return Check(planned(runs_dir, *SHORT, *overrides).config, str(runs_dir), elsewhere)


def refusal(runs_dir: Path, *overrides: str) -> str:
    """The line with which a trial is refused."""
    found = preflight.in_this_process([check(runs_dir, *overrides)])
    assert found
    assert "\n" not in found.line
    return found.line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.channels=0"], r"^model\.channels must .* got 0$"),
        (["model.channels=abc"], r"^model\.channels must .* got abc$"),
        (["model.head=xyz"], r"^model\.head must be linear or conv, got 'xyz'$"),
        (["model.bn=abc"], r"^model\.bn must be true or false, got 'abc'$"),
        (["+model.num_classes=7"], r"^model\.num_classes is set by the trial, to 10: .* got 7$"),
        (["+model.chanels=[8]"], r"unknown key model\.chanels; did you mean model\.channels\?$"),
        (["model=resnet20", "model.depth=21"], r"^model\.depth must be 6n\+2 .* got 21$"),
        (["model=torchvision", "model.name=resnet34x"], r"^model\.name .* resnet34, .* got 'resnet34x'$"),
        (["model._target_=nowhere.Net"], r"^model\._target_=nowhere\.Net: there is no module nowhere"),
        (["model._target_=users_mistakes.Nett"], r"no Nett in users_mistakes, did you mean Net\?$"),
        (["model._target_=math.pi"], r"^model\._target_ must be the dotted name of a class or function, got math\.pi"),
        (["model=resnet9", "batch_size=1"], r"shape \(1, 1, 8, 8\): .*more than 1 value per channel"),
        (
            ["+optimizer.wieght_decay=1"],
            r"unknown key optimizer\.wieght_decay; did you mean optimizer\.weight_decay\?$",
        ),
        (["optimizer.momentum=0", "policy=constant"], r"^optimizer .*Nesterov momentum .*momentum=0"),
        (["optimizer.fused=abc"], r"^optimizer\.fused must be true or false, got 'abc'$"),
        (["optimizer.nesterov=1"], r"^optimizer\.nesterov must be true or false, got 1$"),
        (
            ["optimizer.body_lr_scale=0.1"],
            r"^optimizer\.body_lr_scale must be 1 .*\bhead\b.* got 0\.1$",
        ),
        (["optimizer._target_=torch.optim.SDG"], r"no SDG in torch\.optim, did you mean SGD\?$"),
        ([*optimizer("torch.optim.Adagrad")], r"^Adagrad has neither momentum nor betas"),
        (
            [*optimizer("torch.optim.SparseAdam"), "~optimizer.weight_decay", "~optimizer.fused"],
            r"^optimizer cannot take a step: RuntimeError: .*dense",
        ),
        ([*optimizer("torch.optim.Muon"), "~optimizer.fused"], r"^optimizer .*: ValueError: Muon"),
        (["objective=regression"], r"needs values as targets, and each of these images has one class"),
        (["objective.headline=recall"], r"^objective\.headline must be one of accuracy, got recall"),
        (
            ["+objective.metrics.accuracy={_target_: users_mistakes.OfEachClass}"],
            r"^objective\.metrics\.accuracy must have another name: the objective itself measures accuracy, loss$",
        ),
        (
            ["+objective.metrics.each={_target_: users_mistakes.OfEachClass}", "objective.headline=each"],
            r"^objective\.metrics\.each must give one number, got a tensor of shape \(10,\) from OfEachClass: ",
        ),
        (
            ["+objective.metrics.two={_target_: users_mistakes.OfOneScore}"],
            r"^objective\.metrics\.two: OfOneScore cannot take outputs of shape \(2, 10\) and targets of shape \(2,\)",
        ),
        (["objective._target_=users_mistakes.Twice"], r"^measures must have different names, .* accuracy, accuracy"),
        (["objective.class_weights=[1,2]"], r"class_weights must have 10 numbers, one for each class, got 2"),
        (["data=diabetes", "policy=constant", "model.widths=[0]"], r"widths must be .* got \[0\]"),
        (["data=python_docs", "objective=classification"], r"needs classes as targets: it is a text"),
        (["data=python_docs", "model.heads=3"], r"width must be a multiple of heads=3, got 128"),
        (["data=diabetes", "policy=constant", "model=simple_cnn"], r"in_channels is missing"),
        (["model=transformers", "model.name=./absent"], r"^model\.name=\./absent cannot be loaded by transformers"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_choice_that_cannot_work_is_named_with_its_value(runs_dir: Path, overrides: list[str], words: str):
    assert re.search(words, refusal(runs_dir, *overrides))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Pair", r"\b10 scores.* shape \(2, 10\), got a tuple of 2$"),
        ("Named", r"\b10 scores.* got a dict of 1$"),
        ("TooManyClasses", r"\b10 scores.* got \(2, 11\)$"),
        ("Shapeless", r"^model\._target_=users_mistakes\.Shapeless .*scores\.weight .*lazy module .*constructor"),
        ("Untrainable", r"^model\._target_=users_mistakes\.Untrainable .*parameter"),
        ("Larger", r"images of shape \(2, 1, 8, 8\): RuntimeError: .* \(users_mistakes\.py:\d+ in forward\)"),
        ("Detached", r"cannot be trained .*RuntimeError: element 0 of tensors does not require grad"),
        ("FailsInEvaluation", r"cannot be evaluated .*KeyError: 'scale' \(users_mistakes\.py:\d+ in forward\)"),
        ("Leaves", r"left the process by sys\.exit\(3\) \(users_mistakes\.py:\d+ in forward\)"),
        ("Wide", r"^model\.width is missing, which Wide needs"),
        ("Line", r"^model\.max_lr is missing, which Line needs"),
        ("value_error", r"ValueError: invalid literal .*'many' \(users_mistakes\.py:\d+ in value_error\)"),
    ],
)
def test_a_net_of_the_users_that_cannot_be_trained_is_named_with_its_line(runs_dir: Path, name: str, words: str):
    assert re.search(words, refusal(runs_dir, *net(name)))


def test_an_optimizer_without_a_default_rate_is_accepted(runs_dir: Path):
    typed = ("~optimizer.weight_decay", "~optimizer.fused", "+optimizer.momentum=0.9")
    assert preflight.in_this_process([check(runs_dir, *net("Net"), *optimizer("users_mistakes.Older"), *typed)]) is None


@pytest.mark.parametrize(
    "overrides", [[], ["optimizer=adam"], ["precision=bf16"], ["task=range_test"], ["model=lenet", "batch_size=1"]]
)
def test_what_can_work_is_accepted(runs_dir: Path, overrides: list[str]):
    assert preflight.in_this_process([check(runs_dir, *overrides)]) is None


def test_a_transform_that_does_not_give_images_is_named_with_its_place(runs_dir: Path):
    flip = "{_target_: onecycle_sweeps.images.augmentation.Flip}"
    line = refusal(runs_dir, f"+data.augment=[{flip},{{_target_: users_mistakes.Floats}}]")
    assert line.startswith("data.augment[1] ") and "uint8" in line and line.endswith("got a tensor of torch.float32")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Nan", r"^policy\._target_=users_mistakes\.Nan must return finite rates .* got lr=nan at step 7$"),
        ("Negative", r"finite rates of at least 0, got lr=-\S+ at step 21$"),
        ("Bare", r"must return Hyper\(lr, momentum\), got 0\.1 at step 0$"),
        ("Heavy", r"must return momenta in \[0, 1\) or None, got momentum=1\.0 at step 0$"),
        ("HalfHeavy", r"must give a momentum for every step or None .* got momentum=0\.5 .* and None at step 7$"),
        ("Divides", r"^ZeroDivisionError: .* \(users_mistakes\.py:\d+ in __call__\)$"),
        ("Shorter", r"must have the total_steps of the run, 110, got 109$"),
        ("Endless", r"must have the total_steps of the run, 110, got none$"),
        ("Net", r"^policy\.in_channels is missing|^unknown key"),
    ],
)
def test_a_policy_of_the_users_that_no_run_can_follow_is_refused(runs_dir: Path, name: str, words: str):
    with pytest.raises(ConfigError, match=words):
        planned(runs_dir, *policy(name))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("key_error", "^KeyError: 'labels'"),
        ("assertion", "^AssertionError: no labels"),
        ("runtime_error", "^RuntimeError: no message"),
        ("value_error", "^ValueError: invalid literal .* 'many'"),
        ("system_exit", r"left the process by sys\.exit\(None\)"),
    ],
)
def test_an_error_in_a_loader_is_reported_with_its_line_whatever_its_type(runs_dir: Path, name: str, words: str):
    with pytest.raises(ConfigError, match=rf"{words}.* \(users_mistakes\.py:\d+ in {name}\)$") as raised:
        planned(runs_dir, f"data._target_=users_mistakes.{name}")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import numpy\n1 / 0\n", r"ZeroDivisionError: .* \(broken_module\.py:2 in <module>\)$"),
        ("def net(:\n", r"SyntaxError: .* \(broken_module\.py:1\)$"),
        ("\nimport torchvisoin\n", r"ModuleNotFoundError: .*torchvisoin.* \(broken_module\.py:2 in <module>\)$"),
        ("raise SystemExit('later')\n", r"sys\.exit\('later'\) \(broken_module\.py:1 in <module>\)$"),
    ],
)
def test_a_module_that_fails_to_import_is_reported_with_its_line(
    runs_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, words: str
):
    (tmp_path / "broken_module.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    line = refusal(runs_dir, "model._target_=broken_module.Net")
    assert line.startswith("model._target_=broken_module.Net cannot be imported: ")
    assert re.search(words, line)


def test_a_net_that_needs_a_gpu_is_not_refused_for_another_machine(runs_dir: Path):
    if users_mistakes.torch.cuda.is_available():
        pytest.skip("a GPU is here")
    assert preflight.in_this_process([check(runs_dir, *net("NeedsGpu"), elsewhere=True)]) is None
    assert "NVIDIA" in refusal(runs_dir, *net("NeedsGpu"))


@pytest.mark.slow
def test_trainings_that_are_judged_by_different_measures_are_not_one_sweep(runs_dir: Path):
    def checks(*overrides: str) -> list[Check]:
        return [
            check(runs_dir, f"data={data}", "policy=constant", *overrides) for data in ("breast_cancer", "diabetes")
        ]

    refused = preflight.in_this_process(checks())
    assert refused and re.search(r"accuracy \(max\) of .*breast_cancer.*rmse \(min\) of .*diabetes", refused.line)
    assert preflight.in_this_process(checks("objective.headline=loss")) is None
    assert preflight.in_this_process(checks("task=range_test")) is None


def test_training_functions_that_are_judged_by_different_measures_are_not_one_sweep(runs_dir: Path):
    def function(measure: str, goal: str) -> Trial:
        loop = ("loop=function", "loop._target_=own_loops.train", f"loop.measure={measure}", f"loop.goal={goal}")
        return planned(runs_dir, *loop, "max_lr=0.1")

    checks = Preflight(lambda _: None)
    with pytest.raises(ConfigError, match=r"accuracy \(max\).*loss \(min\)"):
        checks.check([function("accuracy", "max"), function("loss", "min")], runs_dir)
    checks.check([function("accuracy", "max"), function("accuracy", "max")], runs_dir)


def test_a_config_that_passed_in_one_launch_is_not_checked_in_the_next(runs_dir: Path):
    asked: list[str] = []

    def note(orders: Any) -> None:
        asked.append(" ".join(str(one.config["batch_size"]) for one in orders))

    checks = Preflight(note)
    plan = partial(planned, runs_dir, *SHORT)
    checks.check([plan("seed=0"), plan("seed=1"), plan("epochs=3")], runs_dir)
    checks.check([plan("seed=2"), plan("batch_size=32")], runs_dir)
    checks.check([plan("seed=3")], runs_dir)
    assert asked == ["256", "32"]


def test_a_refusal_keeps_its_traceback(runs_dir: Path):
    checks = Preflight(lambda _: Refusal("no", "Traceback of it"))
    with pytest.raises(ConfigError, match=r"^no\b") as raised:
        checks.check([planned(runs_dir)], runs_dir)
    assert raised.value.__notes__ == ["Traceback of it"]


@pytest.mark.slow
@pytest.mark.usefixtures("warm_processes")
@pytest.mark.parametrize("perform", [preflight.in_a_fork, preflight.in_a_fresh_process])
def test_another_process_performs_the_checks(runs_dir: Path, perform: Perform):
    assert perform([check(runs_dir), check(runs_dir, "optimizer=adam")]) is None
    refused = perform([check(runs_dir), check(runs_dir, *net("FailsInEvaluation"))])
    assert refused
    assert "KeyError: 'scale'" in refused.line
    assert "Traceback" in refused.traceback


@pytest.mark.slow
def test_a_process_that_performs_the_checks_may_crash(runs_dir: Path):
    for name, ending in (("Crashes", "SIGSEGV"), ("Exits", "exited with status 0"), ("ForkedCrash", "SIGKILL")):
        died = preflight.in_a_fork([check(runs_dir), check(runs_dir, *net(name))])
        assert died
        assert re.match(rf"model\._target_=users_mistakes\.{name} .*{ending}", died.line)
        assert died.killed is (name == "ForkedCrash")
        on_a_node = Preflight(lambda _, found=died: found, elsewhere=True)
        if not died.killed:
            with pytest.raises(ConfigError):
                on_a_node.check([planned(runs_dir)], runs_dir)
        else:
            # The node may have the memory that this machine lacks.
            on_a_node.check([planned(runs_dir)], runs_dir)


@pytest.mark.parametrize(
    "typed",
    [
        *("seed=18446744073709551616", "epochs=1000000000000", "evaluations_per_epoch=1000000000", "threads=100000"),
        *(
            "max_lr=1e10",
            "max_lr_scale=1e10",
            "policy.max_lr=1e10",
            "range_test.steps=1000000000",
            "data.split_seed=1e10",
        ),
        *(
            "range_test.end_lr=1e10",
            "range_test.seeds=[0,18446744073709551616]",
            "clip_norm=1e12",
            "batch_size=10000000000",
        ),
        *("optimizer.weight_decay=1e10", "optimizer.body_lr_scale=1e10", "checkpoint_minutes=1e300", "max_lr=1e400"),
    ],
)
def test_a_number_out_of_bounds_is_refused_with_its_key(runs_dir: Path, typed: str):
    with pytest.raises(ConfigError, match=rf"^{re.escape(typed.partition('=')[0])} must .*, got "):
        planned(runs_dir, typed)


def test_a_job_has_no_more_threads_than_cpus(runs_dir: Path):
    planner = Planner(runs_dir, cpus_elsewhere=600)
    assert planner.plan(request(runs_dir, "threads=600")).config["threads"] == 600
    with pytest.raises(ConfigError, match=r"threads must be at most hydra\.launcher\.cpus_per_task=600, got 601"):
        planner.plan(request(runs_dir, "threads=601"))
