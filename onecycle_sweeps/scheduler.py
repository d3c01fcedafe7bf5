"""A policy as a torch LRScheduler, and functions that set and read an optimizer's rate and momentum."""

import inspect
import math
import warnings
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import Optimizer

from onecycle_sweeps.policies import Hyper, Policy, checked

SUSPICIOUS_CALLS = 100


def apply(optimizer: Optimizer, hyper: Hyper) -> None:
    """Set every param group's lr, and momentum (or beta1 of betas) unless hyper.momentum is None.

    A group with the key `lr_scale` gets that many times the lr, and the same momentum.
    Raises ValueError, before anything is set, for a momentum and a param group without one (Adagrad).
    """
    if hyper.momentum is not None and not all(_has_momentum(group) for group in optimizer.param_groups):
        raise ValueError(
            f"{type(optimizer).__name__} has neither momentum nor betas, but the policy sets momentum "
            f"{hyper.momentum}: set cycle_momentum=false or use another optimizer"
        )
    for group in optimizer.param_groups:
        lr = hyper.lr * group.get("lr_scale", 1)
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr
        _set_momentum(group, hyper.momentum)


def _set_momentum(group: dict[str, Any], momentum: float | None) -> None:
    if momentum is None:
        return
    if "momentum" in group:
        group["momentum"] = momentum
    else:
        group["betas"] = (momentum, *group["betas"][1:])


def check_groups(optimizer: Optimizer, cycles_momentum: bool = False) -> None:
    """Raise ValueError for param groups whose different rates or momenta a policy would overwrite with one.

    A group with the key `lr_scale` has that multiple of the policy's rate.
    """
    kind, groups = type(optimizer).__name__, optimizer.param_groups
    for group in groups:
        scale = group.get("lr_scale", 1)
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 <= scale < math.inf:
            raise ValueError(f"the lr_scale of a param group must be a finite number of at least 0, got {scale!r}")
    rates = dict.fromkeys(float(group["lr"]) for group in groups if "lr_scale" not in group)
    if len(rates) > 1:
        raise ValueError(
            f"the param groups of {kind} have the rates {', '.join(f'{rate:g}' for rate in rates)}, but a policy sets "
            'only one: give them the same rate, and the key "lr_scale", such as 0.1, to each with a multiple of it'
        )
    momenta = dict.fromkeys(found for group in groups if (found := momentum_of(group)) is not None)
    if cycles_momentum and len(momenta) > 1:
        raise ValueError(
            f"the param groups of {kind} have the momenta {', '.join(f'{momentum:g}' for momentum in momenta)}, but "
            "the policy sets only one: give them the same momentum, or set cycle_momentum=false"
        )


def used(optimizer: Optimizer) -> Hyper:
    """The lr that `apply` was given, and the momentum (or beta1; None if there is neither) of the same param group.

    Where all groups are scaled, the scale is divided out, which may leave a rounding error.
    """
    groups = optimizer.param_groups
    group = groups[reference([scale_of(group) for group in groups])]
    return Hyper(float(group["lr"]) / (scale_of(group) or 1), momentum_of(group))


def scale_of(group: dict[str, Any]) -> float:
    """How many times the policy's rate a param group gets."""
    return float(group.get("lr_scale", 1))


def reference(scales: Sequence[float]) -> int:
    """The param group that shows the policy's rate best: the first unscaled one, or else one whose scale is not 0."""
    return max(range(len(scales)), key=lambda group: (scales[group] == 1, scales[group] > 0))


def momentum_of(group: dict[str, Any]) -> float | None:
    """The momentum, or beta1, of a param group; None if it has neither."""
    found = group["momentum"] if "momentum" in group else group.get("betas", [None])[0]
    return None if found is None else float(found)


def is_adaptive(optimizer: Optimizer) -> bool:
    """Whether its steps are about as long for large gradients as for small ones, as Adam's are.

    It is tried on weights of its own; False where that fails, as for an optimizer that needs a closure. Those that it
    wraps, as accelerate's and SAM do, are tried too.
    """
    lengths = ([_length_of_a_step(one, size) for size in (1.0, 100.0)] for one in nested_optimizers(optimizer))
    return any(0 < of_large < 10 * of_small for of_small, of_large in lengths)


def _length_of_a_step(optimizer: Optimizer, size: float) -> float:
    """The length of the tenth step with gradients of one size, as RAdam's first ones are SGD's; 0 if it fails."""
    kind = type(optimizer)
    # The rate may be 0 so far, and fused kernels may need a GPU.
    ours = {"lr": 1e-3, "fused": False, "capturable": False}
    known = {name: ours.get(name, value) for name, value in optimizer.defaults.items()}
    weights = torch.zeros(2, 2, requires_grad=True)
    try:
        other = kind([weights], **{name: known[name] for name in inspect.signature(kind).parameters if name in known})
        if train := getattr(other, "train", None):
            train()
        before = weights.detach().clone()
        for _ in range(10):
            before.copy_(weights.detach())
            weights.grad = torch.full_like(weights, size)
            other.step()
    except Exception:  # optimizers of other libraries have no error in common
        return 0.0
    return float((weights.detach() - before).abs().max())


def _has_momentum(group: dict[str, Any]) -> bool:
    return "momentum" in group or "betas" in group


class PolicyScheduler(LRScheduler):
    """Sets an optimizer's rate and momentum by a policy, in any loop that calls step() after each optimizer step.

    The param groups always have the values of policy(last_epoch), where last_epoch (torch's name) counts the optimizer
    steps, also after either state_dict is loaded, in any order. A call of step() without an optimizer step since the
    last one changes nothing: accelerate calls it once for each process, and a loop that accumulates gradients may call
    it for each batch. With an optimizer that does not call hooks every call counts.
    The policy is not part of the state, so a run that is resumed with more steps or another max_lr follows its new
    policy. After the end the last values stay.
    last_epoch: -1 starts at step 0; k, as in torch, at step k + 1.

    A param group with the key "lr_scale" gets that many times the policy's rate, and the same momentum:
    `SGD([{"params": head}, {"params": body, "lr_scale": 0.1}], lr=1.0)`. The key is saved with the optimizer's state.
    The optimizer may be wrapped, as by accelerate's `prepare`, before or after the scheduler is created.
    In a SequentialLR it acts when it is its turn. As with torch's schedulers there, the rate after a resume is that of
    the optimizer's state, which has to be loaded as well.
    Raises ValueError, without changing the optimizer, if the policy sets a momentum that it does not have, and for
    param groups of different rates without the key, or of different momenta if the policy cycles the momentum; `step`
    does so for a group that was added with another rate, for a policy that has a momentum at some steps only, and for
    one whose rate is negative or not finite.
    """

    # Calls of step() since the last optimizer step; None with an optimizer that does not call hooks.
    _calls_without_step: int | None = None
    # Whether a SequentialLR, which takes back the first step of its schedulers, tells it when to set the rate.
    _in_sequence = False
    # The step whose values were checked last, and these values.
    _known: tuple[int, Hyper] | None = None

    def __init__(self, optimizer: Optimizer, policy: Policy, last_epoch: int = -1) -> None:
        self.policy, first = policy, checked(policy, last_epoch + 1)
        check_groups(optimizer, first.momentum is not None)
        groups = optimizer.param_groups
        rates = [lr.clone() if isinstance(lr := group["lr"], torch.Tensor) else lr for group in groups]
        self._own_momenta = [momentum_of(group) for group in groups]
        apply(optimizer, first)
        for group, rate in zip(groups, rates, strict=True):
            # Other schedulers of the optimizer multiply the rate that it was made with.
            group.setdefault("initial_lr", rate)
        super().__init__(optimizer)
        self._in_sequence = False
        self.load_state_dict({"last_epoch": last_epoch + 1})
        self._listen()

    def _listen(self) -> None:
        """Note each optimizer step, and apply the policy after a state of the optimizer is loaded."""
        scheduler = weakref.ref(self)

        def note_step(*_: Any) -> None:
            if (alive := scheduler()) is not None:
                alive._calls_without_step = 0

        def apply_policy(_: Optimizer) -> None:
            if (alive := scheduler()) is not None and not alive._is_in_sequence():
                alive._apply()

        if inner := with_hooks(self.optimizer):
            self._calls_without_step = 1
            for one in that_update(inner):
                one.register_step_post_hook(note_step)
            inner.register_load_state_dict_post_hook(apply_policy)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Continue as a copy, with the hooks that copying an optimizer leaves out."""
        vars(self).update(state)
        self._listen()

    def get_lr(self) -> list[float | torch.Tensor]:
        """The policy's rate at this step, for each param group."""
        return [self._rate * group.get("lr_scale", 1) for group in self.optimizer.param_groups]

    def step(self, epoch: int | None = None) -> None:
        """Set the rate and momentum of the next step, if the optimizer has taken one."""
        self._check_new_groups()
        self._is_in_sequence()
        if not self._calls_without_step or self.last_epoch < 0:
            super().step(epoch)
        elif self._calls_without_step == SUSPICIOUS_CALLS:
            warnings.warn(
                f"step() of a PolicyScheduler was called {SUSPICIOUS_CALLS} times without an optimizer step, and the "
                "rate stays as it is; to list a schedule, call its policy with each step",
                stacklevel=2,
            )
        if self._calls_without_step is not None:
            self._calls_without_step += 1
        self._apply()

    def state_dict(self) -> dict[str, Any]:
        """The number of steps taken; loads with weights_only."""
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue at the saved step, and set the param groups for it."""
        in_sequence = self._is_in_sequence()
        self.last_epoch = state_dict["last_epoch"]
        if not in_sequence:
            self._apply()

    def _initial_step(self) -> None:
        """Begin, in the constructor and in that of a SequentialLR; its later schedulers may have set a momentum."""
        for group, momentum in zip(self.optimizer.param_groups, self._own_momenta, strict=False):
            _set_momentum(group, momentum)
        super()._initial_step()

    def _update_lr(self, epoch: int | None = None) -> None:
        """Go to the next step, or to `epoch`, as a SequentialLR does when it is this scheduler's turn.

        In earlier versions of torch it calls step(epoch).
        """
        self._is_in_sequence()
        super()._update_lr(epoch)
        self._apply()

    def _is_in_sequence(self) -> bool:
        self._in_sequence = self._in_sequence or self.last_epoch < 0
        return self._in_sequence

    def _check_new_groups(self) -> None:
        """Prepare groups that were added to the optimizer; raises ValueError for one with another rate."""
        for group in self.optimizer.param_groups:
            if "initial_lr" not in group:
                own = float(group["lr"])
                if "lr_scale" not in group and own not in (float(self.optimizer.defaults["lr"]), self._rate):
                    raise ValueError(
                        f"a param group was added with the rate {own:g}, but the policy's is {self._rate:g}: give it "
                        'the key "lr_scale", which multiplies the policy\'s rate, instead of a rate'
                    )
                group["initial_lr"] = group["lr"]

    @property
    def _rate(self) -> float:
        return self._hyper().lr

    def _hyper(self) -> Hyper:
        """The policy's values at this step; a step asks for them several times, and checks them once."""
        if self._known is None or self._known[0] != self.last_epoch:
            self._known = self.last_epoch, checked(self.policy, self.last_epoch)
        return self._known[1]

    def _apply(self) -> None:
        apply(self.optimizer, self._hyper())
        self._last_lr = self.get_lr()


def has_gradient(optimizer: Optimizer) -> bool:
    """Whether any parameter of the optimizer has a gradient."""
    return any(p.grad is not None for group in optimizer.param_groups for p in group["params"])


def with_hooks(optimizer: Any) -> Optimizer | None:
    """The optimizer, or the one that it wraps, that calls hooks after loading a state; None if there is none."""
    seen: list[Any] = []
    while isinstance(optimizer, Optimizer) and optimizer not in seen:
        # A wrapper that does not call the constructor of torch's class has no hooks.
        if "_optimizer_load_state_dict_post_hooks" in vars(optimizer):
            return optimizer
        seen.append(optimizer)
        optimizer = getattr(optimizer, "optimizer", None)
    return None


def nested_optimizers(optimizer: Optimizer) -> list[Optimizer]:
    """The optimizer, and those that it wraps."""
    found = [optimizer]
    for one in found:
        found += [held for held in vars(one).values() if isinstance(held, Optimizer) and held not in found]
    return found


def that_update(optimizer: Optimizer) -> list[Optimizer]:
    """The optimizer and those that it wraps, if they call hooks: SAM may call the step of its inner one only."""
    return [one for one in nested_optimizers(optimizer) if with_hooks(one) is one]
