"""What MLflow is sent of a trial: values that it can store, in batches that it accepts."""

from itertools import pairwise

from onecycle_sweeps.journal import Block
from onecycle_sweeps.tracking.run_data import BATCH, as_params, as_tags, in_batches


def test_long_values_are_cut_with_a_note_and_credentials_replaced_by_stars():
    params, tags = as_params({"list": ["x" * 7000]}), as_tags({"cause": "y" * 9000, "none": None, "empty": ""})
    assert len(params["list"]) == 6000
    assert params["list"].endswith("[... shortened from 7004 characters]")
    assert {key: len(value) for key, value in tags.items()} == {"cause": 8000}
    assert as_params({"url": "x http://me:s/ec@ret@host/p y"}) == {"url": "x http://***@host/p y"}


def test_a_batch_has_whole_steps_in_order_and_fits_one_request():
    columns = {"train/loss": [0.0] * 1000, "schedule/lr": [0.1] * 1000}
    blocks = (Block(1.0, 0, columns), Block(2.0, 499, {"val/loss": [3.0]}), Block(3.0, 1000, columns))
    found = list(in_batches(part for block in blocks if (part := block.between(10, 1900)).metrics))
    points = [point for batch in found for point in batch]
    assert max(map(len, found)) <= BATCH
    assert [point.step for point in points] == sorted(point.step for point in points)
    assert len(points) == len(set(points)) == 2 * (1900 - 10) + 1
    assert all(one[-1].step < other[0].step for one, other in pairwise(found))
