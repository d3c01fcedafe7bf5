"""torch-lr-finder: range_test, and the reset of the net that its README asks for."""

import contextlib
import io

from torch.nn.functional import cross_entropy
from torch.optim import SGD
from torch_lr_finder import LRFinder  # pyright: ignore[reportMissingImports]

from benchmarks.peers import SGD_SETTINGS
from benchmarks.timing import Cost, stopwatch
from benchmarks.work import Points, Work
from onecycle_sweeps.range_test import Ramp


def range_test(work: Work, ramp: Ramp) -> tuple[Cost, Points]:
    net, loader = work.net(), work.loaders()[0]
    optimizer = SGD(net.parameters(), lr=ramp.start_lr, **SGD_SETTINGS)
    finder = LRFinder(net, optimizer, cross_entropy, device="cpu")  # pyright: ignore[reportCallIssue]

    def search() -> None:
        finder.range_test(loader, end_lr=ramp.end_lr, num_iter=ramp.total_steps)
        finder.reset()

    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        cost = stopwatch.whole(search, work.steps)
    return cost, {"loss": range(len(finder.history["loss"]))}
