"""What was typed and makes no difference: names of one trial, and trainings that come out the same."""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from onecycle_sweeps.config import nodes, schema
from onecycle_sweeps.config.schema import NOT_IN_SIGNATURE, Config
from onecycle_sweeps.planning import Trial
from onecycle_sweeps.policies import Hyper, Policy
from onecycle_sweeps.sweep import TRAIN, Entry, group_name, typed

OURS = "onecycle_sweeps."
MOMENTUM, SPLIT_SEED = "optimizer.momentum", "data.split_seed"
# So many steps tell most trajectories apart.
LOOKS = 32


def names_of_one(entries: Sequence[Entry]) -> list[str]:
    """A line for each group of trainings that is another one by another name."""
    pairs = ((group_name(entry.group), name) for entry in entries for name in entry.also)
    return [f"{name} is the same training as {known}: one row stands for both" for known, name in dict.fromkeys(pairs)]


class Trainings:
    """Trainings with their policies, of which it says which values make no difference to what is trained.

    `steps_per_epoch` gives the number for a config.
    """

    def __init__(self, trials: Sequence[Trial], steps_per_epoch: Callable[[Config], int]) -> None:
        self.trials = list({t.signature: t for t in trials if t.config["task"] == TRAIN}.values())
        self._steps_per_epoch = steps_per_epoch
        self._policies: dict[str, tuple[Policy, list[Hyper]]] = {}

    def without_effect(self) -> list[str]:
        """A line for values that were typed and change nothing that is trained, each once."""
        alike: dict[str, list[Trial]] = {}
        for trial in self.trials:
            alike.setdefault(self._what_is_trained(trial), []).append(trial)
        told: dict[str, str] = {}
        for found in alike.values():
            same = [trial for trial in found if self._same_trajectory(trial, found[0])]
            for key, values in _differing(same):
                told[f"{key} {self._choice(same[0])}"] = self._line(f"{key}={','.join(values)}", key, same[0])
        for key in (MOMENTUM, SPLIT_SEED):
            if self.trials and all(key in self._idle(trial) and key in typed(trial) for trial in self.trials):
                values = dict.fromkeys(typed(trial)[key] for trial in self.trials)
                what = f"{key} {self._choice(self.trials[0])}"
                told.setdefault(what, self._line(f"{key}={','.join(values)}", key, self.trials[0]))
        return list(told.values())

    def _line(self, what: str, key: str, trial: Trial) -> str:
        if key == MOMENTUM:
            own = "base_momentum" in trial.config["policy"]
            instead = "vary policy.base_momentum and policy.max_momentum, or type policy.cycle_momentum=false"
            alone = ", and counts for the range test alone" if trial.range_test else ""
            why = f"under {self._choice(trial)}, which sets the momentum of every step itself{alone}"
            return f"{what} changes no training {why}" + (f": {instead}" if own else "")
        if key == SPLIT_SEED:
            return f"{what} changes no training: with data.val_fraction=0 nothing is held out of the training set"
        return f"{what} changes no training: the rate and the momentum of every step are the same"

    def _choice(self, trial: Trial) -> str:
        return f"policy={trial.request.choices.get('policy', trial.config['policy']['_target_'])}"

    def _idle(self, trial: Trial) -> set[str]:
        """The keys that make no difference to this training beside the keys of its policy."""
        config = trial.config
        cycles = all(hyper.momentum is not None for hyper in self._policy(trial)[1])
        idle = {MOMENTUM} if cycles and "momentum" in config["optimizer"] else set[str]()
        # A loader of the user's own may draw by it.
        ours = config["data"]["_target_"].startswith(OURS)
        return idle | ({SPLIT_SEED} if ours and not config["data"]["val_fraction"] else set())

    def _what_is_trained(self, trial: Trial) -> str:
        """What two trainings share if they are the same; it leaves out steps of their policies."""
        out = (*NOT_IN_SIGNATURE, "needs", "policy", "max_lr")
        config = {key: value for key, value in trial.config.items() if key not in out}
        for parent, _, leaf in (key.partition(".") for key in self._idle(trial)):
            config[parent] = {key: value for key, value in config[parent].items() if key != leaf}
        if not trial.range_test:
            del config["range_test"], config["max_lr_scale"]
        node = trial.config["policy"]
        if trial.range_test and not node["_target_"].startswith(OURS):
            # How it takes another rate is not known.
            return json.dumps([config, node], sort_keys=True)
        looks = [(hyper.lr, hyper.momentum) for hyper in self._policy(trial)[1]]
        return json.dumps([config, looks], sort_keys=True)

    def _same_trajectory(self, trial: Trial, other: Trial) -> bool:
        (one, _), (two, _) = self._policy(trial), self._policy(other)
        return one is two or all(one(step) == two(step) for step in range(self._steps(trial)))

    def _steps(self, trial: Trial) -> int:
        return trial.config["epochs"] * self._steps_per_epoch(trial.config)

    def _policy(self, trial: Trial) -> tuple[Policy, list[Hyper]]:
        """The training's policy, and what it says of some steps."""
        config, steps = trial.config, self._steps(trial)
        key = json.dumps([config["policy"], config["epochs"], schema.max_lr(config), steps], sort_keys=True)
        if key not in self._policies:
            with nodes.environment(config):
                policy = nodes.policy(config, schema.max_lr(config), self._steps_per_epoch(config))
                looks = sorted({round((steps - 1) * i / (LOOKS - 1)) for i in range(LOOKS)})
                self._policies[key] = policy, [policy(step) for step in looks]
        return self._policies[key]


def _differing(trials: Sequence[Trial]) -> Iterator[tuple[str, list[str]]]:
    """The keys that were typed with several values for these trials, and the values."""
    overrides: list[dict[str, Any]] = [typed(trial) for trial in trials]
    for key in dict.fromkeys(key for one in overrides for key in one):
        values = list(dict.fromkeys(one[key] for one in overrides if key in one))
        if len(values) > 1:
            yield key, values
