"""How the program's commands grow with the number of trials."""

from dataclasses import asdict

from benchmarks import processes
from benchmarks.processes import Spent
from benchmarks.tables import Result, Table
from benchmarks.work import Options
from onecycle_sweeps.launching.machine import cores

TRAIN = ("data=digits", "policy=constant", "max_lr=0.1", "epochs=1", "batch_size=1024")
CAPTION = """Sweeps of so many trials, each a training of one step on digits, made by the program itself on {cores} \
workers. A row is a command from Enter to exit, each once: "run" makes the trials; "again" is the same command when \
all are finished (Hydra's expansion, the data's fingerprint, every trial's signature and folder, the report); "dry \
run" is a SLURM sweep of as many others with dry_run=true (expansion, fingerprint, the text of each submission); \
status, sync (with nothing new) and report are the verbs. Columns are seconds by the number of trials."""
GROWTH = """The same commands: what a trial more costs, in milliseconds (the difference between the largest and the \
smallest number of trials, by the number of trials between them), and the peak memory in MiB of the command's own \
process, workers not counted, for each number of trials."""


def run(options: Options) -> Result:
    """Two tables: seconds, and what a trial more costs."""
    counts = (3, 6) if options.quick else (10, 100, 1000)
    taken: dict[str, dict[int, Spent]] = {}
    for count in counts:
        folder = options.scratch / str(count)
        folder.mkdir()
        for name, words in commands(count).items():
            taken.setdefault(name, {})[count] = processes.run([*processes.PROGRAM, *words], folder)
    seconds = [(name, *(spent[count].wall for count in counts)) for name, spent in taken.items()]
    growth = [(name, *_growth(spent, counts)) for name, spent in taken.items()]
    named = [f"{count:,} trials" for count in counts]
    tables = [
        Table("Seconds of a command", CAPTION.format(cores=cores()), ("command", *named), seconds),
        Table("A trial more", GROWTH, ("command", "ms a trial", *(f"MiB, {name}" for name in named)), growth),
    ]
    return Result(tables, (), (), {name: {n: asdict(s) for n, s in spent.items()} for name, spent in taken.items()})


def commands(count: int) -> dict[str, list[str]]:
    """Each command's words, in the order in which they are typed."""
    sweep = [*TRAIN, f"seed=range({count})", "-m"]
    others = [*TRAIN, f"seed=range({count},{2 * count})", "hydra/launcher=slurm", "hydra.launcher.dry_run=true", "-m"]
    verbs = {verb: [verb] for verb in ("status", "sync", "report")}
    return {"run": sweep, "again": sweep, "dry run": others, **verbs}


def _growth(spent: dict[int, Spent], counts: tuple[int, ...]) -> list[float]:
    few, many = counts[0], counts[-1]
    each = 1000 * (spent[many].wall - spent[few].wall) / (many - few)
    return [each, *(spent[count].peak for count in counts)]
