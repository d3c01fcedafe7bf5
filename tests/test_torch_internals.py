"""Optimizers without torch's compiler, beside optimizers as torch made them."""

import subprocess
import sys

import pytest

PROGRAM = """
import copy, sys
import torch
from onecycle_sweeps import torch_internals

torch_internals.defer_compiler()
KINDS = {
    "SGD": dict(momentum=0.9, nesterov=True, weight_decay=0.1),
    "Adam": dict(amsgrad=True), "AdamW": dict(), "RMSprop": dict(momentum=0.5), "Adagrad": dict(), "NAdam": dict(),
    "LBFGS": dict(max_iter=3),
}
notes = []

def trained(kind, settings):
    torch.manual_seed(0)
    net = torch.nn.Linear(4, 3)
    inputs, targets = torch.randn(8, 4), torch.randn(8, 3)
    optimizer = getattr(torch.optim, kind)(net.parameters(), lr=0.1, **settings)
    optimizer.register_step_post_hook(lambda *_: notes.append(kind))
    def closure():
        optimizer.zero_grad()
        loss = (net(inputs) - targets).square().mean()
        loss.backward()
        return loss
    for _ in range(3):
        optimizer.step(closure)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    optimizer.step(closure)
    return net.weight.detach()

plain = {kind: trained(kind, settings) for kind, settings in KINDS.items()}
assert len(notes) == 4 * len(KINDS)
# A differentiable step is part of the graph.
weight = torch.ones(2, requires_grad=True)
moved = weight.clone()
moved.grad = torch.ones(2)
torch.optim.SGD([moved], lr=0.1, differentiable=True).step()
moved.sum().backward()
assert weight.grad is not None
assert "torch._dynamo" not in sys.modules
import torch._dynamo
for kind, settings in KINDS.items():
    assert torch.equal(plain[kind], trained(kind, settings)), kind
"""


@pytest.mark.slow
def test_optimizers_do_without_the_compiler_and_take_the_same_steps_once_it_is_there():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
