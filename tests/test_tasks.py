"""Trials of every task: what they compute, and that an interruption anywhere changes no bit of it."""

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes
from sklearn.metrics import root_mean_squared_error
from torch import nn
from torchvision import models

from onecycle_sweeps import journal, seeding, trial
from onecycle_sweeps.config.schema import ConfigError
from onecycle_sweeps.loop import steps
from onecycle_sweeps.models.gpt import GPT
from onecycle_sweeps.models.mlp import MLP
from onecycle_sweeps.models.unet import UNet
from onecycle_sweeps.planning import Planner
from onecycle_sweeps.policies import Constant, OneCycle
from onecycle_sweeps.scheduler import apply
from onecycle_sweeps.trial import Stopped, build
from real_trials import composed, learner_of, made, outcome, planned, request, series, stop_after, undisturbed

SHORT = ("epochs=2", "max_lr=0.01", "precision=fp32", "save_model=true", "checkpoint_minutes=1e-9")
SMALL_GPT = ("data=text", "data.path={book}", "model.depth=1", "model.width=8", "model.heads=2", "data.context=32")


def own(optimizer: str) -> tuple[str, ...]:
    """The overrides for an optimizer that is in no group."""
    return ("~optimizer", f"+optimizer={optimizer}", "+range_test.start_lr=1e-5", "+range_test.end_lr=1")


WAVES = ("data=torch_dataset", "data.dataset={_target_: users_code.Waves}", "batch_size=16")


@pytest.fixture(scope="module")
def houses(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of numbers, words and gaps, and the price that follows from them."""
    generator = np.random.default_rng(0)
    rows = ["size,rooms,town,price"]
    for _ in range(160):
        size, rooms, town = generator.normal(100, 20), generator.integers(1, 6), generator.choice(["Ulm", "Bonn", ""])
        price = 1000 * size + 9000 * rooms + 20000 * (town == "Bonn") + generator.normal(0, 2000)
        rows.append(f"{size if generator.random() > 0.1 else '':.5},{rooms},{town},{price:.2f}")
    file = tmp_path_factory.mktemp("tables") / "houses.csv"
    file.write_text("\n".join(rows), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text of 2,000 words."""
    words = np.random.default_rng(0).choice(["to", "be", "or", "not", "that", "is", "the", "question"], 2000)
    file = tmp_path_factory.mktemp("texts") / "book.txt"
    file.write_text(" ".join(words), encoding="utf-8")
    return file


def test_a_regression_ends_where_a_plain_loop_ends_in_the_units_of_its_target(runs_dir: Path):
    folder = made(runs_dir, *SHORT, "data=diabetes", "model.widths=[16]", "batch_size=64", "policy=onecycle")
    result = trial.run(folder)
    inputs, targets = (np.asarray(one, np.float64) for one in load_diabetes(return_X_y=True, scaled=False))
    stay, held_out = seeding.held_out(len(targets), 0.2, 0)
    features = torch.tensor((inputs - inputs[stay].mean(0)) / inputs[stay].std(0), dtype=torch.float32)
    mean, std = targets[stay].mean(), targets[stay].std()
    wanted = torch.tensor((targets - mean) / std, dtype=torch.float32)
    torch.manual_seed(0)
    net = MLP(10, 1, widths=[16])
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)
    steps = len(stay) // 64
    policy = OneCycle(max_lr=0.01, total_steps=2 * steps)
    loss = torch.tensor(0.0)
    for step in range(2 * steps):
        apply(optimizer, policy(step))
        at = stay[seeding.order(len(stay), 0, step // steps).numpy()][step % steps * 64 :][:64]
        loss = torch.nn.functional.mse_loss(net(features[at])[:, 0], wanted[at])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    predicted = net(features[held_out])[:, 0].detach().numpy() * std + mean
    expected = root_mean_squared_error(targets[held_out], predicted)
    assert result["metrics"]["final/val_rmse"] == pytest.approx(expected, rel=1e-4)
    assert series(folder, "train/loss")[1][-1] == pytest.approx(loss.item(), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ("data=diabetes", "batch_size=64"),
        ("data=breast_cancer", "batch_size=64", "objective.class_weights=balanced"),
        (*SMALL_GPT, "batch_size=48", "optimizer=adamw"),
        (*SMALL_GPT, "batch_size=48", "data.by=bytes", "model.dropout=0.1", "policy=linear"),
        WAVES,
        (*WAVES, "data.workers=2"),
        ("batch_size=64", "accumulate=4"),
        ("batch_size=256", "ema_decay=0.8"),
        ("batch_size=256", "objective.mixup=0.2", "objective.cutmix=1"),
        ("batch_size=64", "data=diabetes", "optimizer=muon"),
        ("batch_size=64", "data=diabetes", *own("{_target_: schedulefree.AdamWScheduleFree}"), "policy=constant"),
        ("batch_size=64", "data=diabetes", *own("{_target_: torch.optim.LBFGS,max_iter: 3}"), "policy=cosine"),
    ],
    ids=lambda overrides: " ".join(overrides)[:50],
)
def test_a_trial_stopped_at_any_step_ends_as_one_that_was_not(
    runs_dir: Path, beside: Path, book: Path, overrides: tuple[str, ...]
):
    overrides = tuple(word.replace("{book}", str(book)) for word in overrides)
    folder = made(runs_dir, *SHORT, *overrides)
    while folder.result() is None:
        try:
            trial.run(folder, stop_after(4))
        except Stopped:
            assert folder.checkpoint.exists()
    assert len(journal.read(folder.journal).attempts) >= 2
    assert outcome(folder) == undisturbed(beside, *SHORT, *overrides)


@pytest.mark.slow
def test_the_target_of_a_table_is_settled_before_the_signature(runs_dir: Path, houses: Path):
    asked = ("data=csv", f"data.path={houses}", "max_lr=0.01", "batch_size=32")
    price = planned(runs_dir, *asked, "data.label=price")
    assert price.config["objective"]["_target_"].endswith("Regression")
    assert price.signature == planned(runs_dir, *asked, "data.label=price", "objective=regression").signature
    town = planned(runs_dir, *asked, "data.label=rooms")
    assert town.config["objective"]["_target_"].endswith("Classification")
    rooms = planned(runs_dir, *asked, "data.label=rooms", "objective=regression")
    assert rooms.config["objective"]["_target_"].endswith("Regression")
    assert len({price.signature, town.signature, rooms.signature}) == 3


def test_earlier_names_of_keys_mean_the_same_and_say_so(runs_dir: Path):
    planner = Planner(runs_dir)
    earlier = planner.plan(request(runs_dir, "max_lr=0.1", "label_smoothing=0.1", "target_accuracy=0.9"))
    today = planner.plan(request(runs_dir, "max_lr=0.1", "objective.label_smoothing=0.1", "target=0.9"))
    assert earlier.signature == today.signature
    assert earlier.config["target"] == today.config["target"] == 0.9
    assert [line.split("=")[0] for line in planner.remarks] == ["label_smoothing", "target_accuracy"]


def test_a_step_of_accumulated_batches_is_that_of_one_large_batch(runs_dir: Path):
    asked = (*SHORT, "data=diabetes", "epochs=1", "policy=constant")
    large = made(runs_dir, *asked, "batch_size=128")
    small = made(runs_dir, *asked, "batch_size=32", "accumulate=4")
    results = [trial.run(folder) for folder in (large, small)]
    assert results[0]["steps"] == results[1]["steps"] == 2
    losses = [series(folder, "train/loss")[1] for folder in (large, small)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    values = [result["metrics"]["final/val_rmse"] for result in results]
    assert values[0] == pytest.approx(values[1], rel=1e-5)


@pytest.mark.slow
def test_what_is_evaluated_is_the_running_mean_of_the_weights(runs_dir: Path):
    asked = (*SHORT, "data=diabetes", "batch_size=64")
    kept = [torch.load(_trained(runs_dir, *asked, f"ema_decay={decay}") / "model.pt") for decay in ("null", 0, 0.9)]
    plain, followed, averaged = (one["layers.1.weight"] for one in kept)
    assert torch.allclose(plain, followed)
    assert not torch.allclose(plain, averaged)


def test_the_running_mean_keeps_whole_numbers_such_as_indices(runs_dir: Path):
    one = learner_of(made(runs_dir, *SHORT, "ema_decay=0.9"))
    for net in (one.model, one.averaged.module):
        net.register_buffer("places", torch.arange(200))
    for _ in steps(one, Constant(0.1, 3)):
        pass
    assert one.averaged.module.places.tolist() == list(range(200))


def _trained(runs_dir: Path, *overrides: str) -> Path:
    folder = made(runs_dir, *overrides)
    trial.run(folder)
    return folder.path


def test_only_matrices_of_hidden_layers_are_for_muon_and_biases_have_no_decay():
    net = GPT(11, 8, depth=2, width=8, heads=2, tied=False)
    node = {"_target_": "onecycle_sweeps.optimizers.muon.MuonAdamW", "no_decay": True, "weight_decay": 0.1}
    groups = build.make_optimizer(node, net).param_groups
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    hidden = {names[id(p)] for group in groups if group["matrices"] for p in group["params"]}
    assert all(name.startswith("blocks.") and name.endswith("weight") and "norm" not in name for name in hidden)
    assert len(hidden) == 8
    undecayed = {names[id(p)] for group in groups if not group["weight_decay"] for p in group["params"]}
    assert undecayed == {name for name, parameter in net.named_parameters() if parameter.ndim < 2}


def test_the_rate_decays_from_layer_to_layer():
    scales = _scales(GPT(11, 8, depth=3, width=8, heads=2, tied=False))
    assert scales["head.weight"] == 1
    assert [scales[f"blocks.{number}.qkv.weight"] for number in range(3)] == [0.125, 0.25, 0.5]
    assert scales["tokens.weight"] == 0.0625


def test_the_rate_decays_from_layer_to_layer_whatever_lies_between_them():
    scales = _scales(MLP(4, 1, widths=(8, 8), dropout=0.1))
    assert [scales[f"layers.{place}.weight"] for place in (1, 4, 7)] == [0.25, 0.5, 1]
    normed = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 8), nn.LayerNorm(8))
    assert list(_scales(normed).values()) == [0.5, 0.5, 0.5, 0.5, 1, 1, 1, 1]


def test_the_rate_decays_from_layer_to_layer_where_these_have_names():
    layers = OrderedDict[str, nn.Module]((f"layer_{name}", nn.Linear(4, 4, bias=False)) for name in "abc")
    assert list(_scales(nn.Sequential(layers)).values()) == [0.25, 0.5, 1]


def test_the_rate_decays_from_layer_to_layer_over_the_stages_of_a_net():
    scales = _scales(models.resnet18(weights=None))
    places = ["conv1", "layer1.0.conv1", "layer1.1.conv1", "layer2.0.conv1", "layer4.1.conv2", "fc"]
    assert [scales[f"{place}.weight"] for place in places] == [0.5**above for above in (9, 8, 7, 6, 1, 0)]


def _scales(net: nn.Module) -> dict[str, float]:
    """The factor of the rate of each parameter at a decay of 0.5."""
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    groups = build.make_optimizer({"_target_": "torch.optim.AdamW", "layer_decay": 0.5}, net).param_groups
    found = {names[id(one)]: group.get("lr_scale", 1) for group in groups for one in group["params"]}
    return {name: found[name] for name in names.values()}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("data=csv", "data.path=absent.csv", "data.label=y"), r"data\.path must be the path of a CSV"),
        (("data=python_docs", "data.context=1000000"), "must have a window of context=1000000"),
        (("data=diabetes", "label_smoothing=0.1"), "label_smoothing must be 0"),
        (("target=0",), r"target must be in \(0, 1\], since accuracy is a fraction, got 0"),
        (("target=95",), r"target must be in \(0, 1\], since accuracy is a fraction, got 95"),
        (("target=0.9", "target_accuracy=0.8"), "target_accuracy and target are one key"),
        (("data=python_docs", "data.by=bytes", "data.tokenizer=t.json"), "exclude each other"),
        (("data=diabetes", "data.val_fraction=0"), r"val_fraction must be above 0"),
        (("accumulate=8", "batch_size=256"), "accumulate must be at most the 1437 training samples, got 2048"),
        (("data=diabetes", "+data.augment=[{_target_: onecycle_sweeps.images.augmentation.Flip}]"), "is for images"),
    ],
)
def test_what_a_task_cannot_do_is_refused_before_training(runs_dir: Path, overrides: tuple[str, ...], said: str):
    with pytest.raises(ConfigError, match=said):
        planned(runs_dir, *overrides)


def test_a_gpt_looks_at_no_token_to_come():
    net = GPT(7, 8, depth=2, width=16, heads=2)
    tokens = torch.randint(7, (1, 8), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[0, 5] = (changed[0, 5] + 1) % 7
    differs = (net(tokens) - net(changed)).abs().amax(-1)[0]
    assert (differs[:5] == 0).all()
    assert (differs[5:] > 0).all()


def test_a_gpts_gradients_are_those_of_double_precision_in_any_other():
    def gradients(dtype: torch.dtype, *, autocast: bool = False) -> torch.Tensor:
        torch.manual_seed(0)
        net = GPT(7, 8, depth=2, width=16, heads=2).to(dtype)
        tokens = torch.randint(7, (4, 8), generator=torch.Generator().manual_seed(0))
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            net(tokens).float().square().sum().backward()
        return torch.cat([p.grad.flatten().double() for p in net.parameters() if p.grad is not None])

    exact = gradients(torch.float64)
    fp32, mixed, bf16 = gradients(torch.float32), gradients(torch.float32, autocast=True), gradients(torch.bfloat16)
    errors = [((one - exact).norm() / exact.norm()).item() for one in (fp32, mixed, bf16)]
    assert errors[0] < 1e-5
    assert 1e-4 < errors[1] < 0.02
    assert 1e-4 < errors[2] < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("data", ["python_docs", "shakespeare"])
def test_nets_for_texts_are_trained_by_adamw_unless_another_optimizer_is_typed(data: str):
    assert composed(f"data={data}").optimizer._target_ == "torch.optim.AdamW"
    assert composed(f"data={data}", "optimizer=sgd").optimizer._target_ == "torch.optim.SGD"
    assert composed(f"data={data}", "batch_size=8").batch_size == 8


@pytest.mark.parametrize("size", [(7, 9), (1, 1), (16, 16)])
def test_a_unet_gives_an_image_of_any_size_its_own_size(size: tuple[int, int]):
    assert UNet(2, 4, width=4)(torch.randn(2, 2, *size)).shape == (2, 4, *size)


@pytest.fixture
def tiny_bert(tmp_path: Path) -> Path:
    """A folder as transformers saves a net: a BERT with one layer."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    transformers.BertConfig(vocab_size=30, max_position_embeddings=16, **sizes).save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


@pytest.mark.slow
def test_a_net_of_transformers_learns_from_keyword_arguments(runs_dir: Path, tmp_path: Path, tiny_bert: Path):
    tokens = np.random.default_rng(0).integers(3, 30, (120, 12))
    labels = (tokens[:, 0] > 15).astype(int)
    np.savez(tmp_path / "words.npz", input_ids=tokens, attention_mask=np.ones_like(tokens), label=labels)
    net = ("model=transformers", f"model.name={tiny_bert}", "model.pretrained=false")
    folder = made(
        runs_dir,
        *("data=arrays", f"data.path={tmp_path / 'words.npz'}", *net, "optimizer=adamw", "max_lr=0.03"),
        *("epochs=20", "batch_size=24", "precision=fp32", "policy=linear"),
    )
    assert folder.config()["objective"]["_target_"].endswith("Classification")
    assert trial.run(folder)["metrics"]["final/val_accuracy"] > 0.8
