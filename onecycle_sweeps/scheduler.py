"""A policy as a torch LRScheduler, and the two functions by which a policy reaches an optimizer."""

import math
import weakref
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import Optimizer

from onecycle_sweeps.policies import Hyper, Policy


def apply(optimizer: Optimizer, hyper: Hyper) -> None:
    """Set every param group's lr, and momentum (or beta1 of betas) unless hyper.momentum is None.

    A group with the key `lr_scale` gets that many times the lr, and the same momentum.
    Raises ValueError, before anything is set, if a momentum is asked of a param group that has none (Adagrad).
    """
    if hyper.momentum is not None and not all(_has_momentum(group) for group in optimizer.param_groups):
        raise ValueError(
            f"{type(optimizer).__name__} has neither momentum nor betas, but the policy asks for momentum "
            f"{hyper.momentum}: set cycle_momentum=false or take another optimizer"
        )
    for group in optimizer.param_groups:
        lr = hyper.lr * group.get("lr_scale", 1)
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr
        if hyper.momentum is None:
            continue
        if "momentum" in group:
            group["momentum"] = hyper.momentum
        else:
            group["betas"] = (hyper.momentum, *group["betas"][1:])


def check_groups(optimizer: Optimizer, cycles_momentum: bool = False) -> None:
    """Raise ValueError for param groups that a policy would make alike in rate, or in momentum, without a word.

    A policy has one rate: a group that is to have another one says how many times the rate by its key `lr_scale`.
    """
    kind, groups = type(optimizer).__name__, optimizer.param_groups
    for group in groups:
        scale = group.get("lr_scale", 1)
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 <= scale < math.inf:
            raise ValueError(f"the lr_scale of a param group must be a finite number of at least 0, got {scale!r}")
    rates = dict.fromkeys(float(group["lr"]) for group in groups if "lr_scale" not in group)
    if len(rates) > 1:
        raise ValueError(
            f"the param groups of {kind} have the rates {', '.join(f'{rate:g}' for rate in rates)}, and a policy sets "
            'one: give them one rate, and the key "lr_scale" to each that is to have a multiple of it, such as 0.1'
        )
    momenta = dict.fromkeys(_momentum(group) for group in groups if _has_momentum(group))
    if cycles_momentum and len(momenta) > 1:
        raise ValueError(
            f"the param groups of {kind} have the momenta {', '.join(f'{momentum:g}' for momentum in momenta)}, and "
            "the policy sets one for all: give them one, or set cycle_momentum=false"
        )


def used(optimizer: Optimizer) -> Hyper:
    """The lr and momentum (or beta1; None where there is neither) of the first param group whose lr is not scaled."""
    groups = optimizer.param_groups
    group = next((group for group in groups if group.get("lr_scale", 1) == 1), groups[0])
    return Hyper(float(group["lr"]), _momentum(group) if _has_momentum(group) else None)


def _momentum(group: dict[str, Any]) -> float:
    return float(group["momentum"] if "momentum" in group else group["betas"][0])


def _has_momentum(group: dict[str, Any]) -> bool:
    return "momentum" in group or "betas" in group


class PolicyScheduler(LRScheduler):
    """Drives an optimizer by a policy in any loop that calls step() after each optimizer step.

    At every moment the param groups hold policy(last_epoch), where last_epoch counts the calls of step() (torch's
    name): also after either state_dict is loaded, in whatever order. Nothing of the policy is in the state, so a
    run resumed with more steps or another max_lr obeys the policy it is given. Past the end the last value stays.
    last_epoch: -1 starts at step 0; k, as in torch, at step k + 1.

    A param group with the key "lr_scale" gets that many times the policy's rate, and the same momentum:
    `SGD([{"params": head}, {"params": body, "lr_scale": 0.1}], lr=1.0)`. The key is saved with the optimizer's state.
    The optimizer may be wrapped, as accelerate's `prepare` does it, before or after the scheduler is made.
    Raises ValueError, and leaves the optimizer as it was, if the policy asks for a momentum that it has not, and for
    param groups of unlike rates without the key, or of unlike momenta where the policy cycles the momentum; `step`
    does so for a group that was added meanwhile with a rate of its own.
    """

    def __init__(self, optimizer: Optimizer, policy: Policy, last_epoch: int = -1) -> None:
        self.policy = policy
        check_groups(optimizer, policy(last_epoch + 1).momentum is not None)
        apply(optimizer, policy(last_epoch + 1))
        super().__init__(optimizer)
        self.load_state_dict({"last_epoch": last_epoch + 1})
        scheduler = weakref.ref(self)

        def obey(_: Optimizer) -> None:
            alive = scheduler()
            if alive is not None:
                alive._obey()

        if holder := _that_loads(optimizer):
            holder.register_load_state_dict_post_hook(obey)

    def get_lr(self) -> list[float | torch.Tensor]:
        """The policy's rate at this step, for each param group."""
        return [self._rate * group.get("lr_scale", 1) for group in self.optimizer.param_groups]

    def step(self, epoch: int | None = None) -> None:
        """Go on to the next step's rate and momentum."""
        self._take_in_new_groups()
        super().step(epoch)
        self._obey()

    def state_dict(self) -> dict[str, Any]:
        """The number of steps taken; loads with weights_only."""
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up at the saved step, and set the param groups for it at once."""
        self.last_epoch = state_dict["last_epoch"]
        self._obey()

    def _take_in_new_groups(self) -> None:
        """Let the policy have groups that were added to the optimizer, but none that has a rate of its own."""
        for group in self.optimizer.param_groups:
            if "initial_lr" not in group:
                own = float(group["lr"])
                if "lr_scale" not in group and own not in (float(self.optimizer.defaults["lr"]), self._rate):
                    raise ValueError(
                        f"a param group was added with the rate {own:g}, and the policy's is {self._rate:g}: give it "
                        'the key "lr_scale", by which the policy\'s rate is multiplied, in place of a rate'
                    )
                group["initial_lr"] = group["lr"]

    @property
    def _rate(self) -> float:
        return self.policy(self.last_epoch).lr

    def _obey(self) -> None:
        apply(self.optimizer, self.policy(self.last_epoch))
        self._last_lr = self.get_lr()


def _that_loads(optimizer: Any) -> Optimizer | None:
    """The optimizer that a wrapper hands its state to; None where no optimizer of torch's own making is within."""
    seen: list[Any] = []
    while isinstance(optimizer, Optimizer) and optimizer not in seen:
        # A wrapper that does not call the constructor of torch's class has no place for hooks.
        if "_optimizer_load_state_dict_post_hooks" in vars(optimizer):
            return optimizer
        seen.append(optimizer)
        optimizer = getattr(optimizer, "optimizer", None)
    return None
