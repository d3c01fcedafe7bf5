"""Caffe's LeNet for MNIST."""

import torch.nn.functional as F
from torch import Tensor, nn


class LeNet(nn.Module):
    """Two 5x5 convolutions (20 and 50 channels) with max pooling, 500 hidden units with the only ReLU.

    (N, in_channels, H, W) -> scores (N, num_classes). At 28x28 it is Caffe's net (BVLC/caffe,
    examples/mnist/lenet_train_test.prototxt), with its initial weights: uniform in +-sqrt(3 / fan_in), biases 0.
    A smaller image is padded to 28x28 with zeros, the mean; the 50 maps of a larger one are averaged to 4x4.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.hidden = nn.Linear(50 * 4 * 4, 500)
        self.scores = nn.Linear(500, num_classes)
        for name, parameter in self.named_parameters():
            if name.endswith("weight"):
                nn.init.kaiming_uniform_(parameter, nonlinearity="linear")
            else:
                nn.init.zeros_(parameter)

    def forward(self, images: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv1(_at_least_28(images)), 2)
        x = F.max_pool2d(self.conv2(x), 2)
        return self.scores(F.relu(self.hidden(_to_4x4(x).flatten(1))))


def _at_least_28(images: Tensor) -> Tensor:
    height, width = (max(0, 28 - size) for size in images.shape[2:])
    if not height and not width:
        return images
    return F.pad(images, (width // 2, width - width // 2, height // 2, height - height // 2))


def _to_4x4(maps: Tensor) -> Tensor:
    # Not adaptive pooling, whose gradient on CUDA is not deterministic, and an error with deterministic=true.
    height, width = maps.shape[2:]
    stride = (height // 4, width // 4)
    return F.avg_pool2d(maps, (height - 3 * stride[0], width - 3 * stride[1]), stride)
