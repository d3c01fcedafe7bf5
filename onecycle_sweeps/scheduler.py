"""A policy as a torch LRScheduler, and the two functions by which a policy reaches an optimizer."""

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


def used(optimizer: Optimizer) -> Hyper:
    """The lr and momentum (or beta1; None where there is neither) of the first param group whose lr is not scaled."""
    groups = optimizer.param_groups
    group = next((group for group in groups if group.get("lr_scale", 1) == 1), groups[0])
    if not _has_momentum(group):
        return Hyper(float(group["lr"]))
    momentum = group["momentum"] if "momentum" in group else group["betas"][0]
    return Hyper(float(group["lr"]), float(momentum))


def _has_momentum(group: dict[str, Any]) -> bool:
    return "momentum" in group or "betas" in group


class PolicyScheduler(LRScheduler):
    """Drives an optimizer by a policy in any loop that calls step() after each optimizer step.

    At every moment the param groups hold policy(last_epoch), where last_epoch counts the calls of step() (torch's
    name): also after either state_dict is loaded, in whatever order. Nothing of the policy is in the state, so a
    run resumed with more steps or another max_lr obeys the policy it is given. Past the end the last value stays.
    last_epoch: -1 starts at step 0; k, as in torch, at step k + 1.
    Raises ValueError, and leaves the optimizer as it was, if the policy asks for a momentum that it has not.
    """

    def __init__(self, optimizer: Optimizer, policy: Policy, last_epoch: int = -1) -> None:
        self.policy = policy
        apply(optimizer, policy(last_epoch + 1))
        super().__init__(optimizer)
        self.load_state_dict({"last_epoch": last_epoch + 1})
        scheduler = weakref.ref(self)

        def obey(_: Optimizer) -> None:
            alive = scheduler()
            if alive is not None:
                alive._obey()

        optimizer.register_load_state_dict_post_hook(obey)

    def get_lr(self) -> list[float | torch.Tensor]:
        """The policy's rate at this step, for each param group."""
        lr = self.policy(self.last_epoch).lr
        return [lr * group.get("lr_scale", 1) for group in self.optimizer.param_groups]

    def step(self, epoch: int | None = None) -> None:
        """Go on to the next step's rate and momentum."""
        super().step(epoch)
        self._obey()

    def state_dict(self) -> dict[str, Any]:
        """The number of steps taken; loads with weights_only."""
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up at the saved step, and set the param groups for it at once."""
        self.last_epoch = state_dict["last_epoch"]
        self._obey()

    def _obey(self) -> None:
        apply(self.optimizer, self.policy(self.last_epoch))
        self._last_lr = self.get_lr()
