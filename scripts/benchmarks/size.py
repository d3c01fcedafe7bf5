"""How the time and the memory of the program's commands grow with the number of trials."""

from benchmarks import processes
from benchmarks.page import Result, Table
from benchmarks.processes import Spent
from benchmarks.work import Options
from onecycle_sweeps.machine import cores

TRAIN = ("data=digits", "policy=constant", "max_lr=0.1", "epochs=1", "batch_size=1024")
CAPTION = """Sweeps of this number of trials, each a training of one step on digits, made by the program itself on \
{cores} workers. A row is a command from Enter to exit, each once: "run" makes the trials; "again" is the same \
command when all are finished (Hydra's expansion, the data's fingerprint, every trial's signature and folder, the \
report); "dry run" is a SLURM sweep of as many others with dry_run=true (expansion, fingerprint, the text of each \
submission); status, sync (with nothing new) and report are the verbs. Columns are seconds by the number of trials."""
GROWTH = """The same commands: what one more trial costs, in milliseconds (the difference between the largest and the \
smallest number of trials, divided by the number of trials between them), and the peak memory in MiB of the command's \
own process, without workers, for each number of trials."""


def run(options: Options) -> Result:
    """Two tables: seconds, and the cost of one more trial."""
    counts = (3, 6) if options.quick else (10, 100, 1000)
    taken: dict[str, dict[int, Spent]] = {}
    for count in counts:
        folder = options.scratch / str(count)
        folder.mkdir()
        for name, words in commands(count).items():
            taken.setdefault(name, {})[count] = processes.run([*processes.PROGRAM, *words], folder)
    seconds = [(name, *(spent[count].wall for count in counts)) for name, spent in taken.items()]
    few, many = counts[0], counts[-1]
    growth = [
        (name, 1000 * (spent[many].wall - spent[few].wall) / (many - few), *(spent[count].peak for count in counts))
        for name, spent in taken.items()
    ]
    named = [f"{count:,} trials" for count in counts]
    tables = [
        Table("Seconds of a command", CAPTION.format(cores=cores()), ("command", *named), seconds),
        Table("A trial more", GROWTH, ("command", "ms a trial", *(f"MiB, {name}" for name in named)), growth),
    ]
    return Result(tables, (), (), taken)


def commands(count: int) -> dict[str, list[str]]:
    """The arguments of each command, in the order in which they are run."""
    sweep = [*TRAIN, f"seed=range({count})", "-m"]
    others = [*TRAIN, f"seed=range({count},{2 * count})", "hydra/launcher=slurm", "hydra.launcher.dry_run=true", "-m"]
    return {"run": sweep, "again": sweep, "dry run": others, **{verb: [verb] for verb in ("status", "sync", "report")}}
