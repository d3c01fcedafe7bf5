"""The program's help: its usage, verbs, examples and groups with their choices, and the help of each verb."""

import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from onecycle_sweeps import __version__, command_line, provenance
from onecycle_sweeps.terminal import invocation

QUESTION = "Which learning-rate policy, and which maximum learning rate, is best for my model on my data?"
EXAMPLES = {
    "": "one trial on handwritten digits, in this process",
    "policy=constant,step,clr,onecycle -m": "a sweep: a range test, then each policy on three seeds at its rate",
    "task=range_test data=fashion_mnist": "a range test alone",
    "data=csv data.path=houses.csv data.label=price policy=constant,onecycle -m": "a table of your own",
    "--config-dir my model=net data=waves objective=regression -m": "a net and a Dataset of your own, named in my/",
    "policy=constant,onecycle max_lr_scale=0.3,1,3 -m": "each policy at its own best rate",
    "hydra/launcher=slurm hydra.launcher.gpus_per_node=1 policy=constant,onecycle -m": "the same as jobs on a cluster",
}
GROUPS = {
    "policy": "the learning-rate schedule",
    "data": "the data set",
    "model": "the net",
    "objective": "what a step minimises and an evaluation measures",
    "optimizer": "the optimizer",
    "task": "a training or a range test",
    "loop": "a training function of your own in place of the program's loop",
    "experiment": "presets: published comparisons, ready to run",
    "hydra/launcher": "where a sweep's trials run",
}
KEYS = {
    "max_lr": "a number, or auto for the range test's verdict",
    "max_lr_scale": "multiplies max_lr: max_lr_scale=0.3,1,3 -m tunes each policy's rate",
    "epochs, batch_size": "the budget",
    "seed": "seed=0,1,2 -m: a sweep takes these three unless seeds are typed",
    "target": "a value of the headline measure; the report says after how many steps it was reached",
    "device, precision": "auto by default",
    "runs_dir": "where results are kept; by default runs",
    "tracking.uri": "the MLflow store or server; by default sqlite:///mlflow.db",
}
VERB_EXAMPLES = {
    "list": ("list", "list runs_dir=/scratch/me/runs"),
    "status": ("status", "status --watch", "status 3f2a runs_dir=/scratch/me/runs"),
    "resume": ("resume", "resume 3f2a hydra.launcher.timeout_min=120"),
    "ui": ("ui", "ui 3f2a", "ui tracking.uri=sqlite:////data/team/mlflow.db"),
    "sync": ("sync", "sync 3f2a tracking.uri=http://mlflow.example.org"),
    "doctor": ("doctor data=cifar10 model=resnet20", "doctor hydra/launcher=slurm --probe -m"),
}
OF_OVERRIDES = {
    "resume": "runs_dir, tracking.uri, tracking.experiment, and the launcher's keys, hydra.launcher.*",
    "doctor": "the overrides of the sweep to be checked",
    "list": "runs_dir",
}
FLAGS = {"--watch": "show the progress until all trials have ended", "--probe": "submit a short job that checks a node"}


def program(verbs: Mapping[str, str], argv: Sequence[str] = ()) -> str:
    """The program's help: its verbs with their descriptions, and the choices that a command line's folders add."""
    call = invocation()
    usages = (
        f"{call} [KEY=VALUE ...]                 one trial",
        f"{call} [KEY=VALUE,VALUE ...] -m        a sweep: every combination of the values",
        f"{call} VERB [SWEEP] [KEY=VALUE ...]    what a verb does with a recorded sweep",
    )
    blocks = (
        QUESTION,
        _block("usage", usages),
        _block("examples", [f"{call} {typed}".rstrip() + f"\n    {what}" for typed, what in EXAMPLES.items()]),
        _block(
            "verbs (SWEEP: its id, a prefix of that, or its path; by default the latest)",
            _table({name: _first_sentence(text) for name, text in verbs.items()}),
        ),
        _block("groups and their choices", _groups(command_line.config_folders(argv, Path.cwd()))),
        _block("keys that are often set", _table(KEYS)),
        _block(
            "more",
            _table(
                {
                    "VERB --help": "the help of a verb",
                    "--cfg job": "the config of a command, without running it",
                    "--hydra-help": "the options of Hydra, which reads the overrides",
                    "--version": "this program's version",
                }
            ),
        ),
    )
    return "\n\n".join(blocks)


def verb(name: str, description: str, flag: str | None, *, takes_sweep: bool) -> str:
    """The help of a verb."""
    usage = [invocation(), name, *(["[SWEEP]"] if takes_sweep else []), *([f"[{flag}]"] if flag else [])]
    arguments = {"SWEEP": "its id, a prefix of that, or its path; by default the latest"} if takes_sweep else {}
    arguments |= {flag: FLAGS[flag]} if flag else {}
    arguments["KEY=VALUE"] = OF_OVERRIDES.get(name, "runs_dir, tracking.uri or tracking.experiment")
    examples = [f"{invocation()} {typed}" for typed in VERB_EXAMPLES.get(name, (name,))]
    return "\n\n".join(
        (
            f"usage: {' '.join(usage)} [KEY=VALUE ...]",
            textwrap.fill(" ".join(description.split()), _width()),
            "\n".join(f"  {line}" for line in _table(arguments)),
            _block("examples", examples),
        )
    )


def version() -> str:
    """The program's name and version."""
    return f"{provenance.DISTRIBUTION} {__version__}"


def _groups(own: Sequence[Path]) -> Iterator[str]:
    for group, what in GROUPS.items():
        folders = (command_line.CONF / group, *(folder / group for folder in own))
        choices = dict.fromkeys(path.stem for folder in folders for path in sorted(folder.glob("*.yaml")))
        yield f"{group}: {what}"
        yield textwrap.fill(", ".join(choices), _width(), initial_indent="    ", subsequent_indent="    ")


def _block(title: str, lines: Sequence[str] | Iterator[str]) -> str:
    return "\n".join([f"{title}:", *(textwrap.indent(line, "  ") for line in lines)])


def _table(rows: Mapping[str, str]) -> Iterator[str]:
    """A line for each row, whose second column is wrapped."""
    left = max(map(len, rows)) + 2
    for name, text in rows.items():
        wrapped = textwrap.wrap(text, max(20, _width() - left - 2))
        yield f"\n{' ' * left}".join([name.ljust(left) + wrapped[0], *wrapped[1:]])


def _first_sentence(text: str) -> str:
    return text.partition(";")[0].partition(". ")[0].rstrip(".")


def _width() -> int:
    return min(100, shutil.get_terminal_size().columns)
