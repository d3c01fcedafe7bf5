"""A sweep of short trials on one card: one after the other, by several workers that share it, and packed."""

from benchmarks.page import Requirement, Result, Table
from gpu_check import sweeps
from gpu_check.figures import Options, taken
from gpu_check.step import NOISE

TRIALS, TOGETHER = 24, 8
CAPTION = """{trials} trials of simple_cnn (4 policies x {seeds} seeds, max_lr 0.1), one epoch of {steps} steps at \
batch 128 on 60,000 images of 1x28x28, each command once. Training seconds are from the first step of all to the last \
trial's last; between trials is the median from a trial's last step to its worker's next first one, with \
evaluation, result, pictures and the next one's start; busy is nvidia-smi's, over the whole command."""


def run(options: Options) -> Result:
    """Both commands."""
    return taken({"sweep": sweep}, options)


def sweep(options: Options) -> Result:
    """The same trials one after the other, by eight workers on the card, and in one pack, by auto and as asked."""
    seeds = options.sized(TRIALS // 4, 1)
    train, side = options.sized(60_000, 512), options.sized(28, 8)
    size = (f"+data.train={train}", "+data.test=1000", "+data.channels=1", f"+data.side={side}")
    net = ("model=simple_cnn", "model._target_=benchmarks.timing.StampedCNN")
    rest = ("policy=constant,step,clr,onecycle", "max_lr=0.1", "-m", f"device={options.device}")
    words = (*NOISE, *size, *net, *rest, "epochs=1", f"seed={','.join(map(str, range(seeds)))}")
    rows, rounds = [], {}
    ways = {f"jobs_per_gpu={count}": (count, 1) for count in (1, options.sized(TOGETHER, 2))}
    packs = {f"packed={packed}": (1, packed) for packed in ("auto", 4 * seeds)}
    for way, (count, packed) in {**ways, **packs}.items():
        workers = (f"hydra.launcher.workers={count}", f"hydra.launcher.jobs_per_gpu={count}")
        ran = sweeps.run(options.scratch / way, *words, *workers, f"hydra.launcher.packed={packed}")
        statuses = [result["status"] for result in ran.results()]
        if len(statuses) != 4 * seeds:
            raise RuntimeError(f"{len(statuses)} of {4 * seeds} trials have a result")
        rows.append((way, ran.seconds, ran.busy_seconds(), ran.between_trials(), ran.busy))
        rounds[way] = {"stamps": ran.stamps(), "statuses": statuses}
    first = rows[0][2]
    table = Table(
        "A sweep of short trials",
        CAPTION.format(trials=4 * seeds, seeds=seeds, steps=train // 128),
        ("workers", "s from Enter to exit", "training s", "s between trials", "GPU busy", "times as fast in training"),
        [(*row, first / row[2]) for row in rows],
    )
    required = Requirement("24 packed trials: times as fast in training", first / rows[-1][2], 8, at_least=True)
    return Result([table], [required], (), rounds)
