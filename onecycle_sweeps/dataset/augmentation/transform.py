"""What the dataset asks of a transform, one of ours or a user's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from onecycle_sweeps.dataset.augmentation.draws import Draws


@runtime_checkable
class Transform(Protocol):
    """Called with uint8 images (N, C, H, W) on any device, gives as many; what is random in it comes from `draws`.

    One that serves in evaluations too does without `draws`.
    """

    def output(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of what comes out for images of this size; raises ValueError if it cannot take them."""
        ...

    def __call__(self, images: Tensor, draws: Draws) -> Tensor: ...


def check_pixels(name: str, value: Any) -> None:
    """Raise ValueError unless the value is a whole number of pixels from 1 on."""
    if type(value) is not int or value < 1:
        raise ValueError(f"{name} must be a whole number of pixels from 1 on, got {value!r}")
