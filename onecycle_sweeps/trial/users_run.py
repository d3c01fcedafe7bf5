"""The run that a user's own training function gets: it gives out steps, and records losses and evaluations."""

import inspect
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from onecycle_sweeps import checkpoint, held_generators
from onecycle_sweeps.config.schema import Config
from onecycle_sweeps.loop import StepTaken
from onecycle_sweeps.measures import Measure
from onecycle_sweeps.policies import Hyper, Policy
from onecycle_sweeps.scheduler import (
    apply,
    has_gradient,
    momentum_of,
    nested_optimizers,
    that_update,
    used,
    with_hooks,
)
from onecycle_sweeps.terminal import in_one_line
from onecycle_sweeps.trial.loader_batches import LoaderBatches
from onecycle_sweeps.trial.optimizer import was_trained
from onecycle_sweeps.trial.train import State
from onecycle_sweeps.validation import whole


class Course(Protocol):
    """What a run is for: a training, one seed of a range test, or a short training of a probe."""

    @property
    def start(self) -> int:
        """The first step to be taken."""
        ...

    @property
    def state(self) -> State | None:
        """What `Run.state` was when the checkpoint was saved; None without one."""
        ...

    def begin(self, optimizer: Any, steps_per_epoch: int, total_steps: int) -> Policy:
        """The policy of all steps; raises ValueError if it cannot work with this optimizer or this many steps."""
        ...

    def is_due(self, done: int, loss: Tensor | None) -> bool:
        """Whether an evaluation is due after `done` steps; `loss` is that of the last one, if it is known."""
        ...

    def must_evaluate(self, done: int) -> bool:
        """Whether the trial cannot do without an evaluation after `done` steps."""
        ...

    def take(self, step: StepTaken, found: Mapping[str, float] | None, state: Callable[[], State] | None) -> bool:
        """Record a step with its evaluation, and save if `state` is there and that is due; returns whether to end.

        Raises what ends the attempt.
        """
        ...

    def evaluate(self, step: int, found: Mapping[str, float]) -> None:
        """Record an evaluation after a step that was taken."""
        ...

    def has_diverged(self) -> bool:
        """Whether the steps that were taken have diverged."""
        ...


@dataclass
class Turn:
    """One turn of the function's loop: a whole step, or the gradients of one of its `accumulate` batches.

    hyper: what the optimizer used. by_scaler: whether a GradScaler was asked for the update.
    offered: what the function would have saved after this turn, and saver: where it called `checkpoint`.
    """

    step: int
    number: int
    last: bool
    updates: int = 0
    by_scaler: bool = False
    logged: bool = False
    hyper: Hyper | None = None
    found: dict[str, float] | None = None
    offered: dict[str, Any] | None = None
    saver: FrameType | None = None


class Run:
    """A trial as its training function sees it.

    seed: seeds what the function draws; all generators are seeded with it before the function is called.
    device: where to train.
    epochs: how long to train; 1 in a range test, which sets its own number of steps.
    config: the part of the trial's config that can change its result.
    folder: the trial's folder, for files of the function's own.
    """

    def __init__(
        self,
        name: str,
        course: Course,
        measure: Measure,
        *,
        seed: int,
        device: torch.device,
        epochs: int,
        config: Config,
        folder: Path,
    ) -> None:
        self.seed, self.device, self.folder = seed, device, folder
        self._epochs, self._config = epochs, config
        # Whether the function has read how many epochs were asked for.
        self.knows_epochs = False
        # The names of numbers and texts that changed in a turn after they were given to `checkpoint`.
        self.outdated: set[str] = set((course.state or {}).get("outdated", ()))
        # The number of updates that GradScalers skipped; on the device where a fused optimizer skips them there.
        self.skipped: int | Tensor = (course.state or {}).get("skipped", 0)
        # In how many steps each optimizer beside that of `steps` has updated its parameters, by its description.
        self.others: Counter[str] = Counter((course.state or {}).get("others", {}))
        # The number of steps in which not every turn's loss was logged.
        self.partly_logged: int = (course.state or {}).get("partly_logged", 0)
        # The number of evaluations that came before the update of their step.
        self.evaluated_early: int = (course.state or {}).get("evaluated_early", 0)
        self.asked_epochs: int | None = None
        self.total_steps = 0
        self._name, self._course, self._measure = name, course, measure
        self._optimizer: Any = None
        self._inner: torch.optim.Optimizer | None = None
        self._handles: list[Any] = []
        # The last step in which each other optimizer took an update.
        self._stepped: WeakKeyDictionary[torch.optim.Optimizer, int] = WeakKeyDictionary()
        self._batches: LoaderBatches | None = None
        # Undoes what the run leaves in the process.
        self._after = ExitStack()
        self._accumulate = 1
        # The turn that the function is in, the last one that was recorded, and the losses of the step so far.
        self._turn: Turn | None = None
        self._last: Turn | None = None
        self._losses: list[Tensor] = []
        # The rates that were set for this step, and how deeply calls of the optimizer's step are nested.
        self._planned, self._set, self._depth = Hyper(0.0), list[tuple[float, float | None]](), 0
        self._ended = self._restored = self._state_checked = False
        # The first error of a call or a step, which the function may have caught.
        self.raised: Exception | None = None

    # What the function reads and calls

    @property
    def epochs(self) -> int:
        """How long to train."""
        self.knows_epochs = True
        return self._epochs

    @property
    def config(self) -> Config:
        """The part of the config that can change the result."""
        self.knows_epochs = True
        return self._config

    def steps(
        self,
        optimizer: Any,
        loader: Iterable[Any] | None = None,
        *,
        epochs: int | None = None,
        total_steps: int | None = None,
        steps_per_epoch: int | None = None,
        accumulate: int = 1,
    ) -> Iterator[tuple[int, Any]]:
        """Each step with its batch, from the last saved step on; rate and momentum are set before each step.

        The length is given in epochs of the loader or as total_steps, for which the loader is repeated; without a
        loader the batches are None. A range test has its own number of steps. With `accumulate` a step has that many
        turns, each with a batch, and the optimizer is stepped in the last turn (`update_due`); batches of an epoch that
        do not fill a step are left out. With a loader that has no length, and without a loader, an epoch has
        `steps_per_epoch` steps, by default total_steps divided by the trial's epochs. Training ends early if it has
        diverged. Raises ValueError, in one line, for arguments that do not go together.
        """
        with self._keeping_errors():
            if self._inner is not None:
                raise self._mistake("called run.steps twice: a trial is one series of steps with one optimizer")
            if self._course.state is not None and not self._restored:
                raise self._mistake("must call run.restore before run.steps, since its state was saved")
            if not hasattr(optimizer, "param_groups"):
                kind = type(optimizer).__name__
                raise self._mistake(f"must give run.steps a torch optimizer as its first argument, got {kind}")
            inner = with_hooks(optimizer)
            if inner is None:
                kind = type(optimizer).__name__
                raise self._mistake(f"uses {kind}, whose updates cannot be seen: it must call Optimizer.__init__")
            if was_trained(inner):
                raise self._mistake(
                    "trains a net that an earlier training of this process has trained: build the net in the function, "
                    "not where its module is imported"
                )
            total, per_epoch = self._length(loader, epochs, total_steps, steps_per_epoch, accumulate)
            in_epoch = per_epoch or steps_per_epoch or max(1, total // self._epochs)
            policy = self._course.begin(optimizer, in_epoch, total)
            self._optimizer, self._inner, self._accumulate = optimizer, inner, accumulate
            self.asked_epochs, self.total_steps = epochs, policy.total_steps
            self._batches = LoaderBatches(loader, per_epoch and per_epoch * accumulate, self.device)
            # Later trials of this process may read the same data set.
            self._after.enter_context(held_generators.kept(held_generators.of_loader(loader)))
            self._watch(inner)
        return self._steps(policy, self._batches)

    @property
    def update_due(self) -> bool:
        """Whether to step the optimizer in this turn; without `accumulate` always."""
        return self._turn is not None and self._turn.last

    @property
    def evaluation_due(self) -> bool:
        """Whether to evaluate after this turn's update, and to call `evaluated` with what is found."""
        turn = self._turn
        return turn is not None and turn.last and self._course.is_due(turn.step + 1, self._mean_loss())

    def log(self, loss: Any) -> None:
        """Record the loss of this turn's batch, a tensor of one element or a number."""
        with self._keeping_errors():
            turn = self._now("run.log")
            is_tensor = isinstance(loss, Tensor)
            # A copy, since the function may change the tensor, or use it again for the next loss.
            value = loss.detach().clone() if is_tensor else torch.tensor(float(loss), dtype=torch.float64)
            if value.ndim:
                if value.numel() != 1:
                    raise self._mistake(f"must give run.log the mean loss, got a tensor of shape {tuple(value.shape)}")
                value = value.reshape(())
            if turn.logged:
                raise self._mistake(f"called run.log twice in step {turn.step}: call it once for each batch")
            turn.logged = True
            self._losses.append(value)

    def evaluated(self, **found: Any) -> None:
        """Record what an evaluation after this step's update found: the headline, and any other measure by its name."""
        with self._keeping_errors():
            turn = self._turn or self._last
            if turn is None:
                raise self._mistake("called run.evaluated before its first step")
            if self._turn is None and self._ended:
                return
            if turn.found is not None:
                raise self._mistake(f"called run.evaluated twice after step {turn.step}")
            turn.found = self._checked(found)
            self.evaluated_early += not (turn.updates or turn.by_scaler)
            if self._turn is None:
                self._course.evaluate(turn.step, turn.found)

    def checkpoint(self, **state: Any) -> None:
        """Save what the function needs to go on after this step, if that is due; cheap enough for every step.

        Values are objects with a state_dict (models, optimizers), tensors, numbers, texts, and lists or dicts of them.
        They are saved once the turn is over, with the state of all generators and the place in the loader; a number or
        a text as it is at the call, so call this after it has changed in the turn.
        """
        with self._keeping_errors():
            turn = self._now("run.checkpoint")
            if not self._restored:
                raise self._mistake("must call run.restore before run.steps; it returns None until something was saved")
            if not state:
                raise self._mistake("must give run.checkpoint what to save, such as model=model, optimizer=optimizer")
            turn.offered, turn.saver = state, inspect.currentframe()
            turn.saver = turn.saver and turn.saver.f_back
            if not self._state_checked:
                self._check_state(state)
                self._state_checked = True

    def restore(self) -> dict[str, Any] | None:
        """What `checkpoint` saved last, with a state_dict in place of each object that has one; None at the start."""
        with self._keeping_errors():
            if self._inner is not None:
                raise self._mistake("must call run.restore before run.steps")
            self._restored = True
            return self._course.state["function"] if self._course.state else None

    # What the trial calls

    @property
    def loader_warnings(self) -> list[str]:
        """Why a resumed trial may have had other batches than one without a stop."""
        return list(self._batches.warnings) if self._batches else []

    @contextmanager
    def watched(self) -> Iterator[None]:
        """The context in which the function is called; GradScalers say in it which updates they skip."""
        original, run = torch.amp.GradScaler.step, self

        def step(self: torch.amp.GradScaler, optimizer: Any, *arguments: Any, **options: Any) -> Any:
            if run._turn is not None and with_hooks(optimizer) is run._inner:
                run._turn.by_scaler = True
            return original(self, optimizer, *arguments, **options)

        torch.amp.GradScaler.step = step
        try:
            yield
        finally:
            torch.amp.GradScaler.step = original
            self._after.close()
            for handle in self._handles:
                handle.remove()

    def finish(self) -> None:
        """Check that the function has taken all steps; raises ValueError, or what it has caught itself."""
        if self.raised is not None:
            raise self.raised
        if self._inner is None:
            raise self._mistake("returned without a step: its loop must be over run.steps")
        if self._turn is not None and (self._turn.logged or self._turn.updates):
            # The function has left its loop in this turn, which may be the last one.
            self._end_turn()
        self._turn = None
        done = self._last.step + 1 if self._last else self._course.start
        self._ended = self._ended or self._course.has_diverged()
        if not self._ended and done < self.total_steps:
            raise self._mistake(
                f"left its loop after {done} of {self.total_steps} steps: a trial takes all of them, so leave out what "
                "stops a training early"
            )
        if not self._ended and self._last and self._last.found is None and self._course.must_evaluate(done):
            raise self._mistake(f"must call run.evaluated after its last step, {done - 1}")

    # The steps

    def _steps(self, policy: Policy, batches: LoaderBatches) -> Iterator[tuple[int, Any]]:
        with self._keeping_errors():
            found = batches.batches(self._course.state and self._course.state["batches"])
            # The traceback of an error would keep the processes that read for the loader.
            self._after.callback(found.close)
            for step in range(self._course.start, policy.total_steps):
                for number in range(self._accumulate):
                    batch = next(found)
                    if number == 0:
                        self._apply(policy(step))
                    self._turn, self._depth = Turn(step, number, number == self._accumulate - 1), 0
                    yield step, batch
                    self._end_turn()
                if self._ended:
                    return

    def _end_turn(self) -> None:
        """Check what the function did in a turn, and record the step if the turn was its last."""
        turn, self._turn = self._turn, None
        assert turn
        self._note_outdated(turn)
        if not turn.last:
            return
        loss = self._mean_loss()
        if loss is None:
            raise self._mistake(f"must call run.log(loss) in each step, and did not in step {turn.step}")
        self.partly_logged += len(self._losses) < self._accumulate
        if not turn.updates and turn.by_scaler:
            self.skipped += 1
        elif not turn.updates and torch.isfinite(loss):
            raise self._mistake(
                f"did not step the optimizer in step {turn.step}: step it once in each step of run.steps"
            )
        self._check_rates(f"after its update in step {turn.step}")
        self._losses, self._last = [], turn
        if turn.found is None and turn.step + 1 < self.total_steps and self._course.must_evaluate(turn.step + 1):
            raise self._mistake(f"must call run.evaluated where run.evaluation_due, and did not in step {turn.step}")
        taken = StepTaken(turn.step, turn.hyper or self._used(), loss, {})
        offered = turn.offered
        state = None if offered is None else lambda: self._state(offered)
        self._ended = self._course.take(taken, turn.found, state)

    def _note_outdated(self, turn: Turn) -> None:
        """Note what was given to `checkpoint` from a variable of its name whose value has changed since."""
        if turn.offered and turn.saver:
            plain = {name: value for name, value in turn.offered.items() if _is_plain(value)}
            now = {name: turn.saver.f_locals.get(name, value) for name, value in plain.items()}
            kept = {name for name, one in now.items() if one is plain[name] or (_is_plain(one) and one == plain[name])}
            self.outdated |= set(plain) - kept
        # A frame would keep all variables of the function.
        turn.saver = None

    def _length(
        self,
        loader: Iterable[Any] | None,
        epochs: int | None,
        total_steps: int | None,
        steps_per_epoch: int | None,
        accumulate: int,
    ) -> tuple[int, int | None]:
        """The number of steps, and that of an epoch if the loader has a length."""
        if (epochs is None) is (total_steps is None):
            raise self._mistake("must give run.steps either epochs or total_steps")
        length = {"epochs": epochs} if total_steps is None else {"total_steps": total_steps}
        length |= {} if steps_per_epoch is None else {"steps_per_epoch": steps_per_epoch}
        for name, value in {"accumulate": accumulate, **length}.items():
            if error := whole(1).error(f"run.steps({name}=...)", value):
                raise ValueError(error)
        try:
            # The length of an iterator counts what is left of it, which cannot be repeated.
            size = None if loader is None or isinstance(loader, Iterator) else len(loader)  # type: ignore[arg-type]
        except TypeError:
            size = None
        if size is not None and size < accumulate:
            raise self._mistake(f"must give run.steps a loader with a batch for each turn of a step, got {size}")
        if size is not None and steps_per_epoch is not None:
            raise self._mistake("must give run.steps no steps_per_epoch, since its loader has a length")
        per_epoch = None if size is None else size // accumulate
        if total_steps is not None:
            return total_steps, per_epoch
        if per_epoch is None:
            raise self._mistake("must give run.steps total_steps, since its loader has no length to count epochs by")
        return (epochs or 1) * per_epoch, per_epoch

    # The optimizer

    def _watch(self, inner: torch.optim.Optimizer) -> None:
        self._handles.append(register_optimizer_step_pre_hook(lambda other, *_: self._note_other(other)))
        for one in that_update(inner):
            self._handles += [
                one.register_step_pre_hook(
                    # The first of the arguments is the optimizer.
                    lambda _, given, named: self._before_update(any(map(callable, (*given[1:], *named.values()))))
                ),
                one.register_step_post_hook(lambda *_: self._after_update()),
            ]

    def _note_other(self, other: torch.optim.Optimizer) -> None:
        """Count the steps in which an optimizer that is no part of the run's takes updates."""
        if self._turn is None or other is self._inner or other in nested_optimizers(self._optimizer):
            return
        ours = {id(group) for group in self._optimizer.param_groups}
        if any(id(group) in ours for group in other.param_groups) or self._stepped.get(other) == self._turn.step:
            return
        self._stepped[other] = self._turn.step
        tensors = [p for group in other.param_groups for p in group["params"]]
        self.others[f"{type(other).__name__} of {len(tensors)} tensors, {sum(p.numel() for p in tensors)} numbers"] += 1

    def _before_update(self, has_closure: bool) -> None:
        # If the step of a class calls that of its parent class, or of an optimizer within, hooks run for both.
        self._depth += 1
        if self._depth > 1:
            return
        with self._keeping_errors():
            turn = self._turn
            assert self._inner
            if turn is None:
                when = "after its last step" if self._last else "before its first step"
                raise self._mistake(f"stepped the optimizer {when}: leave that to the loop over run.steps")
            if not turn.last:
                raise self._mistake(
                    f"stepped the optimizer in turn {turn.number + 1} of {self._accumulate} of step {turn.step}: step "
                    "it where run.update_due, in the last turn"
                )
            if turn.updates:
                raise self._mistake(
                    f"stepped the optimizer twice in step {turn.step}: step it once in each step of run.steps; for "
                    "several batches a step there is accumulate=N"
                )
            # A closure computes the gradients in the update.
            if self._last is None and not has_closure and not has_gradient(self._inner):
                raise self._mistake(
                    f"stepped the optimizer in step {turn.step} without a gradient: compute gradients by "
                    "loss.backward() before optimizer.step(), and call optimizer.zero_grad() after it"
                )
            turn.updates += 1
            self._check_rates(f"before its update in step {turn.step}")
            turn.hyper = self._used()
            if (found := getattr(self._inner, "found_inf", None)) is not None:
                self.skipped = self.skipped + (found.detach().reshape(()) > 0)

    def _after_update(self) -> None:
        self._depth -= 1

    def _apply(self, hyper: Hyper) -> None:
        apply(self._optimizer, hyper)
        self._planned, self._set = hyper, _rates(self._optimizer)

    def _check_rates(self, when: str) -> None:
        """Raise ValueError unless all param groups have the rate and momentum that were set."""
        found = _rates(self._optimizer)
        for number, (wanted, has) in enumerate(zip(self._set, found, strict=False)):
            if wanted != has:
                what, one, other = next(
                    (word, a, b) for word, a, b in zip(("rate", "momentum"), wanted, has, strict=True) if a != b
                )
                raise self._mistake(
                    f"changed the {what} of param group {number} from {one:.6g} to {other:.6g} {when}: the policy "
                    "sets it, so leave out the scheduler"
                )
        if len(found) > len(self._set):
            # Groups that the function has added since get the policy's rate too.
            self._apply(self._planned)

    def _used(self) -> Hyper:
        """The rate that was set and checked, without the rounding errors of tensors and scales, and the momentum."""
        return Hyper(self._planned.lr, used(self._optimizer).momentum)

    # Small parts

    def _state(self, offered: Mapping[str, Any]) -> State:
        assert self._batches
        kept = {key: value.state_dict() if hasattr(value, "state_dict") else value for key, value in offered.items()}
        told = {"skipped": int(self.skipped), "outdated": sorted(self.outdated), "others": dict(self.others)}
        told |= {"partly_logged": self.partly_logged, "evaluated_early": self.evaluated_early}
        return {"function": kept, "batches": self._batches.state(), **told}

    def _check_state(self, state: Mapping[str, Any]) -> None:
        """Raise ValueError for what torch would not load again."""
        for key, value in state.items():
            try:
                checkpoint.check_loadable(value.state_dict() if hasattr(value, "state_dict") else value)
            except Exception as error:
                raise self._mistake(
                    f"gave run.checkpoint {key}, a {type(value).__name__}, which cannot be loaded again: give it "
                    f"tensors, numbers, texts, lists and dicts ({in_one_line(error)[:200]})"
                ) from error

    def _checked(self, found: Mapping[str, Any]) -> dict[str, float]:
        """The values of an evaluation as numbers; raises ValueError if one is none, or if the headline is missing."""
        if self._measure.name not in found:
            got = ", ".join(found) or "nothing"
            raise self._mistake(f"must give run.evaluated the measure {self._measure.name} of loop.measure, got {got}")
        values = {}
        for name, value in found.items():
            try:
                known = Measure(name, "max").name
            except ValueError as error:
                raise self._mistake(f"must give run.evaluated other names: {error}") from error
            try:
                values[known] = float(value)
            except (TypeError, ValueError, RuntimeError) as error:
                raise self._mistake(f"must give run.evaluated numbers, got {name}={value!r}") from error
        value = values[self._measure.name]
        if self._measure.is_fraction and not (0 <= value <= 1 or math.isnan(value)):
            raise self._mistake(f"must give run.evaluated {self._measure.name} as a fraction in [0, 1], got {value}")
        return values

    def _mean_loss(self) -> Tensor | None:
        if not self._losses:
            return None
        return self._losses[0] if len(self._losses) == 1 else torch.stack(self._losses).mean()

    def _now(self, what: str) -> Turn:
        if self._turn is None:
            raise self._mistake(f"called {what} outside its loop over run.steps")
        return self._turn

    def _mistake(self, what: str) -> ValueError:
        """The error about something that a training function must not do in a trial, in one line."""
        return ValueError(f"{self._name} {what}")

    @contextmanager
    def _keeping_errors(self) -> Iterator[None]:
        """Keep the first error, which the function may catch, for the end of the run."""
        try:
            yield
        except Exception as error:
            self.raised = self.raised or error
            raise


def _is_plain(value: Any) -> bool:
    return isinstance(value, int | float | str)


def _rates(optimizer: Any) -> list[tuple[float, float | None]]:
    """The rate and the momentum (or beta1) of each param group; the momentum is None if it has neither."""
    return [(float(group["lr"]), momentum_of(group)) for group in optimizer.param_groups]
