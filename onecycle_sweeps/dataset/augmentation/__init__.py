"""What is done to a batch of uint8 images on their device: crops, flips and holes, all samples at once.

conf/data names these by `_target_`. Nothing here imports torch before a batch comes, so that a config can be checked
at once.
"""

from onecycle_sweeps.dataset.augmentation.crops import CenterCrop, PadCrop
from onecycle_sweeps.dataset.augmentation.cutout import Cutout
from onecycle_sweeps.dataset.augmentation.draws import Draws
from onecycle_sweeps.dataset.augmentation.flip import Flip
from onecycle_sweeps.dataset.augmentation.resized_crop import RandomResizedCrop
from onecycle_sweeps.dataset.augmentation.transform import Transform

__all__ = ["CenterCrop", "Cutout", "Draws", "Flip", "PadCrop", "RandomResizedCrop", "Transform"]
