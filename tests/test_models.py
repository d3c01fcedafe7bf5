"""Nets written in this package: what they compute, for any number of channels and classes."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from onecycle_sweeps.images import batches, evaluation_batches, load, prepare
from onecycle_sweeps.models.lenet import LeNet
from onecycle_sweeps.models.resnet import ResidualBlock, ResNet
from onecycle_sweeps.models.resnet9 import ResNet9
from onecycle_sweeps.models.simple_cnn import SimpleCNN
from onecycle_sweeps.models.wide_resnet import WideBlock, WideResNet

pytestmark = pytest.mark.usefixtures("one_thread")
YAMLS = sorted((Path(__file__).parents[1] / "conf" / "model").glob("*.yaml"))
# Nets for tables, tokens and segmentation: their tests are in test_tasks.py.
OF_OTHER_TASKS = ("gpt", "minilm", "mlp", "transformers", "transformers_lm", "unet")
# For the YAMLs that name no net; and those that need the extra `pretrained`.
NAMES = {"torchvision": "shufflenet_v2_x0_5", "timm": "test_resnet"}
WIDE = ("wrn_22", "wrn_28_10", "resnet9")
WRN_22_STAGES = ((16, 96), (96, 192), (192, 384))
OF_TIMM = ("timm", "efficientnet_lite0")


def build(name: str, in_channels: int, num_classes: int = 10) -> nn.Module:
    node = yaml.safe_load((YAMLS[0].parent / f"{name}.yaml").read_text())
    if name in NAMES:
        node["name"] = NAMES[name]
    if name in OF_TIMM:
        pytest.importorskip("timm", reason="the extra `pretrained` is not installed")
    return instantiate(node, in_channels=in_channels, num_classes=num_classes, _convert_="all")


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "in_channels", "num_classes", "expected"),
    [
        # 3x3 convolutions, batch norm's two numbers a channel, the linear layer.
        ("simple_cnn", 1, 10, 9 * (16 + 16 * 32 + 32 * 64) + 2 * (16 + 32 + 64) + 64 * 10 + 10),
        ("simple_cnn", 1, 10, 24_058),
        ("simple_cnn_fastai", 3, 2, (27 * 16 + 16) + (144 * 16 + 16) + (144 * 2 + 2)),
        ("lenet", 1, 10, 431_080),  # as Caffe's
        ("resnet20", 3, 10, 269_722),  # 0.27M in He et al., table 6
        ("resnet56", 3, 10, 853_018),  # 0.85M
        ("resnet9", 3, 10, 6_573_120),  # 6.57M in Page's posts
        ("wrn_28_10", 3, 10, 36_479_194),  # 36.5M in Zagoruyko and Komodakis, table 5
        # The stem; of each stage the first block with its shortcut, then two alike; batch norm, the linear layer.
        (
            "wrn_22",
            3,
            10,
            27 * 16
            + sum(10 * a * b + 9 * b * b + 2 * a + 2 * b + 2 * (18 * b * b + 4 * b) for a, b in WRN_22_STAGES)
            + 2 * 384
            + 3850,
        ),
        ("resnet18", 3, 1000, 11_689_512),  # as in torchvision's table
        ("resnet50", 3, 1000, 25_557_032),
        ("efficientnet_lite0", 3, 1000, 4_652_008),  # 4.7M in tensorflow/tpu's README
    ],
)
def test_parameters_are_as_many_as_published(name, in_channels, num_classes, expected):
    # On `meta` a net has no values; those of timm load some from a file.
    with torch.device("cpu" if name in OF_TIMM else "meta"):
        assert parameters(build(name, in_channels, num_classes)) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "precision"),
    [
        (path.stem, precision)
        for path in YAMLS
        for precision in ("fp32", "bf16")
        # In bf16 wide nets take seconds for the layers that the narrow ones have as well.
        if path.stem not in OF_OTHER_TASKS and not (precision == "bf16" and path.stem in WIDE)
    ],
)
def test_every_model_yaml_of_images_trains_on_a_cpu(name, precision):
    torch.manual_seed(0)
    model = build(name, in_channels=3).to(memory_format=torch.channels_last)
    # Below 32 pixels the last stage of an ImageNet net has one, where oneDNN leaves bf16 gradients unwritten.
    images = torch.randn(4, 3, 32, 32).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        scores = model(images)
        loss = F.cross_entropy(scores, torch.arange(4))
    loss.backward()
    assert scores.shape == (4, 10)
    assert scores.dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)
    for parameter in model.parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all()
    assert next(model.parameters()).grad.abs().sum() > 0  # type: ignore[union-attr]


@pytest.mark.slow
@pytest.mark.parametrize("size", [(8, 8), (28, 28), (32, 32), (33, 47), (64, 64)], ids=str)
@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("name", ["simple_cnn", "simple_cnn_fastai", "lenet", "resnet20", "resnet9", "wrn_22"])
def test_any_image_size_gives_one_score_per_class(name, in_channels, size):
    assert build(name, in_channels, 7)(torch.randn(2, in_channels, *size)).shape == (2, 7)


@pytest.mark.parametrize(
    "name", ["simple_cnn", "lenet", "resnet20", "resnet9", pytest.param("wrn_22", marks=pytest.mark.slow)]
)
def test_scores_do_not_depend_on_the_memory_format(name):
    torch.manual_seed(0)
    model, images = build(name, 3), torch.randn(4, 3, 32, 32)
    plain = model(images)
    cl = model.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(cl, plain, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["simple_cnn", "resnet20", "resnet9", pytest.param("wrn_22", marks=pytest.mark.slow)])
def test_gradients_keep_the_memory_format_of_the_images(name):
    """An operation on tensors of two formats takes several times as long."""
    model = build(name, 3).to(memory_format=torch.channels_last)
    images = torch.randn(4, 3, 32, 32).to(memory_format=torch.channels_last)
    strayed: list[str] = []

    class Formats(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            found = [x for x in args if isinstance(x, torch.Tensor) and x.dim() == 4]
            if not all(x.is_contiguous(memory_format=torch.channels_last) for x in found):
                strayed.append(str(func))
            return func(*args, **(kwargs or {}))

    with Formats():
        model(images).square().sum().backward()
    assert not strayed


def test_fastais_net_is_fastais():
    """The layers of simple_cnn((3,16,16,2)) in fastai 1.0.61, written out in torch."""
    ours = SimpleCNN(3, 2, channels=(16, 16), bn=False, head="conv")
    convolutions = [nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in ((3, 16), (16, 16), (16, 2))]
    layers = [layer for convolution in convolutions for layer in (convolution, nn.ReLU())]
    theirs = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    images = torch.randn(5, 3, 28, 28)
    torch.testing.assert_close(ours(images), theirs(images))
    for convolution in theirs[:6:2]:
        assert isinstance(convolution, nn.Conv2d) and convolution.bias is not None
        assert not convolution.bias.any()
        assert convolution.weight.std().item() == pytest.approx((2 / convolution.weight[0].numel()) ** 0.5, rel=0.2)


def test_a_convolution_that_gives_the_scores_has_no_batch_norm():
    model = SimpleCNN(1, 10, channels=(16, 32), head="conv")
    assert [m.num_features for m in model.modules() if isinstance(m, nn.BatchNorm2d)] == [16, 32]


def test_lenet_is_caffes_at_28x28():
    """lenet_train_test.prototxt, written out in torch: ReLU after the hidden layer alone."""
    ours = LeNet(1, 10)
    pool, relu = nn.MaxPool2d(2), nn.ReLU()
    convolutions = [nn.Conv2d(1, 20, 5), pool, nn.Conv2d(20, 50, 5), pool]
    theirs = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(800, 500), relu, nn.Linear(500, 10))
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    images = torch.randn(5, 1, 28, 28)
    torch.testing.assert_close(ours(images), theirs(images))


def test_lenet_averages_larger_images_as_adaptive_pooling_does_where_4_divides():
    from onecycle_sweeps.models import lenet

    maps = torch.randn(2, 3, 8, 16)
    torch.testing.assert_close(lenet._to_4x4(maps), F.adaptive_avg_pool2d(maps, 4))
    for size in range(4, 30):
        assert lenet._to_4x4(torch.randn(1, 1, size, 4)).shape == (1, 1, 4, 4)


@pytest.mark.parametrize("depth", [8, 14, 20, 110])
def test_a_resnet_has_as_many_weighted_layers_as_its_depth(depth):
    layers = [m for m in ResNet(3, 10, depth).modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == depth


def test_a_resnet_block_that_shrinks_passes_every_second_pixel_and_pads_channels():
    block = ResidualBlock(2, 4)
    nn.init.zeros_(block.norm2.weight)
    x = torch.rand(1, 2, 5, 5)
    out = block(x)
    assert out.shape == (1, 4, 3, 3)
    torch.testing.assert_close(out[:, 1:3], x[:, :, ::2, ::2])
    assert not out[:, [0, 3]].any()


def test_a_resnet_block_is_that_of_the_paper():
    """Figure 2 and section 3.4 of He et al. 2015: ReLU between the two layers and after the sum, norm before ReLU."""
    block = ResidualBlock(4, 4)
    x = torch.randn(8, 4, 6, 6)
    first = F.conv2d(x, block.conv1.weight, padding=1)
    middle = F.batch_norm(first, None, None, training=True).clamp(min=0)
    last = F.batch_norm(F.conv2d(middle, block.conv2.weight, padding=1), None, None, training=True)
    torch.testing.assert_close(block(x), (last + x).clamp(min=0))


@pytest.mark.parametrize("depth", [2, 18, 21, 52, "20", True])
def test_a_resnet_of_another_depth_is_refused(depth):
    with pytest.raises(ValueError, match=r"depth must be 6n\+2 .*got " + repr(depth)):
        ResNet(3, 10, depth)


def test_a_simple_cnn_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"^channels must be .*got \(\)"):
        SimpleCNN(1, 10, channels=())
    with pytest.raises(ValueError, match=r"^channels must be .*got \(16, 0\)"):
        SimpleCNN(1, 10, channels=(16, 0))
    with pytest.raises(ValueError, match="head must be linear or conv, got 'mlp'"):
        SimpleCNN(1, 10, head="mlp")


@pytest.mark.slow
def test_fastais_net_learns_threes_from_sevens(real_data, tmp_path):
    if not (real_data / "MNIST" / "raw").is_dir():
        pytest.skip(f"no MNIST/raw in {real_data}")
    from onecycle_sweeps.sources import idx

    facts = prepare(
        lambda: idx.load(str(real_data), "MNIST"), tmp_path / "cache", val_fraction=0, split_seed=0, classes=[3, 7]
    )
    data = load(tmp_path / "cache", facts, 32, "cpu")
    torch.manual_seed(0)
    model = build("simple_cnn_fastai", 1, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    stream = batches(data.train, 32, seed=0)
    for _ in range(8 * (facts.train // 32)):
        images, labels = next(stream)
        optimizer.zero_grad()
        F.cross_entropy(model(data.normalise(images)), labels).backward()
        optimizer.step()
    right = sum(
        int((model(data.normalise(images)).argmax(1) == labels).sum())
        for images, labels in evaluation_batches(data.val, 512)
    )
    assert right / facts.val > 0.97


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
