"""What the process runs that tries trials before a command runs them: orders come in, lines of JSON go out."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from onecycle_sweeps import images
from onecycle_sweeps.config import nodes, schema
from onecycle_sweeps.launching.refusal import Order, Refusal
from onecycle_sweeps.terminal import in_one_line, with_traceback
from onecycle_sweeps.trial.rehearsal import Rehearsal


def first_refusal(orders: Sequence[Order], trying: Callable[[Order], None] = lambda _: None) -> Refusal | None:
    """The first refusal of a trial that could take no step; `trying` is told of each before it is tried."""
    rehearsal = Rehearsal()
    for order in orders:
        trying(order)
        config = order.config
        try:
            with nodes.environment(config):
                cache = Path(order.runs_dir) / "data" / config["needs"]["data"]
                facts = images.prepare(nodes.loader(config), cache, **schema.split(config))
                rehearsal.attempt(config, facts, elsewhere=order.elsewhere)
        except (Exception, SystemExit) as error:
            return Refusal(in_one_line(error), with_traceback(error))
    return None


def serve() -> None:
    """Try the orders that come on standard input; each is answered before by what it is, and all of them at the end."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def say(**line: Any) -> None:
        print(json.dumps(line), file=answers)

    orders = [Order(**json.loads(line)) for line in sys.stdin]
    try:
        refusal = first_refusal(orders, lambda order: say(trying=order.config["model"]["_target_"]))
    except KeyboardInterrupt as error:
        refusal = Refusal(in_one_line(error), with_traceback(error))
    say(refusals=[[refusal.line, refusal.traceback]] if refusal else [])
