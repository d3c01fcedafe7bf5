"""How time and memory of the program's commands grow with the number of trials, on a simulated cluster."""

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import nodes, processes
from benchmarks.page import Requirement, Result, Table
from benchmarks.processes import PROGRAM
from benchmarks.timing import Cost
from benchmarks.work import Options

NODES, RATES = 100, ("0.01", "0.03", "0.1", "0.3", "1")
POLICIES = ("constant", "step", "clr", "onecycle")
START, RUN, DURING = "start", "the whole command", "status, while it runs"
# The bounds for 10,000 trials: seconds, and MiB of the command that launches.
BOUNDS = {START: 60.0, DURING: 5.0, "status": 5.0, "report": 60.0}
MOST_MEBIBYTES = 1024.0


def size(options: Options) -> Result:
    """A sweep of trials that do next to nothing on 100 nodes, and then the verbs."""
    largest = 100 if options.quick else options.trials or 1000
    counts = [count for count in (largest // 100, largest // 10, largest) if count >= 20]
    taken: dict[str, dict[int, Cost]] = {}
    for trials in counts:
        folder = options.scratch / str(trials)
        folder.mkdir()
        for name, cost in measured(folder, trials):
            taken.setdefault(name, {})[trials] = cost
    rows = []
    for name, spent in taken.items():
        walls, peaks = [spent[trials].wall for trials in counts], [spent[trials].peak for trials in counts]
        more = [1000 * (walls[-1] - walls[0]) / (counts[-1] - counts[0])] if len(counts) > 1 else []
        rows.append((name, *walls, *more, *(spent[trials].cpu for trials in counts), *peaks))
    seconds, cpus, peaks = ([f"{unit}, {trials:,} trials" for trials in counts] for unit in ("s", "CPU s", "MiB"))
    more = ["ms for a trial more"] if len(counts) > 1 else []
    columns = ("command", *seconds, *more, *cpus, *peaks)
    caption = f"""{len(POLICIES)} policies at {len(RATES)} rates on a simulated cluster of {NODES} nodes, whose trials \
take {nodes.TRIAL_SECONDS:g} s and write {nodes.STEPS} steps, into an sqlite store; once. "{START}" is from Enter \
until all is submitted, "{RUN}" until the report is written and MLflow has everything. MiB is the peak of the \
command's own process."""
    last = {name: spent[counts[-1]] for name, spent in taken.items()}
    required = [
        Requirement(f"{name}, {counts[-1]:,} trials: s", last[name].wall, bound) for name, bound in BOUNDS.items()
    ]
    required.append(Requirement(f"memory of the launcher, {counts[-1]:,} trials: MiB", last[RUN].peak, MOST_MEBIBYTES))
    return Result([Table("Size", caption, columns, rows)], required, (), taken)


def measured(folder: Path, trials: int) -> Sequence[tuple[str, Cost]]:
    """What each command costs for so many trials."""
    seeds = trials // (len(POLICIES) * len(RATES))
    swept = ["data=digits", f"policy={','.join(POLICIES)}", f"max_lr={','.join(RATES)}", f"seed=range({seeds})"]
    launcher = ["hydra/launcher=slurm", "hydra.launcher.array_parallelism=1000", "-m"]
    command, found = [*PROGRAM, *swept, *launcher], list[tuple[str, Cost]]()

    def at_start(process: subprocess.Popen) -> None:
        began, number, count = time.perf_counter(), 1, 0
        while count < trials:
            if process.poll() is not None:
                raise RuntimeError(f"only {count} of {trials} trials were submitted")
            time.sleep(0.02)
            while (made := nodes.elements(folder / "cluster", number)) is not None:
                number, count = number + 1, count + len(made)
        found.append((START, Cost(time.perf_counter() - began, processes.cpu_seconds(process.pid))))
        (folder / "during").mkdir()
        found.append((DURING, processes.run([*PROGRAM, "status", f"runs_dir={folder}/runs"], folder / "during")))

    with nodes.cluster(folder / "cluster", NODES):
        found.append((RUN, processes.run(command, folder, at_start)))
        found.append(("the same command again", processes.run(command, folder)))
    for verb in ("status", "sync", "report", "list"):
        found.append((verb, processes.run([*PROGRAM, verb], folder)))
    return found
