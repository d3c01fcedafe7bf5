"""Ships beside the training: a thread that never stops or fails its caller."""

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from onecycle_sweeps.sweep import Sweep
from onecycle_sweeps.tracking.shipping import Backlog, backlog, ship
from onecycle_sweeps.tracking.store import StoreUnreachable


class Shipper:
    """Ships a sweep that may grow, every `interval` seconds; leaving it makes a last pass of at most `grace` seconds.

    `error` is why the last pass failed, None if it did not.
    """

    def __init__(self, sweep: Callable[[], Sweep | None], *, interval: float = 3.0, grace: float = 60.0) -> None:
        self.error: Exception | None = None
        self._sweep, self._interval, self._grace = sweep, interval, grace
        self._leaving = threading.Event()
        self._deadline = float("inf")
        self._refused: tuple[str, ...] = ()
        self._thread = threading.Thread(target=self._work, name="shipper", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del kind, error, trace
        self._deadline = time.monotonic() + self._grace
        self._leaving.set()
        self._thread.join(self._grace)
        if self._thread.is_alive():
            self.error = StoreUnreachable(f"the MLflow store did not take all that was left within {self._grace:g} s")

    @property
    def backlog(self) -> Backlog:
        """What the store lacks at this moment."""
        sweep = self._sweep()
        return backlog(sweep, self._refused) if sweep else Backlog(0, 0)

    def _work(self) -> None:
        last = False
        while not last:
            last = self._leaving.is_set()
            self._pass()
            last = last or (self.error is not None and self._leaving.is_set())
            self._leaving.wait(0 if last else self._interval)

    def _pass(self) -> None:
        try:
            if sweep := self._sweep():
                self._refused = ship(sweep, expired=lambda: time.monotonic() > self._deadline).refused
            self.error = None
        except Exception as error:  # whatever it is, training goes on, and `sync` does the rest
            self.error = error
