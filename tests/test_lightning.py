"""PolicyScheduler in Lightning, interval "step": every batch trains at the policy's rate, also after a resume."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from onecycle_sweeps.policies import Hyper, OneCycle, Policy
from onecycle_sweeps.scheduler import PolicyScheduler, used

lightning = pytest.importorskip("lightning")

# Lightning's own: torch's deprecation of a class it tests for, and advice on workers and unused GPUs.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated"),
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:GPU available but not used"),
]

BATCHES = 5


class Net(lightning.LightningModule):
    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy
        self.layer = torch.nn.Linear(4, 1)
        self.trajectory: list[Hyper] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.trajectory.append(used(self.trainer.optimizers[0]))
        return self.layer(batch[0]).square().mean()

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=1.0, momentum=0.9)
        scheduler = PolicyScheduler(optimizer, self.policy)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def fitted(policy: Policy, epochs: int, folder: Path, checkpoint: Path | None = None) -> tuple[Any, list[Hyper]]:
    net = Net(policy)
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    batches = DataLoader(TensorDataset(torch.ones(BATCHES * 2, 4)), batch_size=2)
    trainer.fit(net, batches, ckpt_path=checkpoint)
    return trainer, net.trajectory


def test_lightning_trains_every_batch_at_the_policys_rate(tmp_path: Path) -> None:
    policy = OneCycle(0.5, 4 * BATCHES)
    _, trajectory = fitted(policy, 4, tmp_path)
    assert trajectory == [policy(step) for step in range(4 * BATCHES)]


@pytest.mark.parametrize("policy", [OneCycle(0.5, 4 * BATCHES), OneCycle(0.02, 5 * BATCHES)])
def test_lightning_resumes_at_the_policys_rate(tmp_path: Path, policy: OneCycle) -> None:
    trainer, _ = fitted(OneCycle(0.5, 4 * BATCHES), 2, tmp_path)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    _, trajectory = fitted(policy, policy.total_steps // BATCHES, tmp_path, tmp_path / "half.ckpt")
    assert trajectory == [policy(step) for step in range(2 * BATCHES, policy.total_steps)]
