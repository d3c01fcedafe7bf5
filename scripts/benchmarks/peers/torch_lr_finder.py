"""torch-lr-finder: range_test, and the reset of the net that its README asks for."""

import contextlib
import io
from collections.abc import Callable

from torch.nn.functional import cross_entropy
from torch.optim import SGD
from torch_lr_finder import LRFinder  # pyright: ignore[reportMissingImports]

from benchmarks.peers import SGD_SETTINGS
from benchmarks.work import Work
from onecycle_sweeps.range_test import Ramp


def range_test(work: Work, ramp: Ramp) -> Callable[[], int]:
    """A range test without its output."""
    net, loader = work.net(), work.loader()
    optimizer = SGD(net.parameters(), lr=ramp.start_lr, **SGD_SETTINGS)

    def search() -> int:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            finder = LRFinder(net, optimizer, cross_entropy, device="cpu")  # pyright: ignore[reportCallIssue]
            finder.range_test(loader, end_lr=ramp.end_lr, num_iter=ramp.total_steps)
            finder.reset()
        return len(finder.history["loss"])

    return search
