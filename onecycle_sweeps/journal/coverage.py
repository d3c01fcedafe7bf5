"""What a training's journal has to hold by a step: each step before it, and each evaluation that was due."""

from onecycle_sweeps.journal.record import LR, TRAIN_LOSS, VAL_ACCURACY, Record


def evaluation_points(total_steps: int, steps_per_epoch: int, per_epoch: int) -> set[int]:
    """The numbers of steps after which the net is evaluated: evenly spread, the end of each epoch among them."""
    count = total_steps // steps_per_epoch * per_epoch
    return {max(1, round(i * steps_per_epoch / per_epoch)) for i in range(1, count + 1)}


def lacks(record: Record, steps: int, evaluated: set[int]) -> str | None:
    """What a record lacks of the first `steps` steps, and of the evaluations after so many steps each."""
    if not (record.covers(TRAIN_LOSS, steps) and record.covers(LR, steps)):
        return f"not every step below {steps}"
    if missing := sorted(evaluated - {step + 1 for step in record.series(VAL_ACCURACY)[0]}):
        return f"no evaluation after step {missing[0] - 1}"
    return None


def evaluations_by(step: int, steps_per_epoch: int, per_epoch: int) -> set[int]:
    """The numbers of steps, up to `step`, after which the net has been evaluated by then."""
    begun = (1 + step // steps_per_epoch) * steps_per_epoch
    return {point for point in evaluation_points(begun, steps_per_epoch, per_epoch) if point <= step}
