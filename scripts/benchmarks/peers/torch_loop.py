"""The loop that people write in plain torch, on tensors in memory."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR

from benchmarks import journals
from benchmarks.peers import SGD_SETTINGS
from benchmarks.timing import Cost, stopwatch
from benchmarks.work import Points, Work

Loss = Callable[[Tensor, Tensor], Tensor]
Batches = Iterable[tuple[Tensor, Tensor]]
Log = Callable[[int, Mapping[str, float]], object]
LOGGED = ("lr", "momentum", "loss")


class Loop:
    """A net, SGD with Nesterov and torch's OneCycleLR."""

    def __init__(self, net: nn.Module, max_lr: float, steps: int, loss: Loss = cross_entropy) -> None:
        self.net, self.loss = net, loss
        self.optimizer = SGD(net.parameters(), lr=max_lr, **SGD_SETTINGS)
        self.schedule = OneCycleLR(self.optimizer, max_lr, total_steps=steps)

    def train(self, batches: Batches, log: Log | None = None) -> None:
        """One epoch."""
        self.net.train()
        for step, (inputs, targets) in enumerate(batches):
            loss = self.loss(self.net(inputs), targets)
            self.optimizer.zero_grad()
            loss.backward()
            if log:
                group = self.optimizer.param_groups[0]
                log(step, {"lr": group["lr"], "momentum": group["momentum"], "loss": loss.item()})
            self.optimizer.step()
            self.schedule.step()


def accuracy(net: nn.Module, batches: Batches) -> float:
    """The share of images that a net classifies correctly."""
    net.eval()
    with torch.no_grad():
        correct = [(net(images).argmax(1) == labels) for images, labels in batches]
    return torch.cat(correct).float().mean().item()


def train(work: Work, log: Log | None = None) -> tuple[Cost, Points]:
    """Train from tensors in memory."""
    loop = Loop(work.net(), work.config["max_lr"], work.steps)
    loop.train((work[index] for index in work.order), log)
    accuracy(loop.net, [work.validation()])
    return stopwatch.read(work.steps), {}


def train_with_mlflow(work: Work) -> tuple[Cost, Points]:
    """The same with three calls of mlflow.log_metric at each step."""
    import mlflow

    uri = journals.fresh_store(work.runs_dir)
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment("benchmark")
    with mlflow.start_run() as run:
        cost, _ = train(work, lambda step, values: [mlflow.log_metric(*one, step=step) for one in values.items()])
    return cost, journals.logged(uri, run.info.run_id, LOGGED)
