"""Muon for the matrices of hidden layers, and AdamW for all else."""

from typing import Any

import torch
from torch.optim import AdamW, Optimizer


class MuonAdamW(Optimizer):
    """torch's Muon (Jordan et al. 2024) on the param groups whose key `matrices` is true, torch's AdamW on the others.

    One rate serves both, as updates of Muon are scaled to the size of AdamW's (arXiv:2502.16982). `momentum` is Muon's
    and, with `beta2`, AdamW's.
    """

    takes_matrices = True

    def __init__(
        self,
        params: list[dict[str, Any]],
        lr: float = 1e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.1,
        beta2: float = 0.999,
        nesterov: bool = True,
        ns_steps: int = 5,
    ) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise ValueError(f"optimizer=muon needs torch 2.9 or newer, this is {torch.__version__}")
        settings: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay}
        matrices = [group for group in params if group["matrices"]]
        others = [group for group in params if not group["matrices"]]
        muon: dict[str, Any] = {"nesterov": nesterov, "ns_steps": ns_steps, "adjust_lr_fn": "match_rms_adamw"}
        self._inner: list[Optimizer] = []
        if matrices:
            self._inner.append(torch.optim.Muon(matrices, momentum=momentum, **settings, **muon))
        if others:
            self._inner.append(AdamW(others, betas=(momentum, beta2), **settings))
        super().__init__(params, settings)
        self._share_groups()

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take a step with both."""
        for one in self._inner:
            one.step()

    def state_dict(self) -> dict[str, Any]:
        """The states of both."""
        return {"inner": [one.state_dict() for one in self._inner]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the states of both."""
        for one, state in zip(self._inner, state_dict["inner"], strict=True):
            one.load_state_dict(state)
        self._share_groups()

    def _share_groups(self) -> None:
        """Let both optimizers use this optimizer's param groups, in which the policy sets rate and momentum."""
        self.param_groups = [group for one in self._inner for group in one.param_groups]
