"""What a training's journal has to hold by a step: each step before it, and each evaluation that was due."""

from onecycle_sweeps.journal.record import LR, TRAIN_LOSS, VAL_ACCURACY, Record


def evaluation_points(steps: int, steps_per_epoch: int, per_epoch: int) -> set[int]:
    """The numbers of steps, up to `steps`, after which the net is evaluated: evenly spread, epochs' ends among them."""
    per_epoch = min(per_epoch, steps_per_epoch)
    spread = (round(i * steps_per_epoch / per_epoch) for i in range(1, steps * per_epoch // steps_per_epoch + 2))
    return {point for point in spread if point <= steps}


def is_evaluation_point(step: int, steps_per_epoch: int, per_epoch: int) -> bool:
    """Whether a number of steps is among them, which takes no memory however long the run is."""
    per_epoch = min(per_epoch, steps_per_epoch)
    near = step * per_epoch // steps_per_epoch
    return any(round(i * steps_per_epoch / per_epoch) == step for i in (near, near + 1) if i)


def lacks(record: Record, steps: int, evaluated: set[int]) -> str | None:
    """What a record lacks of the first `steps` steps, and of the evaluations after so many steps each."""
    if not (record.covers(TRAIN_LOSS, steps) and record.covers(LR, steps)):
        return f"not every step below {steps}"
    if missing := sorted(evaluated - {step + 1 for step in record.series(VAL_ACCURACY)[0]}):
        return f"no evaluation after step {missing[0] - 1}"
    return None
