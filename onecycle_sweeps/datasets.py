"""A data set from its loader to batches, whatever its kind: images and their transforms, rows, a text, or items."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from onecycle_sweeps import files, images
from onecycle_sweeps.config import nodes, schema
from onecycle_sweeps.config.schema import TRANSFORM_KEYS, Config
from onecycle_sweeps.images import Source
from onecycle_sweeps.images import cache as folders
from onecycle_sweeps.images.augmentation import Transform
from onecycle_sweeps.samples import Items, Rows, SampleFacts, Text, items, rows, windows
from onecycle_sweeps.samples.sample_facts import SplitRule
from onecycle_sweeps.samples.targets import Form
from onecycle_sweeps.terminal import in_one_line
from onecycle_sweeps.validation import kind_of

Facts = images.Facts | SampleFacts
SampleBatches = rows.RowBatches | windows.WindowBatches | items.ItemBatches
Read = Callable[[], Any]


def prepare(
    load: Read,
    folder: Path,
    *,
    val_fraction: float,
    split_seed: int,
    classes: Sequence[int] | None,
    check: Callable[[], None] = lambda: None,
    afresh: bool = False,
) -> Facts:
    """The facts of one split of a data set, which are kept in `folder`; images are decoded there too.

    See `images.prepare`. Raises ValueError for a value outside its range, for a loader that returns no data set, and
    for what the data set does not allow.
    """
    schema.check_split(val_fraction=val_fraction, split_seed=split_seed, classes=classes)
    split = SplitRule(float(val_fraction), int(split_seed), None if classes is None else tuple(map(int, classes)))
    of_images = {"val_fraction": val_fraction, "split_seed": split_seed, "classes": classes, "check": check}
    if (folder / "source.json").exists():
        return images.prepare(load, folder, **of_images, afresh=afresh)
    key = hashlib.sha256(json.dumps([[field.name for field in fields(SampleFacts)], split]).encode()).hexdigest()[:12]
    path = folder / f"samples-{key}.json"
    if afresh or not path.exists() or not folders.is_current(path):
        source = load()
        if isinstance(source, Source):
            return images.prepare(lambda: source, folder, **of_images, afresh=afresh)
        facts = _describe(source, split)
        check()
        folder.mkdir(parents=True, exist_ok=True)
        files.write_json(path, asdict(facts))
    return SampleFacts.from_json(folders.read_json(path))


def load_samples(source: Any, facts: SampleFacts, config: Config, device: str, form: Form) -> SampleBatches:
    """The parts of a split on a device, in batches, with the targets in the form that the objective takes.

    Raises ValueError if the source is not the one that was described.
    """
    size, split = schema.samples_per_step(config), SplitRule(**schema.split(config))
    if isinstance(source, Rows):
        return replace(rows.load(source, split, facts, device, form), batch_size=size)
    if isinstance(source, Text):
        return replace(windows.load(source, split, facts, device), batch_size=size)
    return replace(items.load(source, split, facts, device, form), batch_size=size)


def _describe(source: Any, split: SplitRule) -> SampleFacts:
    if isinstance(source, Rows):
        return rows.describe(source, split)
    if isinstance(source, Text):
        return windows.describe(source, split)
    if isinstance(source, Items):
        return items.describe(source, split)
    kinds = "a Source of onecycle_sweeps.images, or Rows, Text or Items of onecycle_sweeps.samples"
    raise ValueError(f"data._target_ must return a data set, {kinds}, got {type(source).__name__}")


def transforms(config: Config, facts: images.Facts) -> dict[str, tuple[Transform, ...]]:
    """The transforms of images before normalisation: the fields `augment` and `evaluation` of ImageBatches.

    Raises ValueError, with its place in the list, for a transform that cannot be built or does not suit the images.
    """
    return {key: tuple(_transforms(config, key, facts)) for key in TRANSFORM_KEYS}


def _transforms(config: Config, key: str, facts: images.Facts) -> Iterator[Transform]:
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
