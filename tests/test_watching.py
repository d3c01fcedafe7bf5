"""watch: it finds what goes wrong with schedules in other people's loops, and nothing in loops that are right."""

import copy
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.optim import SGD, AdamW, Optimizer
from torch.optim import lr_scheduler as of_torch
from torch.optim.swa_utils import SWALR

from onecycle_sweeps import CLR, Constant, Cosine, OneCycle, PolicyScheduler, Step, watch
from onecycle_sweeps.policies import Policy
from onecycle_sweeps.watching import ScheduleWarning, Seen
from own_loops import Descent, Sharp

EPOCHS, BATCHES = 10, 8
TOTAL = EPOCHS * BATCHES
# OneCycleLR's and ours have the same defaults.
POLICY = OneCycle(0.5, TOTAL)


def optimizer(*rates: float, momentum: float = 0.9) -> SGD:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates or (0.05,)]
    return SGD(groups, lr=0.05, momentum=momentum)


def kinds(seen: Seen) -> list[str]:
    return [mistake.kind for mistake in seen.mistakes]


def onecycle(made: Optimizer, **changes: Any) -> of_torch.LRScheduler:
    return of_torch.OneCycleLR(made, **{"max_lr": 0.5, "total_steps": TOTAL, **changes})


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """What is said is asked by `mistakes`; torch warns of some mistakes as well."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def loop(
    plan: Policy | int,
    scheduler: Callable[[Optimizer], Any],
    *,
    each: str = "batch",
    times: int = 1,
    epochs: int = EPOCHS,
    made: Optimizer | None = None,
    **options: Any,
) -> Seen:
    """A usual loop; the scheduler steps after each batch or each epoch, so many times."""
    made = made or optimizer()
    with watch(made, plan, **options) as seen:
        schedule = scheduler(made)
        for _ in range(epochs):
            for _ in range(BATCHES):
                made.step()
                for _ in range(times if each == "batch" else 0):
                    schedule.step()
            for _ in range(times if each == "epoch" else 0):
                schedule.step()
    return seen


@pytest.mark.parametrize("plan", [POLICY, TOTAL])
def test_a_right_loop_has_no_mistake(plan: Policy | int) -> None:
    assert kinds(loop(plan, onecycle)) == []
    assert kinds(loop(plan, lambda made: PolicyScheduler(made, POLICY))) == []


@pytest.mark.parametrize("kind", [Descent, Sharp])
def test_an_update_counts_once_whichever_steps_take_it(kind: Any) -> None:
    made = kind([torch.nn.Parameter(torch.zeros(1))], lr=0.05, momentum=0.9)
    made.step = getattr(made, "second_step", made.step)
    seen = loop(POLICY, lambda made: PolicyScheduler(made, POLICY), made=made)
    assert kinds(seen) == [] and seen.observed.count == TOTAL


def test_a_step_that_fails_and_is_taken_again_counts_once() -> None:
    made = optimizer()
    with watch(made, POLICY) as seen:
        schedule = PolicyScheduler(made, POLICY)
        for step in range(TOTAL):
            if step == 3:
                with pytest.raises(ZeroDivisionError):
                    made.step(lambda: 1 / 0)
            made.step()
            schedule.step()
    assert kinds(seen) == [] and seen.observed.count == TOTAL


@pytest.mark.parametrize("plan", [POLICY, TOTAL])
def test_a_step_per_epoch_where_one_per_batch_was_planned_is_found(plan: Policy | int) -> None:
    seen = loop(plan, onecycle, each="epoch")
    assert kinds(seen) == ["per epoch"]
    assert str(BATCHES) in str(seen.mistakes[0]) or str(TOTAL) in str(seen.mistakes[0])


def test_a_step_per_epoch_is_found_in_a_schedule_of_drops() -> None:
    plan = Step(0.05, TOTAL, milestones=(4 * BATCHES / TOTAL, 8 * BATCHES / TOTAL))
    assert kinds(loop(plan, lambda made: of_torch.MultiStepLR(made, [4, 8]), each="epoch")) == []
    plan = Step(0.05, TOTAL, milestones=(4 / TOTAL, 8 / TOTAL))
    assert kinds(loop(plan, lambda made: of_torch.MultiStepLR(made, [4, 8]), each="epoch")) == ["per epoch"]


def test_a_loop_that_never_steps_the_watched_optimizer_is_found() -> None:
    with watch(optimizer(), POLICY) as seen:
        loop(POLICY, onecycle)
    assert [str(mistake) for mistake in seen.mistakes] == ["the loop took 0 optimizer steps, and 80 were planned"]
    assert str(seen) == "the loop took 0 optimizer steps, and 80 were planned"


@pytest.mark.parametrize("times", [2, 4])
@pytest.mark.parametrize("plan", [Cosine(0.05, TOTAL, pct_warmup=0), TOTAL])
def test_several_steps_at_each_step_are_found(plan: Policy | int, times: int) -> None:
    seen = loop(plan, lambda made: of_torch.CosineAnnealingLR(made, TOTAL), times=times)
    assert kinds(seen)[0] == "several times" and f"{times} times too fast" in str(seen.mistakes[0])


def test_several_steps_are_found_although_torch_ends_the_loop() -> None:
    made = optimizer()
    watched = watch(made, TOTAL)
    with pytest.raises(ValueError, match="Tried to step"), watched:
        schedule = onecycle(made)
        for _ in range(TOTAL):
            made.step()
            schedule.step()
            schedule.step()
    assert kinds(watched) == ["several times"]


@pytest.mark.parametrize("plan", [Cosine(0.05, 50 * BATCHES, pct_warmup=0), 50 * BATCHES])
def test_a_horizon_that_is_missed_and_swings_back_up_is_found(plan: Policy | int) -> None:
    seen = loop(plan, lambda made: of_torch.CosineAnnealingLR(made, T_max=10), each="epoch", epochs=50)
    assert "horizon" in kinds(seen)
    assert "back up" in " ".join(map(str, seen.mistakes))


def test_a_horizon_beyond_the_loop_is_found() -> None:
    assert kinds(loop(TOTAL, lambda made: of_torch.CosineAnnealingLR(made, 3 * EPOCHS), each="epoch")) == ["horizon"]


def test_a_loop_that_ends_early_or_late_is_found() -> None:
    assert "horizon" in kinds(loop(POLICY, lambda made: PolicyScheduler(made, POLICY), epochs=5))
    assert "horizon" in kinds(loop(POLICY, lambda made: PolicyScheduler(made, POLICY), epochs=12))
    assert kinds(loop(TOTAL, lambda made: of_torch.ExponentialLR(made, 0.9), epochs=9)) == ["horizon"]


@pytest.mark.parametrize("plan", [Cosine(0.05, TOTAL, pct_warmup=0), TOTAL])
def test_a_bounce_after_the_end_is_found(plan: Policy | int) -> None:
    seen = loop(plan, lambda made: of_torch.CosineAnnealingLR(made, TOTAL), epochs=EPOCHS + 2)
    assert "bounce" in kinds(seen)


@pytest.mark.parametrize("plan", [POLICY, TOTAL])
def test_momentum_that_is_not_cycled_is_found(plan: Policy | int) -> None:
    assert kinds(loop(plan, lambda made: onecycle(made, cycle_momentum=False))) == ["momentum"]


def test_momentum_is_found_where_only_the_rate_is_set() -> None:
    assert kinds(loop(POLICY, lambda made: of_torch.LambdaLR(made, lambda step: POLICY(step).lr / 0.05))) == [
        "momentum"
    ]
    adam = AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    triangles = CLR(0.5, TOTAL)
    assert kinds(loop(triangles, lambda made: of_torch.LambdaLR(made, lambda s: triangles(s).lr), made=adam)) == [
        "momentum"
    ]


@pytest.mark.parametrize("group", [0, 1])
def test_a_single_group_whose_momentum_stays_is_found_and_named(group: int) -> None:
    made = optimizer(0.05, 0.05)
    made.register_step_pre_hook(lambda *_: made.param_groups[group].update(momentum=0.9))
    (mistake,) = loop(POLICY, lambda made: PolicyScheduler(made, POLICY), made=made).mistakes
    assert mistake.kind == "momentum" and f"of param group {group} stayed 0.9" in str(mistake)


@pytest.mark.parametrize("plan", [Constant(0.05, TOTAL), TOTAL])
@pytest.mark.parametrize("rate", [-0.01, float("nan")])
def test_a_rate_that_is_negative_or_not_a_number_is_found(rate: float, plan: Policy | int) -> None:
    seen = loop(plan, lambda made: of_torch.LambdaLR(made, lambda step: rate / 0.05 if step > 50 else 1.0))
    (mistake,) = seen.mistakes
    assert mistake.kind == "rate" and str(mistake).startswith(f"the rate at step 51 was {rate}, with which")


def resumed(
    restored: tuple[str, ...], plan: Policy | int, make: Callable[[Optimizer], Any] = onecycle, **options: Any
) -> Seen:
    """Half of a training, and its second half watched with the states of `restored` loaded."""
    first = optimizer()
    scheduler = make(first)
    for _ in range(TOTAL // 2):
        first.step()
        scheduler.step()
    states = {"optimizer": copy.deepcopy(first.state_dict()), "scheduler": copy.deepcopy(scheduler.state_dict())}
    made = optimizer()
    with watch(made, plan, start=TOTAL // 2, **options) as seen:
        again = make(made)
        for name, thing in (("scheduler", again), ("optimizer", made)):
            if name in restored:
                thing.load_state_dict(states[name])
        for _ in range(TOTAL // 2):
            made.step()
            if again.last_epoch < TOTAL:
                again.step()
    return seen


def cosine(made: Optimizer) -> of_torch.LRScheduler:
    return of_torch.CosineAnnealingLR(made, TOTAL)


@pytest.mark.slow
@pytest.mark.parametrize(("make", "policy"), [(onecycle, POLICY), (cosine, Cosine(0.05, TOTAL, pct_warmup=0))])
@pytest.mark.parametrize("with_policy", [True, False])
def test_a_wrong_rate_after_a_resume_is_found(make: Any, policy: Policy, with_policy: bool) -> None:
    plan = policy if with_policy else TOTAL
    assert kinds(resumed(("optimizer", "scheduler"), plan, make)) == []
    assert "resume" in kinds(resumed(("scheduler",), plan, make))
    assert "resume" in kinds(resumed(("optimizer",), plan, make))
    assert "resume" in kinds(resumed((), plan, make))


@pytest.mark.parametrize("plan", [POLICY, TOTAL])
def test_a_schedule_that_begins_anew_within_the_loop_is_found(plan: Policy | int) -> None:
    made = optimizer()
    with watch(made, plan) as seen:
        scheduler = onecycle(made)
        for step in range(TOTAL):
            if step == TOTAL // 2:
                state = copy.deepcopy(made.state_dict())
                made.load_state_dict(state)
                scheduler = onecycle(made)
            made.step()
            scheduler.step()
    assert "resume" in kinds(seen)


@pytest.mark.parametrize("plan", [POLICY, TOTAL])
def test_groups_of_different_rates_that_are_flattened_are_found(plan: Policy | int) -> None:
    seen = loop(plan, onecycle, made=optimizer(0.01, 0.1))
    assert kinds(seen) == ["groups"] and "0.01, 0.1" in str(seen.mistakes[0])


def test_groups_that_keep_their_ratio_have_no_mistake() -> None:
    assert kinds(loop(TOTAL, lambda made: onecycle(made, max_lr=[0.05, 0.5]), made=optimizer(0.01, 0.1))) == []
    assert kinds(loop(POLICY, lambda made: PolicyScheduler(made, POLICY), made=scaled(0.1, 1.0))) == []
    meeting = loop(TOTAL, lambda made: of_torch.CosineAnnealingLR(made, TOTAL - 1), made=optimizer(0.01, 0.1))
    assert "groups" not in kinds(meeting)


def scaled(*scales: float, adaptive: bool = False) -> Optimizer:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr_scale": scale} for scale in scales]
    return AdamW(groups, lr=0.05) if adaptive else SGD(groups, lr=0.05, momentum=0.9)


class Strays(of_torch.LRScheduler):
    """Follows POLICY, but for one group from step 21 on."""

    group, rate = 1, 5.0

    def get_lr(self) -> list[Any]:
        rates = [POLICY(self.last_epoch).lr * group.get("lr_scale", 1) for group in self.optimizer.param_groups]
        if self.last_epoch > 20:
            rates[self.group] = self.rate
        return rates


@pytest.mark.parametrize("made", [optimizer(0.05, 0.05), scaled(1.0, 0.1), scaled(0.5, 0.1)])
def test_a_single_group_that_leaves_the_plan_is_found_and_named(made: Optimizer) -> None:
    found = {mistake.kind: str(mistake) for mistake in loop(POLICY, Strays, made=made).mistakes}
    assert "param group 1" in found["rate"] and "step 21 was 5," in found["rate"]


@pytest.mark.parametrize("scales", [(1.0, 0.1), (0.1, 1.0), (0.1, 0.1)])
def test_a_scale_that_the_scheduler_ignores_is_found(scales: tuple[float, ...]) -> None:
    seen = loop(POLICY, onecycle, made=scaled(*scales))
    assert kinds(seen) == ["rate"]
    assert "10 times the planned" in str(seen.mistakes[0])
    assert ("param group" in str(seen.mistakes[0])) is (len(set(scales)) > 1)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("scales", [(0.5, 0.1), (0.0, 0.3), (0.1,), (0.0, 0.0)])
def test_groups_that_are_all_scaled_have_no_mistake(scales: tuple[float, ...], adaptive: bool) -> None:
    made = scaled(*scales, adaptive=adaptive)
    assert kinds(loop(POLICY, lambda made: PolicyScheduler(made, POLICY), made=made)) == []


def test_a_scheduler_with_a_rate_for_each_group_follows_the_plan_by_one_of_them() -> None:
    made = optimizer(0.05, 0.05, 0.05)
    assert kinds(loop(POLICY, lambda made: onecycle(made, max_lr=[0.05, 0.5, 0.1]), made=made)) == []
    seen = loop(POLICY, lambda made: onecycle(made, max_lr=[0.05, 0.6, 0.1]), made=optimizer(0.05, 0.05, 0.05))
    assert kinds(seen) == ["rate"]


def test_a_single_group_that_is_set_by_hand_is_found_and_named() -> None:
    made = optimizer(0.05, 0.05)
    with watch(made, POLICY, at_once=True) as seen, pytest.warns(ScheduleWarning, match=r"group 1 .* was 5, .* 0\.02"):
        schedule = onecycle(made)
        for _ in range(8):
            made.param_groups[1]["lr"] = 5.0
            made.step()
            schedule.step()
    assert "resume" in kinds(seen)


def test_rates_that_differ_look_different() -> None:
    seen = loop(POLICY, lambda made: onecycle(made, final_div_factor=100.0))
    one, other = re.findall(r"[\d.]+(?:e-\d+)?(?=,| was planned)", str(seen.mistakes[0]))
    assert kinds(seen) == ["rate"] and one != other
    nearly = OneCycle(0.5 * (1 + 1e-5), TOTAL)
    seen = loop(POLICY, lambda made: PolicyScheduler(made, nearly))
    assert kinds(seen) == ["rate"] and "1.00001 times" in str(seen.mistakes[0])


def test_a_schedule_that_is_ahead_or_scaled_is_found() -> None:
    made = optimizer()
    with watch(made, POLICY) as seen:
        schedule = onecycle(made)
        for _ in range(TOTAL):
            schedule.step()
            made.step()
    assert kinds(seen) == ["rate"] and "ahead of the plan" in str(seen.mistakes[0])
    assert "2 times the planned" in str(loop(POLICY, lambda made: onecycle(made, max_lr=1.0)).mistakes[0])


@pytest.mark.parametrize(
    "scheduler",
    [lambda made: PolicyScheduler(made, Constant(0.1, TOTAL)), lambda made: of_torch.ConstantLR(made, factor=1.0)],
    ids=["ours", "torch's"],
)
def test_another_constant_rate_than_the_planned_one_is_not_a_schedule_that_nothing_stepped(scheduler: Any) -> None:
    (mistake,) = loop(Constant(0.4, TOTAL), scheduler, made=optimizer(0.1)).mistakes
    assert mistake.kind == "rate" and "0.25 times" in str(mistake)


def test_a_drop_late_in_a_constant_schedule_is_no_schedule_that_runs_too_fast() -> None:
    (mistake,) = loop(Constant(0.05, TOTAL), lambda made: of_torch.StepLR(made, 51)).mistakes
    assert str(mistake) == "the rate at step 51 was 0.005, and 0.05 was planned"


def test_mistakes_are_said_at_the_end_or_at_once() -> None:
    made = optimizer()
    with pytest.warns(ScheduleWarning, match="after each batch"):
        loop(TOTAL, onecycle, each="epoch")
    with watch(made, POLICY, at_once=True) as seen, pytest.warns(ScheduleWarning, match="where|planned|moved|stayed"):
        onecycle(made)
        for _ in range(10):
            made.step()
    assert seen.mistakes


def test_mistakes_can_be_asked_within_the_loop() -> None:
    made = optimizer()
    with watch(made, POLICY) as seen:
        schedule = onecycle(made)
        for _ in range(10):
            assert seen.mistakes == ()
            made.step()
            schedule.step()
        made.param_groups[0]["lr"] = 3.0
        made.step()
        assert kinds(seen)


def test_what_was_seen_is_drawn() -> None:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    assert loop(POLICY, onecycle, each="epoch").plot(axes) is axes
    assert {"planned", "used"} <= {line.get_label() for line in axes.get_lines()}
    assert "per epoch" not in axes.get_title(loc="left") and "after each batch" in axes.get_title(loc="left")


@pytest.mark.parametrize("plan", [0, "ten", None, 2.5])
def test_a_plan_that_is_none_is_refused(plan: Any) -> None:
    with pytest.raises(ValueError, match="plan must be"):
        watch(optimizer(), plan)


def test_a_scheduler_of_an_earlier_training_is_not_blamed() -> None:
    made = optimizer()
    earlier = onecycle(made)
    for _ in range(TOTAL // 2):
        made.step()
        earlier.step()
    assert kinds(loop(TOTAL, onecycle, made=made)) == []


@pytest.mark.parametrize("start", [10, 50])
def test_a_resume_within_either_part_of_a_sequence_is_right(start: int) -> None:
    made = optimizer()
    schedule = warmed_up(made)
    for _ in range(start):
        made.step()
        schedule.step()
    with watch(made, 100, start=start) as seen:
        for _ in range(100 - start):
            made.step()
            schedule.step()
    assert [str(mistake) for mistake in seen.mistakes] == []


def sequential(made: Optimizer) -> of_torch.LRScheduler:
    parts: list[Any] = [of_torch.ConstantLR(made, factor=0.1, total_iters=20), of_torch.ExponentialLR(made, gamma=0.9)]
    return of_torch.SequentialLR(made, schedulers=parts, milestones=[20])


def warmed_up(made: Optimizer) -> of_torch.LRScheduler:
    parts: list[Any] = [of_torch.LinearLR(made, 0.1, total_iters=20), of_torch.CosineAnnealingLR(made, 80)]
    return of_torch.SequentialLR(made, schedulers=parts, milestones=[20])


def chained(made: Optimizer) -> of_torch.ChainedScheduler:
    parts: list[Any] = [of_torch.ConstantLR(made, factor=0.1, total_iters=20), of_torch.ExponentialLR(made, gamma=0.9)]
    return of_torch.ChainedScheduler(parts, optimizer=made)


# Each as the documentation of torch 2.14 uses it, after each epoch of a loop of 100.
OF_THE_DOCUMENTATION: dict[str, Callable[[Optimizer], Any]] = {
    "LambdaLR": lambda made: of_torch.LambdaLR(made, [lambda epoch: epoch // 30, lambda epoch: 0.95**epoch]),
    "MultiplicativeLR": lambda made: of_torch.MultiplicativeLR(made, lambda epoch: 0.95),
    "StepLR": lambda made: of_torch.StepLR(made, step_size=30, gamma=0.1),
    "MultiStepLR": lambda made: of_torch.MultiStepLR(made, milestones=[30, 80], gamma=0.1),
    "ConstantLR": lambda made: of_torch.ConstantLR(made, factor=0.5, total_iters=40),
    "LinearLR": lambda made: of_torch.LinearLR(made, start_factor=0.05, total_iters=40),
    "ExponentialLR": lambda made: of_torch.ExponentialLR(made, gamma=0.95),
    "SequentialLR": sequential,
    "SequentialLR with a warm-up": warmed_up,
    "PolynomialLR": lambda made: of_torch.PolynomialLR(made, total_iters=50, power=0.9),
    "CosineAnnealingLR": lambda made: of_torch.CosineAnnealingLR(made, T_max=100),
    "ChainedScheduler": chained,
    "CosineAnnealingWarmRestarts": lambda made: of_torch.CosineAnnealingWarmRestarts(made, T_0=20),
}


@pytest.mark.slow
@pytest.mark.parametrize("rates", [(0.05, 0.05), (0.01, 0.1)])
@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("name", OF_THE_DOCUMENTATION)
def test_nothing_is_found_in_torchs_examples_of_a_step_per_epoch(
    name: str, batches: int, rates: tuple[float, ...]
) -> None:
    made = optimizer(*rates)
    with watch(made, 100 * batches) as seen:
        schedule = OF_THE_DOCUMENTATION[name](made)
        for _ in range(100):
            for _ in range(batches):
                made.step()
            schedule.step()
    assert [str(mistake) for mistake in seen.mistakes] == []


def test_nothing_is_found_in_torchs_example_of_a_plateau() -> None:
    for loss in (lambda epoch: 1.0, lambda epoch: 1 / (1 + epoch)):
        made = optimizer(0.1)
        with watch(made, 50 * 3) as seen:
            schedule = of_torch.ReduceLROnPlateau(made, "min")
            for epoch in range(50):
                for _ in range(3):
                    made.step()
                schedule.step(loss(epoch))
        assert [str(mistake) for mistake in seen.mistakes] == []


@pytest.mark.parametrize("mode", ["triangular", "triangular2", "exp_range"])
def test_nothing_is_found_in_torchs_examples_of_a_step_per_batch(mode: Any) -> None:
    for scheduler in (
        lambda made: of_torch.CyclicLR(made, base_lr=0.01, max_lr=0.1, step_size_up=10, mode=mode, gamma=0.99),
        lambda made: of_torch.OneCycleLR(made, max_lr=0.01, steps_per_epoch=BATCHES, epochs=10),
    ):
        assert [str(mistake) for mistake in loop(TOTAL, scheduler).mistakes] == []


def test_nothing_is_found_in_torchs_example_of_restarts_within_epochs() -> None:
    made = optimizer()
    with watch(made, 20 * 5) as seen:
        schedule = of_torch.CosineAnnealingWarmRestarts(made, 5, 2)
        for epoch in range(20):
            for batch in range(5):
                made.step()
                schedule.step(epoch + batch / 5)  # type: ignore[arg-type]
    assert [str(mistake) for mistake in seen.mistakes] == []


@pytest.mark.parametrize("strategy", ["linear", "cos"])
def test_nothing_is_found_in_torchs_example_of_weight_averaging(strategy: Any) -> None:
    made = optimizer()
    with watch(made, 300 * 2) as seen:
        schedule = of_torch.MultiplicativeLR(made, lr_lambda=lambda epoch: 0.9)
        averaging = SWALR(made, anneal_strategy=strategy, anneal_epochs=20, swa_lr=0.05)
        for epoch in range(300):
            made.step()
            made.step()
            (averaging if epoch > 160 else schedule).step()
    assert [str(mistake) for mistake in seen.mistakes] == []


@pytest.mark.slow
def test_schedules_of_transformers_are_watched() -> None:
    optimization = pytest.importorskip("transformers.optimization")
    linear, cosine = optimization.get_linear_schedule_with_warmup, optimization.get_cosine_schedule_with_warmup
    assert kinds(loop(TOTAL, lambda made: linear(made, 10, TOTAL))) == []
    assert kinds(loop(TOTAL, lambda made: cosine(made, 10, TOTAL))) == []
    assert kinds(loop(TOTAL, lambda made: linear(made, 10, TOTAL), each="epoch")) == ["per epoch"]
    assert kinds(loop(TOTAL, lambda made: linear(made, 10, TOTAL), times=4))[0] == "several times"
    assert "horizon" in kinds(loop(TOTAL, lambda made: cosine(made, 2, TOTAL // 2)))
    assert "bounce" in kinds(loop(TOTAL, lambda made: cosine(made, 2, TOTAL), epochs=15))


@pytest.mark.slow
def test_schedules_of_timm_are_watched() -> None:
    timm = pytest.importorskip("timm.scheduler")

    def watched(plan: Policy | int, epochs: int = 50, **settings: Any) -> Seen:
        made = optimizer()
        with watch(made, plan) as seen:
            schedule = timm.CosineLRScheduler(made, lr_min=0.0, **settings)
            for epoch in range(epochs):
                for batch in range(BATCHES):
                    made.step()
                    schedule.step_update(epoch * BATCHES + batch + 1)
                schedule.step(epoch + 1)
        return seen

    assert kinds(watched(50 * BATCHES, t_initial=50)) == []
    by_batch = Cosine(0.05, 50 * BATCHES, pct_warmup=0)
    assert kinds(watched(by_batch, t_initial=50 * BATCHES, t_in_epochs=False)) == []
    assert kinds(watched(by_batch, t_initial=50 * BATCHES)) == ["per epoch"]
