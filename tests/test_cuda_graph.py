"""A step's gradients as a CUDA graph: the same as without one, and no graph for a net that it would change."""

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from onecycle_sweeps import cuda_graph
from onecycle_sweeps.cuda_graph import EAGER_CALLS, Graph, GraphedLearner, watched
from onecycle_sweeps.loop import Learner, steps
from onecycle_sweeps.policies import OneCycle
from real_trials import SHORT, learner_of, made


class Plain(nn.Module):
    """A net with batch norm and dropout, in whose forward pass something else `happens`."""

    def __init__(self, happens: Callable[["Plain", Tensor], Any] = lambda *_: None) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(144, 10)
        )
        self.mean: Tensor
        self.register_buffer("mean", torch.zeros(()))
        self.calls, self.seen = 0, list[float]()
        self.happens = happens

    def forward(self, images: Tensor) -> Tensor:
        self.happens(self, images)
        return self.layers(images)


def count(net: Plain, _: Tensor) -> None:
    net.calls += 1


def remember(net: Plain, _: Tensor) -> None:
    net.seen.append(0.5)


def rebind(net: Plain, images: Tensor) -> None:
    net.mean = 0.9 * net.mean + images.mean()


def draw_in_python(*_: Any) -> None:
    random.random()


def draw_in_numpy(*_: Any) -> None:
    np.random.rand()


def draw_on_the_cpu(*_: Any) -> None:
    torch.rand(())


def wait(_: Plain, images: Tensor) -> None:
    images.mean().item()


def wait_for_all(_: Plain, images: Tensor) -> None:
    if images.is_cuda:
        torch.cuda.synchronize()


DECIDING = (count, remember, rebind, draw_in_python, draw_in_numpy, draw_on_the_cpu)


@pytest.mark.parametrize("happens", DECIDING)
def test_what_a_graph_would_freeze_is_seen(happens: Callable[..., Any]):
    with watched(Plain(happens)) as same:
        pass
    net = Plain(happens)
    net.layers[4] = nn.Identity()
    with watched(net) as seen:
        net(torch.rand(2, 1, 8, 8, generator=torch.Generator()))
    assert len(same) == 0 and len(seen) == 1


def test_batch_norm_and_a_backward_pass_are_what_a_graph_can_repeat():
    net, generator = Plain(), torch.Generator()
    net.layers[4] = nn.Identity()
    images = torch.rand(2, 1, 8, 8, generator=generator)
    with watched(net, nn.CrossEntropyLoss()) as seen:
        net(images).sum().backward()
    assert seen == []


def test_a_function_on_the_cpu_is_called_every_time():
    graph, calls = Graph(), list[int]()
    for number in range(2 * EAGER_CALLS):
        assert graph.call(lambda given: calls.append(1) or given[0] + 1, [torch.tensor(number)], ()) == number + 1
    assert len(calls) == 2 * EAGER_CALLS and graph.refused


def trained(folder: Path, cuda: str, net: nn.Module, *overrides: str, graphed: bool) -> tuple[list[Tensor], Any]:
    """Losses and weights of ten steps, by a graph or without one."""
    torch.manual_seed(0)
    found = learner_of(made(folder, *SHORT, f"device={cuda}", "deterministic=true", *overrides))
    net = net.to(cuda)
    learner = replace(found, model=net, optimizer=torch.optim.SGD(net.parameters(), 0.1, 0.9, fused=True))
    if not graphed:
        learner = replace(learner, graph=Graph(refused="for comparison"))
    torch.manual_seed(1)
    losses = [step.loss for step in steps(learner, OneCycle(0.1, 10))]
    assert isinstance(learner, GraphedLearner)
    return [*losses, *net.state_dict().values()], learner.graph


@pytest.mark.cuda
@pytest.mark.parametrize("overrides", [(), ("precision=bf16",), ("accumulate=2",), ("clip_norm=0.1",)])
def test_a_graph_takes_the_steps_that_are_taken_without_one(tmp_path: Path, cuda: str, overrides: tuple[str, ...]):
    torch.manual_seed(0)
    first = Plain().state_dict()
    taken = []
    for graphed in (True, False):
        net = Plain()
        net.load_state_dict(first)
        taken.append(trained(tmp_path, cuda, net, *overrides, graphed=graphed))
    (with_graph, graph), (without, _) = taken
    assert graph.refused is None and graph._graph is not None
    assert all(torch.equal(one, other) for one, other in zip(with_graph, without, strict=True))


@pytest.mark.cuda
@pytest.mark.parametrize("happens", [*DECIDING, wait, wait_for_all])
def test_a_net_that_a_graph_would_change_trains_without_one(tmp_path: Path, cuda: str, happens: Callable[..., Any]):
    torch.manual_seed(0)
    first = Plain().state_dict()
    taken = []
    for graphed in (True, False):
        net = Plain(happens)
        net.load_state_dict(first)
        random.seed(0)
        taken.append(trained(tmp_path, cuda, net, graphed=graphed))
    (with_graph, graph), (without, _) = taken
    assert graph.refused and graph._graph is None
    assert all(torch.equal(one, other) for one, other in zip(with_graph, without, strict=True))


@pytest.mark.cuda
def test_a_batch_of_another_shape_is_computed_without_the_graph(cuda: str):
    graph = Graph()
    weights = torch.ones(3, device=cuda)
    for number in range(2 * EAGER_CALLS):
        given = torch.full((4 if number % 2 or number < EAGER_CALLS + 2 else 2, 3), float(number), device=cuda)
        found = graph.call(lambda given: (given[0] * weights).sum(), [given], ())
        assert float(found) == number * given.numel()


def test_a_learner_on_the_cpu_has_no_graph(tmp_path: Path):
    learner = learner_of(made(tmp_path, *SHORT, "device=cpu"))
    assert type(learner) is Learner and not isinstance(learner, cuda_graph.GraphedLearner)
    assert len(list(islice(steps(learner, OneCycle(0.1, 10)), 2))) == 2
