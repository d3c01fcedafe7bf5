"""What a step, an epoch and a range test cost on the GPU, beside the loops that people write."""

import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice, pairwise, product
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import timing
from benchmarks.page import Requirement, Result, Table, not_installed
from benchmarks.peers import torch_loop
from benchmarks.timing import WARM_STEPS, Cost, interleaved
from benchmarks.training import logged_steps
from benchmarks.work import SEED, STEP_METRICS, VALIDATION, Points, Side, Work, planned
from gpu_check import card, plain
from gpu_check.figures import Options, taken
from gpu_check.plain import Recipe
from onecycle_sweeps import journal, measures, trial
from onecycle_sweeps.cuda_graph import EAGER_CALLS
from onecycle_sweeps.images import ImageBatches
from onecycle_sweeps.loop import Learner, Totals, steps
from onecycle_sweeps.planning import Trial
from onecycle_sweeps.policies import Constant
from onecycle_sweeps.trial import build
from onecycle_sweeps.trial.running import running
from onecycle_sweeps.trial.train import Recorder
from onecycle_sweeps.trial_folder import TrialFolder

NOISE = ("data=digits", "data._target_=gpu_check.stand_ins.noise")
OURS, BARE, GRAPH = "this program, journal on disk", "bare eager loop", "bare loop, a CUDA graph captured by hand"
ROUNDS, STEPS, BATCH = 5, 468, 128
STEP = """One epoch of {steps} steps of simple_cnn, batch {batch}, images of 1x28x28 on the device, fp32, SGD with \
Nesterov under a 1cycle schedule, an evaluation of {validation} images at the end, the same first weights and batch \
order for all; {rounds} rounds in turn after one that is not counted. Counted is the time from the beginning of step \
{warm}, of this program step {first}, when it has captured its graph, to the return of the training, when the GPU has \
finished. Both graphs hold the forward and the backward pass, that by hand also the batch; rate and momentum change \
between their replays, so the update stays outside, and is torch's fused one, which the bare loop does not use."""
WORK = """Steps {first} to {last} of an epoch, as the program takes and records them. Kernels and copies are those \
that torch.profiler saw on the device; a synchronising call is one that torch.cuda.set_sync_debug_mode warns of."""
EPOCHS = 6
EPOCH = """`experiment=cifar10_fast data=cifar10_jpeg epochs={epochs}`: ResNet-9, batch 512, {steps} steps an epoch, \
an evaluation of {val:,} images. Seconds are the median of the epochs after the first, with its evaluation. The \
plain loop has its images on the device, normalised, padded and in bf16, crops, flips and cuts a whole epoch at \
once, and runs bf16 autocast, channels_last and the fused SGD; it logs one accuracy an epoch. The Lightning row is a \
DataLoader of {workers} processes, torchvision's transforms on PIL images (without Cutout), bf16-mixed, MLFlowLogger \
(sqlite) and LearningRateMonitor at every step, over 3 epochs."""
WORKERS = 8
# The steps before a graph is captured, its capture, and two replays.
FIRST = EAGER_CALLS + 3
TORCHVISION = ("mobilenet_v2", "resnet50")
NETS = ("lenet", "simple_cnn", "resnet20", "resnet56", "resnet9", "wrn_22", *TORCHVISION)
PRECISION = """Steps of the program on noise of 3x32x32, median of {turns} turns of {count} steps. fp32 computes \
convolutions in TF32, torch's default."""
RANGE_TEST = """`task=range_test` of 200 steps of ResNet-9 on CIFAR-10, batch 512: a trial's folder brought to its \
verdict in a process that has torch and the decoded images at hand, first and once more."""


def run(options: Options) -> Result:
    """All figures of one process."""
    return taken(
        {"step": step, "work": work, "epoch": epoch, "range test": range_test, "precision": precision}, options
    )


def step(options: Options) -> Result:
    """A step of a small net beside the bare loop and a graph of it."""
    torch.set_num_threads(1)
    count, batch = options.sized(STEPS, 10), options.sized(BATCH, 16)
    side = options.sized(28, 8)
    size = (f"+data.train={count * batch}", f"+data.test={VALIDATION}", "+data.channels=1", f"+data.side={side}")
    asked = (f"device={options.device}", "precision=fp32", "threads=1", "max_lr=0.1", "epochs=1", f"seed={SEED}")
    net = ("model=simple_cnn", "model._target_=benchmarks.timing.TimedCNN")
    small = Work(_runs(options), (*NOISE, *size, *net, *asked, f"batch_size={batch}", "policy=onecycle"))
    sides = [Side(BARE, torch_loop.train), Side(OURS, _train, STEP_METRICS)]
    if options.device == "cuda":
        sides.append(Side(GRAPH, plain.graphed))
    rounds = options.sized(ROUNDS, 1)
    measured = interleaved({one.name: partial(one.run, small) for one in sides}, rounds, warm=1)
    rows = [(one.name, 1000 * measured.wall(one.name), measured.ratio(one.name, BARE)) for one in sides]
    caption = STEP.format(steps=count, batch=batch, validation=VALIDATION, rounds=rounds, warm=WARM_STEPS, first=FIRST)
    table = Table("A step of simple_cnn", caption, ("way to train", "ms/step", "time / bare loop"), rows)
    faster = 1 / measured.ratio(OURS, BARE)
    required = Requirement("a step with full logging: times as fast as the bare loop", faster, 3, at_least=True)
    return Result([table], [required], (), measured)


def _train(work: Work) -> tuple[Cost, Points]:
    """The program's trial, from step FIRST on."""
    folder, taking, count, start = work.folder(), None, 0, timing.now()
    training = running(folder)
    with suppress(StopIteration):
        while True:
            ready = training.send(taking)
            taking, count = (ready.alone(), count) if ready else (None, count + 1)
            if count == FIRST:
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                start = timing.now()
    # A graph that is replayed calls no net, so the stopwatch has not seen these steps.
    timing.stopwatch.passes = 0
    return timing.since(start).per(work.steps - FIRST), logged_steps(folder)


def work(options: Options) -> Result:
    """Kernels, copies and synchronising calls of a step."""
    count = options.sized(20, 2)
    chosen = {
        "simple_cnn, batch 128": (
            *NOISE,
            *_shape(options, 1),
            "model=simple_cnn",
            f"batch_size={options.sized(128, 8)}",
        ),
        "ResNet-9 as in cifar10_fast, batch 512": (
            *("experiment=cifar10_fast", *NOISE, *_shape(options, 3), f"batch_size={options.sized(512, 8)}"),
        ),
    }
    rows, rounds = [], {}
    for name, overrides in chosen.items():
        kernels, copies = _profiled(_learner(options, *overrides), count)
        calls = _synchronising(_learner(options, *overrides), count)
        rows.append((name, kernels / count, copies / count, sum(calls.values()) / count))
        rounds[name] = dict(calls)
    columns = ("net", "kernels a step", "copies a step", "synchronising calls a step")
    table = Table("What a step asks of the GPU", WORK.format(first=FIRST, last=FIRST - 1 + count), columns, rows)
    return Result(
        [table], [Requirement(f"{row[0]}: synchronising calls a step", row[3], 0) for row in rows], (), rounds
    )


def epoch(options: Options) -> Result:
    """An epoch of cifar10_fast beside the plainest fast loop and Lightning's."""
    epochs = options.sized(EPOCHS, 3)
    one = _planned(options, *cifar10(options), f"epochs={epochs}", "seed=0")
    folder = made(_runs(options), one)
    with card.watched() as usage:
        trial.run(folder)
    learner = built(folder)
    data = images_of(learner)
    recipe = Recipe(epochs, data.batch_size)
    sides = {OURS: _epochs(folder)}
    compiled = made(_runs(options), _planned(options, *cifar10(options), f"epochs={epochs}", "seed=0", "compile=true"))
    trial.run(compiled)
    sides[f"{OURS}, compile=true"] = _epochs(compiled)
    for benchmark in (False, True):
        name = f"the plainest fast loop, cuDNN {'timing its algorithms' if benchmark else 'by its heuristics'}"
        fresh = build.make_net(one.config, data.offered)
        sides[name] = [seconds for seconds, _ in plain.epochs(fresh, data, recipe, benchmark)][1:]
    left_out = [reason for reason in [not_installed("lightning", "the Lightning loop")] if reason]
    if not left_out:
        sides["DataLoader, torchvision, Lightning, MLFlowLogger"] = _lightning(options, one, learner)
    taken = {name: median(seconds) for name, seconds in sides.items()}
    fastest = min(seconds for name, seconds in taken.items() if name.startswith("the plainest"))
    rows = [(name, seconds, taken[OURS] / seconds) for name, seconds in taken.items()]
    per_epoch, val = len(data.train) // data.batch_size, len(data.val)
    caption = EPOCH.format(epochs=epochs, steps=per_epoch, val=val, workers=WORKERS)
    caption += f" nvidia-smi saw the GPU busy for {usage} of the trial's time, its start included."
    longer = (
        _seconds_in_all(compiled) - _seconds_in_all(folder) + epochs * (taken[OURS] - taken[f"{OURS}, compile=true"])
    )
    caption += f" Compiling, with nothing in torch's cache, took {longer:.0f} s."
    table = Table("An epoch of cifar10_fast", caption, ("way to train", "s/epoch", "this program's time / its"), rows)
    required = [Requirement("cifar10_fast: time beside the plainest fast loop's", taken[OURS] / fastest, 1.05)]
    if not left_out:
        slow = list(taken.values())[-1]
        required.append(
            Requirement("cifar10_fast: times as fast as Lightning's", slow / taken[OURS], 10, at_least=True)
        )
    return Result([table], required, left_out, sides)


def range_test(options: Options) -> Result:
    """A range test of ResNet-9 with its verdict."""
    count = options.sized(200, 100)
    data = ("data=digits", "epochs=1") if options.quick else cifar10(options)
    asked = (*data, "task=range_test", "max_lr=auto", f"range_test.steps={count}")
    rows: list[Sequence[Any]] = []
    for turn in ("first", "again"):
        folder = made(_runs(options), _planned(options, *asked), afresh=True)
        began = time.perf_counter()
        result = trial.run(folder)
        seconds = time.perf_counter() - began
        verdict = result["metrics"]["suggestion/max_lr"]
        rows.append((turn, result["steps"], seconds, 1000 * seconds / result["steps"], verdict))
    columns = ("turn", "steps until it diverged", "s", "ms/step", "max_lr")
    required = Requirement("a range test of 200 steps: seconds", rows[0][2], 3)
    return Result([Table("A range test of ResNet-9", RANGE_TEST, columns, rows)], [required])


def precision(options: Options) -> Result:
    """The two precisions of several nets at two batch sizes."""
    nets = ("lenet", "simple_cnn") if options.quick else NETS
    count, turns, sizes = options.sized(12, 2), options.sized(3, 1), (8,) if options.quick else (128, 512)
    rows: list[Sequence[Any]] = []
    for net, batch in product(nets, sizes):
        model = ("model=torchvision", f"model.name={net}") if net in TORCHVISION else (f"model={net}",)
        asked = (*NOISE, *_shape(options, 3), *model, f"batch_size={batch}")
        learners = {one: _learner(options, *asked, f"precision={one}") for one in ("fp32", "bf16")}
        seconds = {one: [_seconds(learner, count) for _ in range(turns + 1)][1:] for one, learner in learners.items()}
        fp32, bf16 = (median(seconds[one]) for one in ("fp32", "bf16"))
        takes = "bf16" if _learner(options, *asked).bf16 else "fp32"
        rows.append((net, batch, 1000 * fp32, 1000 * bf16, fp32 / bf16, takes))
    columns = ("net", "batch", "fp32 ms/step", "bf16 ms/step", "fp32 / bf16", "precision=auto takes")
    return Result([Table("Precision", PRECISION.format(turns=turns, count=count), columns, rows)])


def _seconds(learner: Learner, count: int) -> float:
    """What a step takes, the GPU's work included."""
    stream = steps(learner, Constant(0.01, FIRST + count))
    for _ in islice(stream, FIRST):
        pass
    _wait(learner)
    began = time.perf_counter()
    for _ in stream:
        pass
    _wait(learner)
    return (time.perf_counter() - began) / count


def _shape(options: Options, channels: int) -> Sequence[str]:
    """Noise in the shape of Fashion-MNIST (1 channel) or CIFAR-10 (3)."""
    side = options.sized({1: 28, 3: 32}[channels], 8)
    count = options.sized(60_000, 80)
    return (f"+data.train={count}", "+data.test=1000", f"+data.channels={channels}", f"+data.side={side}")


def cifar10(options: Options) -> Sequence[str]:
    """The preset on CIFAR-10's JPEGs, or in quick mode on a little noise; raises FileNotFoundError without them."""
    if options.quick:
        return ("experiment=cifar10_fast", *NOISE, *_shape(options, 3), "batch_size=16", "model=lenet")
    archive = Path(os.environ.get("ONECYCLE_DATA", "data")) / "cifar10_jpeg.tar"
    if not archive.exists():
        raise FileNotFoundError(f"there is no {archive}: ONECYCLE_DATA names the folder that has it")
    return ("experiment=cifar10_fast", "data=cifar10_jpeg")


def made(runs_dir: Path, asked: Trial, afresh: bool = False) -> TrialFolder:
    """A trial's folder as a command makes it before anything runs."""
    folder = TrialFolder(runs_dir / asked.signature)
    if afresh and folder.path.exists():
        folder.set_aside()
    folder.create(asked.config)
    return folder


def built(folder: TrialFolder) -> Learner:
    """The learner of a trial's first step, with the precision that the program chooses."""
    return build.begin(folder, folder.config(), (0.1, "config"))[1]


def images_of(learner: Learner) -> ImageBatches:
    """The learner's data, which are images."""
    assert isinstance(learner.data, ImageBatches)
    return learner.data


def _planned(options: Options, *overrides: str) -> Trial:
    return planned(_runs(options), *overrides, f"device={options.device}")


def _runs(options: Options) -> Path:
    return options.scratch / "runs"


def _learner(options: Options, *overrides: str) -> Learner:
    return built(made(_runs(options), _planned(options, *overrides, "max_lr=0.1", "seed=0")))


def _recorded(learner: Learner, count: int, begin: Callable[[], Any]) -> Iterator[None]:
    """Take the first steps, call `begin`, and take `count` more as a trial does; yields before what follows them."""
    recorder = Recorder(None, {}, "cuda")  # pyright: ignore[reportArgumentType]
    stream, totals = steps(learner, Constant(0.1, FIRST + count)), Totals()
    for _ in islice(stream, FIRST):
        pass
    begin()
    for one in stream:
        totals.add(one.sums)
        recorder.add(one)
    yield


def _profiled(learner: Learner, count: int) -> tuple[int, int]:
    """How many kernels and how many copies those steps started on the device."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    profiler = torch.profiler.profile(activities=activities if learner.data.device.type == "cuda" else activities[:1])

    def begin() -> None:
        _wait(learner)
        profiler.start()

    for _ in _recorded(learner, count, begin):
        _wait(learner)
        profiler.stop()
    names = [event.name for event in profiler.events() or () if event.device_type.name == "CUDA"]
    copies = sum(name.startswith(("Memcpy", "Memset")) for name in names)
    return len(names) - copies, copies


def _synchronising(learner: Learner, count: int) -> Counter[str]:
    """The synchronising calls of those steps, by the line that made them."""
    if learner.data.device.type != "cuda":
        return Counter()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in _recorded(learner, count, lambda: torch.cuda.set_sync_debug_mode("warn")):
            torch.cuda.set_sync_debug_mode("default")
    found = [one for one in seen if "synchronizing CUDA operation" in str(one.message)]
    return Counter(f"{Path(one.filename).name}:{one.lineno}" for one in found)


def _epochs(folder: TrialFolder) -> list[float]:
    """The seconds of each epoch but the first, by the times at which its evaluation was recorded."""
    ends = [block.time for block in journal.read(folder.journal).blocks if measures.ACCURACY.val in block.metrics]
    return [end - start for start, end in pairwise(ends)]


def _seconds_in_all(folder: TrialFolder) -> float:
    return (folder.result() or {})["metrics"]["seconds"]


def _lightning(options: Options, asked: Trial, learner: Learner) -> list[float]:
    from gpu_check import lightning_loop

    data = images_of(learner)
    parts = []
    for split in (data.train, data.val):
        parts += [split.images[split.index].permute(0, 2, 3, 1).cpu().numpy(), split.labels[split.index].cpu().numpy()]
    net, recipe = build.make_net(asked.config, data.offered), Recipe(3, data.batch_size)
    accelerator = "gpu" if options.device == "cuda" else "cpu"
    return lightning_loop.epochs(net, tuple(parts), recipe, options.sized(WORKERS, 0), options.scratch, accelerator)


def _wait(learner: Learner) -> None:
    if learner.data.device.type == "cuda":
        torch.cuda.synchronize()
