"""ResNet-9 and the wide residual nets are those that were published, layer by layer."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onecycle_sweeps.models.resnet9 import ResNet9
from onecycle_sweeps.models.wide_resnet import WideBlock, WideResNet

pytestmark = pytest.mark.usefixtures("one_thread")


def conv_norm_relu(x: Tensor, weight: Tensor) -> Tensor:
    return F.batch_norm(F.conv2d(x, weight, padding=1), None, None, training=True).clamp(min=0)


def test_resnet9_is_pages_at_32x32():
    """dawn.py of cifar10-fast, written out: pooling behind batch norm and ReLU, residual behind pooling, 0.125."""
    torch.manual_seed(0)
    net = ResNet9(3, 10)
    prep, one, *in_one, two, three, res1, res2 = [m.weight for m in net.modules() if isinstance(m, nn.Conv2d)]
    images = torch.randn(4, 3, 32, 32)
    x = F.max_pool2d(conv_norm_relu(conv_norm_relu(images, prep), one), 2)
    x = x + conv_norm_relu(conv_norm_relu(x, in_one[0]), in_one[1])
    x = F.max_pool2d(conv_norm_relu(x, two), 2)
    x = F.max_pool2d(conv_norm_relu(x, three), 2)
    x = x + conv_norm_relu(conv_norm_relu(x, res1), res2)
    scores = F.linear(F.max_pool2d(x, 4).flatten(1), net.linear.weight) * 0.125
    torch.testing.assert_close(net(images), scores)


@pytest.mark.parametrize(
    ("depth", "width", "millions"),
    [(40, 1, 0.6), (40, 2, 2.2), (40, 4, 8.9), (16, 8, 11.0), (16, 10, 17.1), (22, 8, 17.2), (22, 10, 26.8)],
)
def test_a_wide_resnet_has_as_many_parameters_as_published(depth: int, width: int, millions: float):
    """Table 5 of Zagoruyko and Komodakis."""
    with torch.device("meta"):
        net = WideResNet(3, 10, depth, width)
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, abs=0.11)


@pytest.mark.parametrize("depth", [10, 16, 22, 28])
def test_a_wide_resnet_has_as_many_convolutions_as_its_depth(depth: int):
    with torch.device("meta"):
        net = WideResNet(3, 10, depth, 2)
    assert len([module for module in net.modules() if isinstance(module, nn.Conv2d)]) == depth


@pytest.mark.parametrize(("activated", "scale"), [(False, 1.0), (True, 0.2)])
@pytest.mark.parametrize(("channels", "stride"), [(4, 1), (6, 2)])
def test_a_wide_block_is_the_papers_or_fastais(channels: int, stride: int, activated: bool, scale: float):
    """Batch norm and ReLU first; fast.ai's adds a fifth, to an activated shortcut even where the shape stays."""
    block = WideBlock(4, channels, stride, scale, activated)
    x = torch.randn(8, 4, 6, 6)
    active = F.batch_norm(x, None, None, training=True).clamp(min=0)
    middle = F.conv2d(active, block.conv1.weight, stride=stride, padding=1)
    added = F.conv2d(F.batch_norm(middle, None, None, training=True).clamp(min=0), block.conv2.weight, padding=1)
    shortcut = active if activated else x
    if isinstance(block.shortcut, nn.Conv2d):
        shortcut = F.conv2d(active, block.shortcut.weight, stride=stride)
    assert isinstance(block.shortcut, nn.Conv2d) is (channels == 6)
    torch.testing.assert_close(block(x), shortcut + scale * added)


@pytest.mark.parametrize("depth", [4, 20, 27, "28", True])
def test_a_wide_resnet_of_another_depth_is_refused(depth):
    with pytest.raises(ValueError, match=r"depth must be 6n\+4 .*got " + repr(depth)):
        WideResNet(3, 10, depth, 1)


@pytest.mark.parametrize("width", [0, -1, 1.5, True])
def test_a_wide_resnet_of_no_width_is_refused(width):
    with pytest.raises(ValueError, match=f"width must be a whole number of at least 1, got {width}"):
        WideResNet(3, 10, 16, width)
