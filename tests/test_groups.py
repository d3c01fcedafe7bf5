"""Trials that different code produced are not compared, whatever their results."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import hand_made
from hand_made import entry, range_test_entry, training
from onecycle_sweeps.outcome import read
from onecycle_sweeps.report.claims import Claims, claims_of

NET = {"net.Net": "n1"}
OLD, NEW = {"net.py": "a1", "layers.py": "b1"}, {"net.py": "a1", "layers.py": "b2"}
FINALS = {"constant": (0.90, 0.91, 0.92), "onecycle": (0.93, 0.94, 0.951)}
Makers = Mapping[str, Sequence[Mapping[str, Any]]]


def made_by(files: Mapping[str, str], code: Mapping[str, str] = NET, **versions: str) -> dict[str, Any]:
    return {"code": dict(code), "files": dict(files), "versions": versions}


def claims(tmp_path: Path, makers: Makers, test: Mapping[str, Any] | None = None) -> Claims:
    """Claims on three seeds of each policy, of which each was made as its record says; the later ones are newer."""
    names = [(policy, seed) for policy in makers for seed in range(3)]
    entries = [entry(f"{policy}{seed}", policy, seed) for policy, seed in names]
    made = hand_made.sweep(tmp_path, *([range_test_entry()] if test else []), *entries)
    if test:
        hand_made.range_test(made.trial("range"), [(0.1, 2.0, 2.0), (1.0, 1.0, 1.5)], suggestions={"max_lr": 0.3})
        made.trial("range").write("resolved", {"max_lr": None, "max_lr_from": None, "total_steps": 2} | dict(test))
    for when, (one, (policy, seed)) in enumerate(zip(entries, names, strict=True)):
        accuracy = {4: FINALS[policy.split("-")[0]][seed]}
        maker = makers[policy][seed]
        training(made.trial(one.signature), accuracy=accuracy, resolved=maker, finished=float(when))
    return claims_of(read(made))


def test_groups_of_one_code_are_compared(tmp_path: Path) -> None:
    found = claims(tmp_path, {"constant": [made_by(OLD)] * 3, "onecycle": [made_by(OLD)] * 3})
    assert found.claims[0].kind == "better" and found.flags == ()


def test_groups_of_different_code_are_not_comparable_and_what_is_older_is_named(tmp_path: Path) -> None:
    found = claims(tmp_path, {"constant": [made_by(OLD)] * 3, "onecycle": [made_by(NEW)] * 3})
    assert found.claims[0].kind == "not comparable" and "code" in found.claims[0].sentence
    (line, _) = found.flags
    assert "layers.py changed after constant (seeds 0, 1, 2)" in line and "rerun=true" in line


def test_one_seed_of_other_code_is_enough_on_either_side(tmp_path: Path) -> None:
    for number, mixed in enumerate(("constant", "onecycle")):
        makers = {name: [made_by(NEW)] * 3 for name in FINALS}
        found = claims(tmp_path / str(number), makers | {mixed: [made_by(OLD), made_by(NEW), made_by(NEW)]})
        assert found.claims[0].kind == "not comparable"
        assert f"{mixed} (seed 0)" in found.flags[0]


def test_a_single_group_with_seeds_of_different_code_is_flagged(tmp_path: Path) -> None:
    found = claims(tmp_path, {"constant": [made_by(OLD), made_by(NEW), made_by(NEW)]})
    assert not found.claims and "layers.py changed after constant (seed 0)" in found.flags[0]


def test_groups_of_different_targets_may_share_a_file_but_not_two_states_of_it(tmp_path: Path) -> None:
    other = {"nets.Other": "n2"}
    same = {"constant": [made_by(OLD)] * 3, "onecycle": [made_by(OLD | {"nets.py": "c"}, other)] * 3}
    assert claims(tmp_path / "same", same).claims[0].kind == "better"
    edited = {"constant": [made_by(OLD)] * 3, "onecycle": [made_by(NEW | {"nets.py": "c"}, other)] * 3}
    assert claims(tmp_path / "edited", edited).claims[0].kind == "not comparable"


def test_another_version_of_a_library_that_a_target_names_is_other_code(tmp_path: Path) -> None:
    makers = {
        "constant": [made_by({}, {"timm.net": "timm 1"})] * 3,
        "onecycle": [made_by({}, {"timm.net": "timm 2"})] * 3,
    }
    assert claims(tmp_path, makers).claims[0].kind == "not comparable"


def test_another_torch_version_is_flagged_and_still_compared(tmp_path: Path) -> None:
    old = made_by(OLD, NET | {"torch.optim.SGD": "torch 2.6"}, torch="2.6")
    new = made_by(OLD, NET | {"torch.optim.SGD": "torch 2.7"}, torch="2.7")
    found = claims(tmp_path, {"constant": [old] * 3, "onecycle": [new] * 3})
    assert found.claims[0].kind == "better"
    (line,) = found.flags
    assert "torch 2.6 and 2.7" in line


def test_a_rate_found_by_other_code_is_flagged(tmp_path: Path) -> None:
    found = claims(tmp_path, {name: [made_by(NEW)] * 3 for name in FINALS}, test=made_by(OLD))
    assert found.claims[0].kind == "better"
    (line,) = found.flags
    assert "layers.py changed between the range test and constant" in line
    assert claims(tmp_path / "same", {name: [made_by(NEW)] * 3 for name in FINALS}, test=made_by(NEW)).flags == ()
