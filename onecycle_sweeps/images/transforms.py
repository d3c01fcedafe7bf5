"""Builds the transforms that a config lists and checks that they suit the images."""

import inspect
from collections.abc import Iterator

from onecycle_sweeps.config import nodes
from onecycle_sweeps.config.schema import TRANSFORM_KEYS, Config
from onecycle_sweeps.images.augmentation import Transform
from onecycle_sweeps.images.facts import Facts
from onecycle_sweeps.terminal import in_one_line
from onecycle_sweeps.validation import kind_of


def transforms(config: Config, facts: Facts) -> dict[str, tuple[Transform, ...]]:
    """The transforms of images before normalisation: the fields `augment` and `evaluation` of ImageBatches.

    Raises ValueError, with its place in the list, for a transform that cannot be built or does not suit the images.
    """
    return {key: tuple(_transforms(config, key, facts)) for key in TRANSFORM_KEYS}


def _transforms(config: Config, key: str, facts: Facts) -> Iterator[Transform]:
    height, width = facts.height, facts.width
    for place, node in enumerate(config["data"].get(key, [])):
        name = f"data.{key}[{place}]"
        try:
            transform = nodes.build(name, node, mean=facts.mean)
            if not isinstance(transform, Transform):
                raise ValueError(
                    f"{node['_target_']} must make a transform, a callable with the method `output`, got "
                    f"{kind_of(transform)}"
                )
            height, width = transform.output(height, width)
            if key == "evaluation":
                _check_deterministic(transform)
        except (Exception, SystemExit) as error:
            reason = in_one_line(error)
            raise ValueError(reason if name in reason else f"{name}: {reason}") from error
        yield transform


def _check_deterministic(transform: Transform) -> None:
    """Raise ValueError for a transform that needs random draws, which would make evaluations unrepeatable."""
    try:
        inspect.signature(transform).bind(None)
    except TypeError:
        name = type(transform).__name__
        raise ValueError(
            f"{name} is random, but evaluations need a transform that can be called with images alone, like CenterCrop"
        ) from None
