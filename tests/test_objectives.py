"""Measures are those of scikit-learn and torchmetrics on the same predictions, however a part is cut into batches.

torchmetrics takes seconds to import, also in processes that run other tests: it is imported where it is used.
"""

import math
from collections.abc import Callable, Sequence

import pytest
import sklearn.metrics as oracle
import torch
from hypothesis import given
from hypothesis import strategies as some
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, huber_loss, l1_loss, mse_loss

from onecycle_sweeps.loop import Objective, Totals
from onecycle_sweeps.measures import LOSS
from onecycle_sweeps.mixing import Mixing
from onecycle_sweeps.objectives.classification import Classification
from onecycle_sweeps.objectives.language_model import LanguageModel
from onecycle_sweeps.objectives.multilabel import Multilabel
from onecycle_sweeps.objectives.regression import Regression
from onecycle_sweeps.objectives.segmentation import Segmentation
from onecycle_sweeps.trial.measured import Measured

close = pytest.approx


def measured(objective: Objective, outputs: Tensor, targets: Tensor, batch: int = 7) -> dict[str, float]:
    """The values over a whole part that was evaluated in batches."""
    totals = Totals()
    for given_outputs, wanted in zip(outputs.split(batch), targets.split(batch), strict=True):
        totals.add(objective.evaluation(given_outputs, wanted))
    return objective.values(totals.read())


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("loss", ["mse", "l1", "huber"])
@pytest.mark.parametrize("targets", [1, 3])
def test_regression_is_measured_in_the_units_of_its_targets(loss: str, targets: int):
    shape = (50,) if targets == 1 else (50, targets)
    mean, std = [100.0, -3.0, 0.5][:targets], [20.0, 0.1, 4.0][:targets]
    wanted = torch.randn(shape, generator=draws())
    outputs = wanted + 0.3 * torch.randn(shape, generator=draws(1))
    objective = Regression(mean, std, loss=loss, delta=0.2)  # type: ignore[arg-type]
    found = measured(objective, outputs[:, None] if targets == 1 else outputs, wanted)
    scale, shift = (torch.tensor(one).reshape(-1 if targets > 1 else ()) for one in (std, mean))
    real, predicted = (one * scale + shift for one in (wanted, outputs))
    assert found["rmse"] == close(oracle.root_mean_squared_error(real, predicted), rel=1e-5)
    assert found["mae"] == close(oracle.mean_absolute_error(real, predicted), rel=1e-5)
    assert found["r2"] == close(oracle.r2_score(real, predicted), rel=1e-4)
    of_torch = {"mse": mse_loss, "l1": l1_loss, "huber": lambda a, b: huber_loss(a, b, delta=0.2)}[loss]
    assert found["loss"] == close(of_torch(outputs, wanted).item(), rel=1e-5)
    assert objective.training(outputs, wanted)[0].item() == close(found["loss"], rel=1e-5)


def test_the_regression_of_images_measures_each_place():
    wanted, outputs = (torch.randn(20, 2, 3, generator=draws(seed)) for seed in (0, 1))
    std = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    objective = Regression([0.0] * 6, std)
    found, scale = measured(objective, outputs, wanted), torch.tensor(std)
    real, predicted = (one.flatten(1) * scale for one in (wanted, outputs))
    assert found["rmse"] == close(oracle.root_mean_squared_error(real, predicted), rel=1e-5)
    assert found["r2"] == close(oracle.r2_score(real, predicted), rel=1e-4)
    assert torch.allclose(objective.predictions(outputs, wanted)[0].flatten(1).float(), predicted)


def test_the_chance_level_of_a_regression_is_the_spread_of_its_targets():
    targets = torch.randn(200, generator=draws())
    assert Regression([5.0], [2.0]).chance(targets) == close(2 * targets.std(correction=0).item(), rel=1e-6)


@pytest.mark.filterwarnings("ignore:F-score is ill-defined")
@pytest.mark.parametrize("average", ["macro", "micro"])
def test_multilabel_f1_is_that_of_scikit_learn(average: str):
    wanted = torch.rand(60, 4, generator=draws()) > torch.tensor([0.5, 0.9, 0.2, 1.0])
    outputs = torch.randn(60, 4, generator=draws(1)) + wanted
    objective = Multilabel(average)  # type: ignore[arg-type]
    found = measured(objective, outputs, wanted.float())
    predicted = outputs.sigmoid() > 0.5
    assert found["f1"] == close(oracle.f1_score(wanted, predicted, average=average))
    assert found["exact_match"] == close(oracle.accuracy_score(wanted, predicted))
    assert found["loss"] == close(binary_cross_entropy_with_logits(outputs, wanted.float()).item(), rel=1e-5)
    constants = [torch.tensor([bool(number >> place & 1) for place in range(4)]) for number in range(16)]
    scores = [oracle.f1_score(wanted, one.expand(60, 4), average=average) for one in constants]
    assert objective.chance(wanted.float()) == close(max(scores))


@pytest.mark.slow
def test_the_perplexity_of_a_language_model_is_that_of_torchmetrics():
    from torchmetrics.text import Perplexity

    targets = torch.randint(11, (9, 6), generator=draws())
    outputs = torch.randn(9, 6, 11, generator=draws(1))
    found = measured(LanguageModel(bytes_per_token=1.25), outputs, targets, batch=4)
    loss = cross_entropy(outputs.flatten(0, 1), targets.flatten()).item()
    assert found["loss"] == close(loss, rel=1e-6)
    assert found["perplexity"] == close(Perplexity()(outputs, targets).item(), rel=1e-5)
    assert found["bits_per_byte"] == close(loss / math.log(2) / 1.25, rel=1e-6)


def test_places_without_a_token_to_predict_do_not_count():
    outputs, targets = torch.randn(9, 6, 5, generator=draws()), torch.randint(5, (9, 6), generator=draws(1))
    targets[:, 4:], targets[0, 1:] = -100, -100
    kept = targets != -100
    mean = cross_entropy(outputs[kept], targets[kept]).item()
    assert measured(LanguageModel(), outputs, targets)["loss"] == close(mean)
    loss, sums = LanguageModel().training(outputs, targets)
    assert loss.item() == close(mean)
    assert LanguageModel().values(sums)["loss"] == close(mean)
    assert LanguageModel().chance(targets) == close(LanguageModel().chance(targets[kept]))
    LanguageModel().check(outputs, targets, {})
    with pytest.raises(ValueError, match="a score for each token"):
        LanguageModel().check(outputs[:, 1:], targets, {})


def test_the_chance_level_of_a_language_model_is_the_entropy_of_its_tokens():
    assert LanguageModel().chance(torch.tensor([0, 0, 1, 3])) == close(1.5 * math.log(2))


@pytest.mark.slow
def test_mean_iou_is_over_all_pixels_and_leaves_ignored_ones_out():
    from torchmetrics.segmentation import MeanIoU

    targets = torch.randint(3, (6, 5, 4), generator=draws())
    outputs = torch.randn(6, 4, 5, 4, generator=draws(1))
    objective = Segmentation(4)
    metric = MeanIoU(num_classes=4, input_format="index", per_class=True)
    one_image = (outputs.argmax(1).reshape(1, -1, 4), targets.reshape(1, -1, 4))
    per_class = metric(*one_image)
    assert measured(objective, outputs, targets)["mean_iou"] == close(per_class[per_class >= 0].mean().item(), rel=1e-5)
    targets[0, 0] = 255
    kept = targets.flatten() != 255
    predicted = outputs.argmax(1).flatten()[kept]
    found = measured(objective, outputs, targets)
    assert found["mean_iou"] == close(oracle.jaccard_score(targets.flatten()[kept], predicted, average="macro"))
    assert found["pixel_accuracy"] == close(oracle.accuracy_score(targets.flatten()[kept], predicted))
    assert found["loss"] == close(cross_entropy(outputs, targets, ignore_index=255).item(), rel=1e-5)


@pytest.mark.parametrize("objective", [Segmentation(3, 0.1), LanguageModel(0.1)])
def test_a_batch_without_a_target_has_no_loss_and_any_other_that_of_torch(objective: Segmentation | LanguageModel):
    of_pixels = isinstance(objective, Segmentation)
    shape, ignored = ((4, 3, 5, 5), 255) if of_pixels else ((4, 5, 3), -100)
    outputs = torch.randn(shape, generator=draws(), requires_grad=True)
    targets = torch.randint(3, (4, 5, 5) if of_pixels else (4, 5), generator=draws(1))
    targets[:2] = ignored
    loss, _ = objective.training(outputs, targets)
    scores = outputs if of_pixels else outputs.movedim(2, 1)
    assert loss.item() == close(cross_entropy(scores, targets, ignore_index=ignored, label_smoothing=0.1).item())
    loss, _ = objective.training(outputs, torch.full_like(targets, ignored))
    loss.backward()
    assert loss.item() == 0
    assert outputs.grad is not None
    assert not outputs.grad.any()


@given(some.integers(1, 40), some.integers(1, 40))
def test_measures_do_not_depend_on_the_size_of_a_batch(first: int, second: int):
    targets = torch.randint(5, (40,), generator=draws())
    outputs = torch.randn(40, 5, generator=draws(1))
    one, two = (measured(Classification(), outputs, targets, batch) for batch in (first, second))
    assert one["accuracy"] == two["accuracy"]
    assert one["loss"] == close(two["loss"], rel=1e-6)


@pytest.mark.parametrize("weights", [None, (10.0, 20.0, 50.0)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_shares_of_whole_samples_have_the_loss_of_their_class_numbers(
    weights: tuple[float, ...] | None, smoothing: float
):
    objective = Classification(smoothing, class_weights=weights)
    scores, classes = torch.randn(9, 3, generator=draws()), torch.arange(9) % 3
    shares = torch.nn.functional.one_hot(classes, 3).float()
    of_shares, of_classes = (objective.training(scores, targets)[0].item() for targets in (shares, classes))
    assert of_shares == close(of_classes, rel=1e-6)


@pytest.mark.parametrize(
    ("objective", "shape", "dim", "targets"),
    [
        (Classification(), (2, 3), 1, torch.tensor([0, 2])),
        (Segmentation(3), (2, 3, 4, 4), 1, torch.zeros(2, 4, 4, dtype=torch.long)),
        (LanguageModel(), (2, 5, 3), -1, torch.zeros(2, 5, dtype=torch.long)),
    ],
)
def test_a_net_that_ends_in_a_softmax_is_refused(
    objective: Objective, shape: tuple[int, ...], dim: int, targets: Tensor
):
    offered, scores = {"num_classes": 3, "vocab_size": 3}, torch.randn(shape, generator=draws())
    for sound in (scores, scores.log_softmax(dim), scores.sigmoid(), torch.zeros(shape)):
        objective.check(sound, targets, offered)
    with pytest.raises(ValueError, match="softmax"):
        objective.check(scores.softmax(dim), targets, offered)


@pytest.mark.parametrize(
    ("objective", "ends"),
    [
        (Multilabel(), (torch.sigmoid, lambda logits: logits.T.sigmoid().half().T)),
        (Regression((0.0,), (1.0,)), (torch.sigmoid, torch.tanh, torch.relu, torch.nn.functional.softplus)),
    ],
)
def test_a_net_whose_last_function_bounds_its_outputs_is_refused(
    objective: Objective, ends: Sequence[Callable[[Tensor], Tensor]]
):
    values = torch.rand(2, 3, generator=draws(), requires_grad=True)
    for sound in (values, values.sigmoid() * 2, values.detach().sigmoid()):
        objective.check(sound, torch.zeros(2, 3), {})
    for end in ends:
        with pytest.raises(ValueError, match=r"leave out the (sigmoid|tanh|relu|softplus) at its end"):
            objective.check(end(values), torch.zeros(2, 3), {})


def test_balanced_class_weights_are_those_of_scikit_learn():
    targets = torch.tensor([0] * 6 + [1] * 3 + [2])
    outputs = torch.randn(10, 3, generator=draws())
    objective = Classification(class_weights="balanced", class_counts=(6, 3, 1))
    weights = torch.tensor([10 / 18, 10 / 9, 10 / 3])
    assert objective.training(outputs, targets)[0].item() == close(cross_entropy(outputs, targets, weights).item())
    assert measured(objective, outputs, targets)["loss"] == close(cross_entropy(outputs, targets).item(), rel=1e-6)


def test_any_metric_of_torchmetrics_can_be_the_headline():
    from torchmetrics.classification import MulticlassF1Score

    targets = torch.randint(3, (30,), generator=draws())
    outputs = torch.randn(30, 3, generator=draws(1))
    metrics = {"f1": lambda: MulticlassF1Score(num_classes=3, average="macro")}
    objective = Measured(Classification(), metrics, "f1")
    assert [(one.name, one.goal, one.is_fraction) for one in objective.measures] == [
        ("f1", "max", True),
        ("accuracy", "max", True),
    ]
    meter = objective.meters(torch.device("cpu"))["f1"]
    for some_outputs, wanted in zip(outputs.split(7), targets.split(7), strict=True):
        meter.update(*objective.predictions(some_outputs, wanted))
    assert meter.compute() == close(oracle.f1_score(targets, outputs.argmax(1), average="macro"))
    assert objective.chance(targets) is None


@pytest.mark.parametrize("mean", [0.0, 5e4])
def test_a_metric_of_values_does_not_depend_on_how_far_they_are_from_zero(mean: float):
    from torchmetrics import R2Score

    targets = torch.randn(500, generator=draws())
    outputs = targets + 0.5 * torch.randn(500, generator=draws(1))
    objective = Measured(Regression([mean], [30.0]), {"of_torchmetrics": R2Score}, "of_torchmetrics")
    meter = objective.meters(torch.device("cpu"))["of_torchmetrics"]
    for some_outputs, wanted in zip(outputs.split(70), targets.split(70), strict=True):
        meter.update(*objective.predictions(some_outputs, wanted))
    assert meter.compute() == close(oracle.r2_score(targets, outputs), rel=0.01)


@pytest.mark.parametrize("places", [(), (4, 5)], ids=["classification", "segmentation"])
def test_a_metric_of_two_classes_gets_the_probability_of_the_second(places: tuple[int, ...]):
    from torchmetrics.classification import BinaryAUROC, BinaryF1Score

    class Own(BinaryF1Score):
        """One that a user derives."""

    targets = torch.randint(2, (30, *places), generator=draws())
    outputs = torch.randn(30, 2, *places, generator=draws(1))
    metrics = {"f1": BinaryF1Score, "own": Own, "auroc": BinaryAUROC}
    objective = Measured(Segmentation(2) if places else Classification(), metrics)
    found = {}
    for name, meter in objective.meters(torch.device("cpu")).items():
        for some_outputs, wanted in zip(outputs.split(7), targets.split(7), strict=True):
            meter.update(*objective.predictions(some_outputs, wanted))
        found[name] = meter.compute()
    wanted, second = targets.flatten(), (outputs[:, 1] - outputs[:, 0]).flatten()
    f1 = oracle.f1_score(wanted, second > 0)
    assert found == close({"f1": f1, "own": f1, "auroc": oracle.roc_auc_score(wanted, second)}, rel=1e-5)


def test_a_metric_that_does_not_suit_the_objective_is_named_with_what_it_got():
    from torchmetrics.classification import (
        BinaryF1Score,
        MulticlassF1Score,
        MulticlassHingeLoss,
        MulticlassMatthewsCorrCoef,
    )

    class Percent(MulticlassF1Score):
        def compute(self) -> Tensor:
            return 100 * super().compute()

    metrics = {
        "two": BinaryF1Score,
        "each": lambda: MulticlassF1Score(num_classes=3, average=None),
        "percent": lambda: Percent(num_classes=3),
        "hinge": lambda: MulticlassHingeLoss(num_classes=3),
        "mcc": lambda: MulticlassMatthewsCorrCoef(num_classes=3),
    }
    objective = Measured(Classification(), metrics)
    assert [one.name for one in objective.measures if one.is_fraction] == ["accuracy", "two", "each", "percent"]
    meters = objective.meters(torch.device("cpu"))
    outputs, targets = torch.randn(6, 3, generator=draws()), torch.arange(6) % 3
    shapes = r"outputs of shape \(6, 3\) and targets of shape \(6,\)"
    with pytest.raises(ValueError, match=rf"^objective\.metrics\.two: BinaryF1Score cannot take {shapes}: .*"):
        meters["two"].update(outputs, targets)
    meters["each"].update(outputs, targets)
    with pytest.raises(ValueError, match=r"each must give one number, got a tensor of shape \(3,\) .*average=macro"):
        meters["each"].compute()
    meters["percent"].update(targets, targets)
    with pytest.raises(ValueError, match=r"percent must be between 0 and 1, as its plot bounds say, got 100 from Perc"):
        meters["percent"].compute()
    meters["mcc"].update((targets + 1) % 3, targets)
    assert meters["mcc"].compute() == pytest.approx(-0.5)


@pytest.mark.parametrize("name", ["accuracy", "loss"])
def test_a_metric_has_a_name_of_its_own(name: str):
    with pytest.raises(ValueError, match=rf"^objective\.metrics\.{name} must have another name: .* accuracy, loss$"):
        Measured(Classification(), {name: lambda: None})


def test_the_loss_can_be_the_headline_and_an_unknown_measure_cannot():
    assert Measured(Classification(), headline="loss").measures[0] == LOSS
    with pytest.raises(ValueError, match=r"objective\.headline must be one of accuracy, got recall"):
        Measured(Classification(), headline="recall")


@pytest.mark.parametrize("kinds", [{"mixup": 0.4}, {"cutmix": 1.0}])
def test_mixed_targets_are_the_shares_of_what_an_image_shows(kinds: dict[str, float]):
    """Images of one value each: how much of a mixed image is of either is its mean."""
    targets = torch.arange(16)
    images = targets.float().view(-1, 1, 1, 1).expand(16, 1, 20, 20).contiguous()
    mixed, shares = Mixing(16, **kinds)(images, targets, 0, 3)
    assert shares.sum(1).numpy() == close(1, abs=1e-6)
    assert (shares * torch.arange(16)).sum(1).numpy() == close(mixed.mean((1, 2, 3)).numpy(), rel=1e-5, abs=1e-5)
    again = Mixing(16, **kinds)(images, targets, 0, 3)
    assert all(torch.equal(a, b) for a, b in zip((mixed, shares), again, strict=True))
    assert not torch.equal(mixed, Mixing(16, **kinds)(images, targets, 0, 4)[0])
