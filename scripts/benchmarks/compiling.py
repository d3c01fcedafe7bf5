"""torch.compile in a process of its own: seconds to compile, and what a step takes beside an eager one."""

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.tables import Cell
from benchmarks.work import Options

TIMEOUT_SECONDS = 900


@dataclass(frozen=True)
class Case:
    """A net, a number format and a batch size."""

    net: str
    bf16: bool
    batch: int

    def row(self, options: Options) -> list[Cell]:
        """The case's row, with a cache that is empty at first."""
        cache = options.scratch / f"{self.net}-{self.bf16}"
        numbers = f"{'bf16' if self.bf16 else 'fp32'}, channels_last"
        cold = self.measured(cache, options)
        if cold is None:
            return [self.net, numbers, f"not within {TIMEOUT_SECONDS} s", *[None] * 5]
        warm = self.measured(cache, options)
        assert warm is not None, "a warm cache cannot be slower than the time limit"
        eager, compiled = (statistics.median([cold[side], warm[side]]) for side in ("eager", "compiled"))
        gain = eager - compiled
        pays = [compile_seconds["compile"] / gain if gain > 0 else "never" for compile_seconds in (cold, warm)]
        return [self.net, numbers, cold["compile"], warm["compile"], self.batch / eager, self.batch / compiled, *pays]

    def measured(self, cache: Path, options: Options) -> dict[str, Any] | None:
        """One process's figures, None where compiling takes too long."""
        words = [self.net, "bf16" if self.bf16 else "fp32", str(self.batch), str(options.rounds)]
        command = [sys.executable, "-m", "benchmarks.compiling", *words]
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(cache), "TORCHINDUCTOR_FX_GRAPH_CACHE": "1"}
        try:
            done = subprocess.run(
                command, env=environment, check=True, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT_SECONDS
            )
        except subprocess.TimeoutExpired:
            return None
        return json.loads(done.stdout.splitlines()[-1])


def main(net: str, numbers: str, batch: int, rounds: int) -> dict[str, float]:
    """Seconds to compile, and the median seconds of an eager and of a compiled step, taken in turn."""
    import torch

    from benchmarks import costs
    from benchmarks.nets import Setting, stepper

    torch.set_num_threads(1)
    bf16 = numbers == "bf16"
    sides = {
        kind: stepper(net, Setting(bf16, update="fused", compiled=kind == "compiled"), batch)
        for kind in ("eager", "compiled")
    }
    began = time.perf_counter()
    sides["compiled"]()
    compiling = time.perf_counter() - began
    sides["eager"]()
    repeat = max(1, min(50, round(0.5 / costs.timed(sides["eager"]).wall)))
    turns = {kind: lambda step=step: costs.timed(step, repeat) for kind, step in sides.items()}
    measured = costs.interleaved(turns, rounds, warm=1)
    return {"compile": compiling, **{kind: costs.wall(measured, kind) for kind in measured}}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
