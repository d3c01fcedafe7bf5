"""What goes to whoever tries a trial before it runs, and what comes back."""

from dataclasses import dataclass

from onecycle_sweeps.config.schema import Config


@dataclass(frozen=True)
class Order:
    """A trial to be tried: its config, where data lie decoded, and whether it is to run on another machine."""

    config: Config
    runs_dir: str
    elsewhere: bool


@dataclass(frozen=True)
class Refusal:
    """Why a trial could take no step: one line, and the traceback if there is one; `killed` by the system it may do."""

    line: str
    traceback: str = ""
    killed: bool = False
