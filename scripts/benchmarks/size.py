"""How the time and the memory of the program's commands grow with the number of trials."""

from benchmarks import processes
from benchmarks.page import Result, comparison
from benchmarks.processes import Spent
from benchmarks.work import Options
from onecycle_sweeps.machine import cores

TRAIN = ("data=digits", "policy=constant", "max_lr=0.1", "epochs=1", "batch_size=1024")
CAPTION = """Sweeps of this number of trials, each a training of one step on digits, on {cores} workers; a row is a \
command from Enter to exit, once, in seconds. "run" makes the trials; "again" is the same command when all are \
finished; "dry run" is a SLURM sweep of as many others; status, sync (with nothing new) and report are the verbs."""
GROWTH = """The same commands: what one more trial costs (the difference between the largest and the smallest sweep, \
divided by the trials between them), and the peak memory of the command's own process, without workers."""


def run(options: Options) -> Result:
    """Two tables: seconds, and the cost of one more trial."""
    few, *_, many = counts = (3, 6) if options.quick else (10, 100, 1000)
    taken: dict[str, dict[int, Spent]] = {}
    for count in counts:
        folder = options.scratch / str(count)
        folder.mkdir()
        for name, words in commands(count).items():
            taken.setdefault(name, {})[count] = processes.run([*processes.PROGRAM, *words], folder)
    seconds = {f"{count:,} trials": lambda name, count=count: taken[name][count].wall for count in counts}
    peaks = {f"MiB, {count:,} trials": lambda name, count=count: taken[name][count].peak for count in counts}
    each = {"ms a trial": lambda name: 1000 * (taken[name][many].wall - taken[name][few].wall) / (many - few)}
    tables = [
        comparison("Seconds of a command", CAPTION.format(cores=cores()), "command", taken, seconds),
        comparison("A trial more", GROWTH, "command", taken, each | peaks),
    ]
    return Result(tables, (), (), taken)


def commands(count: int) -> dict[str, list[str]]:
    """The arguments of each command, in the order in which they are run."""
    sweep = [*TRAIN, f"seed=range({count})", "-m"]
    others = [*TRAIN, f"seed=range({count},{2 * count})", "hydra/launcher=slurm", "hydra.launcher.dry_run=true", "-m"]
    return {"run": sweep, "again": sweep, "dry run": others, **{verb: [verb] for verb in ("status", "sync", "report")}}
