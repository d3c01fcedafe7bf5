"""What a command cannot do is refused before anything runs, in one line and with exit status 2."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override

from onecycle_sweeps import __main__ as program
from onecycle_sweeps import command_line, composing, mistakes
from program import write

Typing = Callable[..., str]
FILES = {
    "taken/sweeps/multirun.yaml/file": "",
    "conf/experiment/typo.yaml": "# @package _global_\nepoch: 3\n",
    "conf/experiment/deep.yaml": "# @package _global_\nrange_test: {num_it: 300}\ntracking: {run_name: x}\n",
    "conf/experiment/choice.yaml": "# @package _global_\ndefaults: [override /policy: onecyle]\n",
    "conf/experiment/group.yaml": "# @package _global_\ndefaults: [override /polcy: onecycle]\n",
    "conf/experiment/headless.yaml": "epochs: 3\n",
    "conf/experiment/listed.yaml": "- 3\n",
    "conf/experiment/broken.yaml": "# @package _global_\nepochs: 2\n batch_size: [3\n",
    "conf/experiment/twice.yaml": "# @package _global_\nepochs: 2\nepochs: 3\n",
    "conf/experiment/gres.yaml": "# @package _global_\nhydra: {launcher: {gres: 'gpu:1'}}\n",
    "conf/experiment/on_slurm.yaml": "# @package _global_\ndefaults: [override /hydra/launcher: slurm]\n",
    "conf/experiment/unused.yaml": (
        "# @package _global_\nwidths: {small: 16, large: 32}\nmodel:\n  channels: ['${widths.small}']\n"
    ),
    "conf/optimizer/rated.yaml": "_target_: torch.optim.SGD\nlr: 0.1\n",
    "conf/policy/inv.yaml": "_target_: onecycle_sweeps.policies.Constant\nmax_lr: ${max_lr}\n",
    "conf/policy/bare.yaml": "max_lr: ${max_lr}\n",
}


@pytest.fixture(scope="module", autouse=True)
def composes_once() -> Iterator[None]:
    """Compose each command once in place of three times.

    Hydra composes it beforehand to learn whether a preset makes it a sweep, which none here does. The config without
    the mistake, in which the loader looks for it, is kept for all commands with the same choices in groups.
    """
    compose, kept = mistakes.Loader._composed, dict[tuple[Any, ...], Any]()

    def composed(loader: mistakes.Loader, name: str | None, choices: Sequence[Override]) -> Any:
        key = (name, *(choice.input_line for choice in choices), *(source.path for source in loader.get_sources()))
        if key not in kept:
            kept[key] = compose(loader, name, choices)
        return kept[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mistakes.Loader, "_composed", composed)
        patch.setattr(Hydra, "get_mode", lambda *_, **__: None)
        yield


@pytest.fixture
def typing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Typing]:
    """Runs a command in a fresh folder, checks that it is refused with status 2, and returns the line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command_line, "wants_workers", lambda argv: False)
    for name in program.pool.THREAD_VARIABLES:
        monkeypatch.setenv(name, "1")

    def typed(*argv: str) -> str:
        monkeypatch.setattr("sys.argv", ["onecycle-sweeps", *argv])
        with pytest.raises(SystemExit) as ended:
            program.main()
        printed = capsys.readouterr()
        assert ended.value.code == 2, printed
        assert not printed.out
        assert printed.err.startswith("onecycle_sweeps: ") and printed.err.count("\n") == 1
        # No trial was started.
        assert not list(tmp_path.glob("runs/*/config.yaml"))
        return printed.err.removeprefix("onecycle_sweeps: ").strip()

    yield typed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "key", "meant"),
    [
        ("+gradient_checkpointing=true,false -m", "gradient_checkpointing", "nothing reads it"),
        ("++lookahead=0.5", "lookahead", "nothing reads it"),
        ("+accumulate_grad_batches=1,4 -m", "accumulate_grad_batches", "did you mean accumulate?"),
        ("+loss=focal", "loss", "did you mean objective?"),
        ("++ema=0.999", "ema", "did you mean ema_decay?"),
        ("+label_smothing=0.1", "label_smothing", "did you mean label_smoothing?"),
        ("+epoch=3", "epoch", "did you mean epochs?"),
        ("epoch=3", "epoch", "did you mean epochs?"),
        ("+epoch=1,2 -m", "epoch", "did you mean epochs?"),
        ("batch-size=3", "batch-size", "did you mean batch_size?"),
        ("+bs=64", "bs", "did you mean batch_size?"),
        ("weight_decay=0.1", "weight_decay", "did you mean optimizer.weight_decay?"),
        ("+momentum=0.9", "momentum", "did you mean optimizer.momentum?"),
        ("+pct_start=0.2", "pct_start", "did you mean policy.pct_start?"),
        ("policy.pct_strat=0.2", "policy.pct_strat", "did you mean policy.pct_start?"),
        ("optimizer={momentm: 0.8}", "optimizer.momentm", "did you mean optimizer.momentum?"),
        ("data=image_folder data.path=photos data.files=[a]", "data.files", "+data.files=[a]"),
        ("+lr=0.1", "lr", "the rate is max_lr=0.1"),
        ("learning_rate=0.1", "learning_rate", "the rate is max_lr=0.1"),
        ("+optimizer.lr=0.1", "optimizer.lr", "the rate is max_lr=0.1"),
        ("optimizer.lr=0.1,0.2 -m", "optimizer.lr", "the rate is max_lr=0.1"),
        ("optimizer=adam +optimizer.betas=[0.9,0.99]", "optimizer.betas", "optimizer.momentum and optimizer.beta2"),
        ("+range_test.num_it=300", "range_test.num_it", "did you mean range_test.steps?"),
        ("range_tset.steps=300", "range_tset.steps", "did you mean range_test.steps?"),
        ("+tracking.run_name=x", "tracking.run_name", "the keys of tracking are "),
        ("+policy@second=step", "second", "nothing reads it"),
        (
            "+widths={small: 16, large: 32} model.channels=[${widths.small}]",
            "widths.large",
            "the keys of widths are small",
        ),
        ("hydra.lancher.workers=2", "hydra.lancher.workers", "did you mean hydra.launcher.workers?"),
        ("+hydra.launcher.gres=gpu:1 -m", "hydra.launcher.gres", "hydra/launcher=slurm"),
        ("workers=2 -m", "unknown key workers", "did you mean hydra.launcher.workers, with -m?"),
        ("dry_run=true", "unknown key dry_run", "did you mean hydra/launcher=slurm hydra.launcher.dry_run, with -m?"),
        (
            "+hydra.launcher.gres=gpu:1 hydra/launcher=slurm -m",
            "hydra.launcher.gres",
            'hydra.launcher.additional_parameters={gres: "gpu:1"}',
        ),
        ("hydra.launcher.partion=x hydra/launcher=slurm -m", "partion", "did you mean hydra.launcher.partition?"),
        ("+hydra.launcher.n_jobs=2 -m", "hydra.launcher.n_jobs", "did you mean hydra.launcher.workers?"),
        ("+hydra.sweeper.parms.seed=1 -m", "hydra.sweeper.parms", "did you mean hydra.sweeper.params?"),
        ("+hydra.sweeper.params.sed='1,2' -m", "sed", "did you mean seed?"),
        ("hydra.launcher.workers=2", "hydra.launcher.workers=2", "add -m"),
        ("+hydra.launcher.gres=gpu:1", "hydra.launcher.gres", "add -m"),
        ("hydra/sweeper=basic", "hydra/sweeper=basic", "add -m"),
        ("hydra.job.env_set.MINE=3", "hydra.job.env_set.MINE", "+hydra.job.env_set.MINE=3"),
        ("optimizer.dampening=0.1", "optimizer.dampening", "+optimizer.dampening=0.1"),
        ("--epochs 3", "--epochs", "epochs=3"),
        ("--config-dir conf experiment=typo", "epoch", "did you mean epochs?"),
        ("--config-dir conf experiment=typo seed=0,1 -m", "epoch", "did you mean epochs?"),
        ("--config-dir conf experiment=deep", "range_test.num_it", "did you mean range_test.steps?"),
        ("--config-dir conf experiment=headless", "experiment.epochs", "# @package _global_"),
        ("--config-dir conf experiment=listed", "experiment[0]", "# @package _global_"),
        ("--config-dir conf experiment=gres -m", "hydra.launcher.gres", "workers"),
        ("--config-dir conf experiment=unused", "widths.large", "small"),
        ("--config-dir conf experiment=typo", "epoch", "conf/experiment/typo.yaml: unknown key"),
        ("--config-dir conf optimizer=sgd,rated seed=0 -m", "optimizer.lr", "conf/optimizer/rated.yaml: unknown key"),
        ("--config-dir conf policy=inv", "policy=inv", "conf/policy/inv.yaml is hidden"),
        ("--config-dir conf policy=constant,inv -m", "policy=inv", "conf/policy/inv.yaml is hidden"),
        ("+foo=1 --cfg job", "foo", "nothing reads it"),
        (
            "optimizer._target_=torch.optim.RMSprop +optimizer.alpha=0.9 max_lr=0.1",
            "optimizer.nesterov",
            "type ~optimizer.nesterov ~optimizer.fused",
        ),
        ("optimizer._target_=torch.optim.Adagrad max_lr=0.1", "optimizer.momentum", "Adagrad takes lr_decay"),
        ("+hydra.callbacks.mine={_target_: nowhere.Mine}", "hydra.callbacks.mine", "nowhere.Mine"),
        ("hydra/sweeper=optuna -m", "hydra/sweeper=optuna", "pip install hydra-optuna-sweeper"),
        ("hydra/sweeper=ax -m", "hydra/sweeper=ax", "use hydra/sweeper=optuna"),
        ("status +foo=1", "foo", "nothing reads it"),
        ("status epochs=3", "epochs=3", "leave it out"),
        ("report hydra.launcher.workers=2", "hydra.launcher.workers=2", "leave it out"),
        ("cancel policy=clr,step -m", "policy=clr,step", "leave it out"),
        ("report epoch=3", "epoch", "did you mean epochs?"),
        ("doctor +epoch=3", "epoch", "did you mean epochs?"),
    ],
)
def test_a_key_that_nothing_reads_is_refused_with_the_one_that_was_meant(
    typing: Typing, tmp_path: Path, typed: str, key: str, meant: str
):
    write(tmp_path, FILES)
    line = typing(*_words(typed))
    assert key in line
    assert meant in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "part"),
    [
        ("experiment=mnist_sampl", "did you mean mnist_sample? The choices are char_lm, cifar10_fast, "),
        ("experiment=mnist_sampl -m", "did you mean mnist_sample?"),
        ("recipe=nope", "mnist_sample/onecycle_5e-2, "),
        ("recipe=mnist_sample/onecycle_5e-2,mnist_sample/onecycel -m", "recipe=mnist_sample/onecycel"),
        ("policy=onecyle", "did you mean onecycle? The choices are clr, constant, "),
        ("policy=constant,onecyle -m", "policy=onecyle: there is no such choice; did you mean onecycle?"),
        ("polcy=onecycle", "did you mean policy?"),
        ("policy=", "the choices are clr, constant, "),
        ("data=null", "the choices are ants_bees, "),
        ("model=3", "model=3: name a choice of model"),
        ("experiment=null", "leave it out for none"),
        ("policy=[constant,onecycle]", "policy=constant,onecycle -m"),
        ("policy=constant,onecycle", "add -m"),
        ("seed=0,1", "add -m"),
        ("seed=range(3)", "add -m"),
        ("seed=glob(*) -m", "no value"),
        ("+policy=constant", "policy=constant without the +"),
        ("policy@second=step", "policy=step"),
        ("~policy", "policy"),
        ("~nothing", "there is no key nothing"),
        ("hydra/launcher=slrum -m", "did you mean slurm?"),
        ("hydra/sweeper=nope -m", "basic, grid"),
        ("hydra.launcher.workers=1,2 -m", "hydra.launcher.workers=1,2"),
        ("epochs=${nope}", "epochs cannot be resolved: there is no key nope"),
        ("epochs=${nope} -m", "epochs cannot be resolved: there is no key nope"),
        ("runs_dir=${oc.env:NOPE}", "runs_dir cannot be resolved: Environment variable 'NOPE' not found"),
        ("runs_dir=/dev/null/runs -m", "runs_dir: /dev/null/runs/sweeps cannot be made (Not a directory)"),
        ("runs_dir=taken -m", "taken/sweeps/multirun.yaml cannot be made (Is a directory)"),
        ("runs_dir=/dev/null/runs max_lr=0.1", "runs_dir: /dev/null/runs cannot be made (Not a directory)"),
        ("epochs=${epochs}", "epochs cannot be resolved"),
        ("epochs=ü", "quote its value, 'epochs=\"ü\"'"),
        ("data.classes=[3,7", "a ] is missing"),
        ("seed=0, -m", "no value after the last comma"),
        ("epochs.foo=1", "epochs is a single value (10)"),
        ("policy=onecycle fast", "fast is not an override: write key=value"),
        ("=1", "key=value"),
        ("+seed=1", "write seed=1"),
        ("--multirunn", "did you mean --multirun?"),
        ("-x", "unknown option -x"),
        ("--cfg jobb", "'jobb'"),
        ("--cfg job -m", "do not go together"),
        ("--cfg job --resolve epochs=${nope}", "there is no key nope"),
        ("--config-name nope", "there is no nope.yaml in "),
        ("--config-dir nope", "--config-dir nope: there is no such folder"),
        ("--config-path nope", "--config-path nope: there is no such folder"),
        ("--config-dir conf experiment=choice", "policy=onecyle in experiment/choice.yaml"),
        ("--config-dir conf experiment=group", "experiment/group.yaml overrides polcy"),
        ("--config-dir conf experiment=broken", "experiment/broken.yaml, line 3: "),
        ("--config-dir conf experiment=twice", "experiment/twice.yaml, line 3: "),
        ("--config-dir conf policy=bare", "policy._target_ is missing"),
        ("statu", "did you mean status?"),
        ("status policy=onecyle", "did you mean onecycle?"),
        ("status --wat", "did you mean --watch?"),
        ("status epochs=${nope}", "there is no key nope"),
    ],
)
def test_a_mistake_that_hydra_finds_is_one_line(typing: Typing, tmp_path: Path, typed: str, part: str):
    write(tmp_path, FILES)
    assert part in typing(*_words(typed))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "key", "remedy"),
    [
        ("hydra/launcher=local", "hydra/launcher=local", "add -m"),
        ("--config-dir conf experiment=on_slurm", "hydra/launcher=slurm", "add -m"),
        ("hydra.launcher.workers=2", "hydra.launcher.workers=2", "add -m"),
        ("hydra.sweep.dir=out", "hydra.sweep.dir=out", "add -m"),
        ("hydra.run.dir=out -m", "hydra.run.dir=out", "leave out -m"),
        ("hydra.job.chdir=true", "hydra.job.chdir=true", "leave it out"),
        ("+hydra.job.env_set.MY_TOKEN=1 -m", "hydra.job.env_set.MY_TOKEN", "cannot be set"),
        ("hydra/launcher=basic -m", "hydra/launcher=basic", "leave it out"),
        ("hydra.launcher.workers=0 -m", "hydra.launcher.workers", "at least 1 or auto, got 0"),
        ("stauts", "unknown verb 'stauts'", "did you mean status?"),
    ],
)
def test_what_cannot_be_done_is_refused(typing: Typing, tmp_path: Path, typed: str, key: str, remedy: str):
    write(tmp_path, FILES)
    line = typing(*_words(typed))
    assert line.startswith(key) and remedy in line
    assert not (tmp_path / "mlflow.db").exists()


def test_a_file_that_is_not_utf_8_is_named(typing: Typing, tmp_path: Path):
    write(tmp_path, {"conf/experiment/latin.yaml": ""})
    (tmp_path / "conf/experiment/latin.yaml").write_bytes(b"a: \xfc\n")
    assert f"{tmp_path}/conf/experiment/latin.yaml" in typing("--config-dir", "conf", "experiment=latin")


def test_hydras_variable_for_tracebacks_works(
    typing: Typing, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr("sys.argv", ["onecycle-sweeps", "epoch=3"])
    with pytest.raises(SystemExit, match="2"):
        program.main()
    assert "Traceback" in (printed := capsys.readouterr().err)
    assert printed.endswith("onecycle_sweeps: unknown key epoch; did you mean epochs?\n")


def test_overrides_may_be_on_both_sides_of_an_option(tmp_path: Path):
    typed = ["policy=onecycle", "-m", "seed=0,1", "--config-dir", str(tmp_path), "epochs=2"]
    ordered = mistakes.checked_arguments(typed)
    assert ordered == ["-m", "--config-dir", str(tmp_path), "policy=onecycle", "seed=0,1", "epochs=2"]
    assert mistakes.checked_arguments(ordered) == ordered


@pytest.mark.slow
@pytest.mark.parametrize(
    "typed",
    [
        "+widths.small=16 model.channels=['${widths.small}',32]",
        "+a=3 +b=${a} epochs=${b}",
        '+rates={constant: 0.1, onecycle: 0.2} max_lr="${rates.${hydra:runtime.choices.policy}}"',
        "+folder=x hydra.sweep.dir=${folder}/sweeps",
        "experiment=mnist_sample",
        "recipe=mnist_sample/onecycle_5e-2",
        "optimizer._target_=torch.optim.RMSprop ~optimizer.nesterov ~optimizer.fused +optimizer.alpha=0.9",
        "~experiment",
    ],
)
def test_a_key_that_is_used_is_accepted(typed: str):
    with mistakes.as_config_errors(), initialize_config_dir(str(command_line.CONF), version_base="1.3"):
        config = compose("config", _words(typed), return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        composing.plain(config)


def test_env_set_may_interpolate_keys_of_the_trials_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    write(tmp_path, {"notes.py": "import os\n\nraise RuntimeError(os.environ['SHADE'])\n"})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command_line, "wants_workers", lambda argv: False)
    typed = ["+hydra.job.env_set.SHADE=s${seed}", "model._target_=notes.Net", "seed=4", "max_lr=0.1"]
    monkeypatch.setattr("sys.argv", ["onecycle-sweeps", *typed])
    with pytest.raises(SystemExit, match="2"):
        program.main()
    assert "RuntimeError: s4" in capsys.readouterr().err


def _words(typed: str) -> list[str]:
    """The arguments in a line without quotes; spaces within braces do not separate."""
    words, depth = [""], 0
    for letter in typed:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if letter == " " and not depth:
            words.append("")
        else:
            words[-1] += letter
    return words
