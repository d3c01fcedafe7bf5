"""What differs between trials: keys without effect, a command and its recorded sweep, and results of other code."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from onecycle_sweeps import provenance
from onecycle_sweeps.config import function_node, keys, nodes, schema
from onecycle_sweeps.config.schema import NOT_IN_SIGNATURE, RANGE_TEST, TRAIN, Config
from onecycle_sweeps.files import Unreadable
from onecycle_sweeps.planning import OURS, Request, Trial
from onecycle_sweeps.policies import Hyper, Policy
from onecycle_sweeps.provenance import NAMED, Change
from onecycle_sweeps.terminal import first_few
from onecycle_sweeps.trial_folder import TrialFolder

MOMENTUM, SPLIT_SEED = "optimizer.momentum", "data.split_seed"
# Most trajectories that differ do so at one of this many evenly spread steps.
SAMPLED_STEPS = 32
ABSENT = "nothing"


def without_effect(trials: Sequence[Trial], steps_per_epoch: Callable[[Config], int]) -> list[str]:
    """A line for each typed key whose values make no difference to any of these trainings."""
    return _Trainings(trials, steps_per_epoch).without_effect()


class _Trainings:
    """Finds keys without effect, by comparing the rates and momenta of trainings."""

    def __init__(self, trials: Sequence[Trial], steps_per_epoch: Callable[[Config], int]) -> None:
        # The number of steps of a user's own function is unknown.
        known = (t for t in trials if t.config["task"] == TRAIN and schema.LOOP not in t.config)
        self.trials = list({t.signature: t for t in known}.values())
        self._steps_per_epoch = steps_per_epoch
        self._policies: dict[str, tuple[Policy, list[Hyper]]] = {}

    def without_effect(self) -> list[str]:
        """A line for each key whose values make no difference."""
        alike: dict[str, list[Trial]] = {}
        for trial in self.trials:
            alike.setdefault(self._what_is_trained(trial), []).append(trial)
        lines: dict[str, str] = {}
        for trials in alike.values():
            first = trials[0]
            same = [trial for trial in trials if self._same_trajectory(trial, first)]
            for key, values in _differing(same):
                lines[f"{key} {_policy_choice(first)}"] = _no_effect(key, values, first)
        for key in (MOMENTUM, SPLIT_SEED):
            if self.trials and all(key in self._unused(t) and key in t.request.typed() for t in self.trials):
                values = dict.fromkeys(trial.request.typed()[key] for trial in self.trials)
                first = self.trials[0]
                lines.setdefault(f"{key} {_policy_choice(first)}", _no_effect(key, values, first))
        return list(lines.values())

    def _unused(self, trial: Trial) -> set[str]:
        """The keys, apart from the policy's, that make no difference to a training."""
        config = trial.config
        cycles = all(hyper.momentum is not None for hyper in self._policy(trial)[1])
        unused = {MOMENTUM} if cycles and "momentum" in config["optimizer"] else set[str]()
        # A user's own loader may use split_seed itself.
        ours = config["data"]["_target_"].startswith(OURS)
        return unused | ({SPLIT_SEED} if ours and not config["data"]["val_fraction"] else set())

    def _what_is_trained(self, trial: Trial) -> str:
        """A text that is equal for equal trainings; policies are compared at the sampled steps only."""
        left_out = (*NOT_IN_SIGNATURE, "needs", "policy", "max_lr")
        config = {key: value for key, value in trial.config.items() if key not in left_out}
        for parent, _, leaf in (key.partition(".") for key in self._unused(trial)):
            config[parent] = {key: value for key, value in config[parent].items() if key != leaf}
        if not trial.rate_from:
            del config["range_test"], config["max_lr_scale"]
        node = trial.config["policy"]
        if trial.rate_from and not node["_target_"].startswith(OURS):
            # A user's own policy may use the rate that the range test finds in any way.
            return json.dumps([config, node], sort_keys=True)
        sampled = [(hyper.lr, hyper.momentum) for hyper in self._policy(trial)[1]]
        return json.dumps([config, sampled], sort_keys=True)

    def _same_trajectory(self, trial: Trial, other: Trial) -> bool:
        (one, _), (two, _) = self._policy(trial), self._policy(other)
        return one is two or all(one(step) == two(step) for step in range(self._steps(trial)))

    def _steps(self, trial: Trial) -> int:
        return trial.config["epochs"] * self._steps_per_epoch(trial.config)

    def _policy(self, trial: Trial) -> tuple[Policy, list[Hyper]]:
        """A training's policy, and its rates and momenta at the sampled steps."""
        config, steps = trial.config, self._steps(trial)
        key = json.dumps([config["policy"], config["epochs"], schema.max_lr(config), steps], sort_keys=True)
        if key not in self._policies:
            with nodes.environment(config):
                policy = nodes.policy(config, schema.max_lr(config), self._steps_per_epoch(config))
                sampled = sorted({round((steps - 1) * i / (SAMPLED_STEPS - 1)) for i in range(SAMPLED_STEPS)})
                self._policies[key] = policy, [policy(step) for step in sampled]
        return self._policies[key]


def _differing(trials: Sequence[Trial]) -> Iterator[tuple[str, list[str]]]:
    """The keys that were typed with several values for these trials, with the values."""
    overrides = [trial.request.typed() for trial in trials]
    for key in dict.fromkeys(key for one in overrides for key in one):
        values = list(dict.fromkeys(one[key] for one in overrides if key in one))
        if len(values) > 1:
            yield key, values


def _no_effect(key: str, values: Iterable[str], trial: Trial) -> str:
    """The message about a key whose values change no training, with what to vary instead."""
    what = f"{key}={','.join(values)} changes no training"
    if key == MOMENTUM:
        only = ", and affects only the range test" if trial.rate_from else ""
        instead = ""
        if "base_momentum" in trial.config["policy"]:
            instead = ": vary policy.base_momentum and policy.max_momentum, or set policy.cycle_momentum=false"
        return f"{what} under {_policy_choice(trial)}, which sets the momentum of every step itself{only}{instead}"
    if key == SPLIT_SEED:
        return f"{what}: with data.val_fraction=0 the training set is not split"
    return f"{what}: the rate and the momentum of every step are the same"


def _policy_choice(trial: Trial) -> str:
    return f"policy={trial.request.choices.get('policy', trial.config['policy']['_target_'])}"


def difference(requests: Sequence[Request], recorded: Sequence[Config]) -> str | None:
    """How the requests of a command differ from the recorded configs of its sweep; None if they do not.

    The text continues a sentence that begins with the command.
    """
    today, then = [_comparable(request.config) for request in requests], [_comparable(config) for config in recorded]
    distinct = [config for number, config in enumerate(today) if config not in today[:number]]
    added, gone = [c for c in distinct if c not in then], [c for c in then if c not in distinct]
    if not added and not gone:
        return None
    changed: dict[str, tuple[Any, Any]] = {}
    for one, other in zip(added, gone, strict=False):
        values, before = dict(keys.leaves(one, lists=False)), dict(keys.leaves(other, lists=False))
        for key in [*before, *values]:
            if values.get(key, ABSENT) != before.get(key, ABSENT):
                changed.setdefault(key, (values.get(key, ABSENT), before.get(key, ABSENT)))
    differences = [f"{key}={value} where the sweep has {before}" for key, (value, before) in changed.items()]
    if len(added) != len(gone):
        differences.append(f"{len(distinct)} trials where the sweep has {len(then)}")
    return f"would give {first_few(differences, NAMED)}"


def _comparable(config: Config) -> Config:
    """The part of a trial's config that can change its result."""
    if schema.LOOP in config:
        config = function_node.reduced(config)
    config = schema.range_test(config) if config["task"] == RANGE_TEST else config
    return {key: value for key, value in schema.what_counts(config).items() if key != "needs"}


def outdated(folders: Iterable[TrialFolder]) -> tuple[int, Change]:
    """How many results in these folders were made by other code or versions, and what differs."""
    # Thousands of trials may share a few targets, whose code is hashed once.
    current: dict[tuple[str, ...], dict[str, Any]] = {}
    changes: list[Change] = []
    for folder in folders:
        try:
            resolved, config = folder.resolved(), folder.config()
        except Unreadable:
            continue
        if resolved:
            targets = provenance.targets(config)
            if targets not in current:
                current[targets] = provenance.as_record(provenance.code_of_trial(config))
            if change := provenance.change(resolved, current[targets]):
                changes.append(change)
    return len(changes), provenance.union(changes)
