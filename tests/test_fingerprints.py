"""Data is identified by the content of its files: changed files are other data, and no trial runs on changed data."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from onecycle_sweeps import fingerprints, trial
from onecycle_sweeps.config.schema import ConfigError
from onecycle_sweeps.planning import Planner
from onecycle_sweeps.trial import TrialFailed
from onecycle_sweeps.trial_folder import TrialFolder
from photographs import classes, encoded, laid, picture
from real_trials import made, planned, request

# Images without compression: all have one size in bytes.
NAMES = [name.replace(".png", ".bmp") for name in classes("train/", "val/")]
BMP = {name: encoded(picture(seed), "BMP") for seed, name in enumerate(NAMES)}
AT_A_RATE = ("policy=constant", "epochs=1", "batch_size=3", "max_lr=0.01")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return laid(tmp_path / "photos", BMP)


def asked(photos: Path, *more: str) -> tuple[str, ...]:
    return ("data=image_folder", f"data.path={photos}", "data.size=8", *AT_A_RATE, *more)


def pixels(runs_dir: Path, *overrides: str) -> np.ndarray:
    """The training images that a planned trial would train on."""
    cache = planned(runs_dir, *overrides).config["needs"]["data"]
    return np.load(runs_dir / "data" / cache / "train_images.npy")


def swapped(photos: Path) -> None:
    for part in ("train", "val"):
        top = photos / part
        for old, new in (("ants", "x"), ("bees", "ants"), ("x", "bees")):
            (top / old).rename(top / new)


def renamed(photos: Path) -> None:
    for part in ("train", "val"):
        (photos / part / "bees").rename(photos / part / "cats")


def noise(photos: Path) -> None:
    for path in photos.rglob("*.bmp"):
        path.write_bytes(encoded(picture(hash(path.name) % 99 + 100), "BMP"))


def in_place_with_its_old_time(photos: Path) -> None:
    path, other = (photos / "train" / name / "0.bmp" for name in ("ants", "bees"))
    before = path.stat()
    with path.open("r+b") as file:
        file.write(other.read_bytes())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (before.st_size, before.st_mtime_ns, before.st_ino) == (after.st_size, after.st_mtime_ns, after.st_ino)


@pytest.mark.slow
@pytest.mark.parametrize("change", [swapped, renamed, noise, in_place_with_its_old_time])
def test_changed_photographs_of_equal_size_are_other_data(photos: Path, tmp_path: Path, change: Callable[[Path], None]):
    runs_dir, overrides = tmp_path / "runs", asked(photos)
    before, seen = planned(runs_dir, *overrides), pixels(runs_dir, *overrides)
    assert planned(runs_dir, *overrides).signature == before.signature
    change(photos)
    after = planned(runs_dir, *overrides)
    assert after.signature != before.signature
    assert after.config["needs"]["data"] != before.config["needs"]["data"]
    assert planned(runs_dir, *overrides, "seed=1").config["needs"]["data"] == after.config["needs"]["data"]
    assert np.array_equal(pixels(runs_dir, *overrides), seen) is (change is renamed)


@pytest.mark.slow
def test_data_that_is_changed_back_is_the_same_data(photos: Path, tmp_path: Path):
    before = planned(tmp_path / "runs", *asked(photos)).signature
    swapped(photos)
    planned(tmp_path / "runs", *asked(photos))
    swapped(photos)
    assert planned(tmp_path / "runs", *asked(photos)).signature == before


def test_a_file_is_read_once_while_its_inode_is_unchanged(photos: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(fingerprints, "SETTLED_NS", 0)
    time.sleep(0.02)
    first = fingerprints.take([photos], tmp_path / "memos")
    with monkeypatch.context() as patch:
        patch.setattr(fingerprints, "_hash", lambda top, name: pytest.fail(f"{name} was read again"))
        assert fingerprints.take([photos], tmp_path / "memos") == first
        fingerprints.check(first, tmp_path / "memos")
    (photos / "train" / "ants" / "0.bmp").touch()
    read = []
    hashed = fingerprints._hash
    monkeypatch.setattr(fingerprints, "_hash", lambda top, name: (read.append(name), hashed(top, name))[1])
    assert fingerprints.take([photos], tmp_path / "memos") == first and read == ["train/ants/0.bmp"]
    assert fingerprints.take([photos], tmp_path / "memos", afresh=True) == first and len(read) == 1 + len(BMP)


def test_a_file_written_just_before_it_was_read_is_read_again(photos: Path, tmp_path: Path, monkeypatch):
    fingerprints.take([photos], tmp_path / "memos")
    read = []
    hashed = fingerprints._hash
    monkeypatch.setattr(fingerprints, "_hash", lambda top, name: (read.append(name), hashed(top, name))[1])
    fingerprints.take([photos], tmp_path / "memos")
    assert len(read) == len(BMP)


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"version": 1}', b'{"version": 9, "path": "", "files": {}}'])
def test_a_damaged_memo_only_costs_a_second_reading(photos: Path, tmp_path: Path, damage: bytes):
    first = fingerprints.take([photos], tmp_path / "memos")
    (memo,) = (tmp_path / "memos").iterdir()
    memo.write_bytes(damage)
    assert fingerprints.take([photos], tmp_path / "memos") == first


@pytest.mark.slow
def test_by_stat_nothing_is_read_and_times_count(photos: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(fingerprints, "_hash", lambda top, name: pytest.fail(f"{name} was read"))
    before = planned(tmp_path / "runs", *asked(photos, "data.fingerprint=stat"))
    assert planned(tmp_path / "runs", *asked(photos, "data.fingerprint=stat")).signature == before.signature
    noise(photos)
    after = planned(tmp_path / "runs", *asked(photos, "data.fingerprint=stat"))
    assert after.signature != before.signature
    folder = TrialFolder(tmp_path / "runs" / before.signature)
    folder.create(before.config)
    with pytest.raises(TrialFailed, match=f"{photos} changed since the trial was planned"):
        trial.run(folder)


def test_every_data_set_accepts_the_fingerprint_key_and_no_loader_receives_it(runs_dir: Path):
    assert planned(runs_dir, "max_lr=0.1", "data.fingerprint=stat").signature
    with pytest.raises(ConfigError, match=r"^data.fingerprint must be content or stat, got 'size'$"):
        planned(runs_dir, "max_lr=0.1", "data.fingerprint=size")


def gone(photos: Path) -> None:
    photos.rename(photos.with_name("moved"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (noise, r"train/ants/0.bmp, train/ants/1.bmp, train/ants/2.bmp and 9 more"),
        (lambda photos: (photos / "val" / "bees" / "1.bmp").unlink(), r"\(val/bees/1.bmp\) changed since"),
        (lambda photos: laid(photos, {"val/bees/3.bmp": b"x"}), r"\(val/bees/3.bmp\) changed since"),
        (gone, "photos, which the trial reads, was removed"),
    ],
)
def test_a_trial_whose_data_changed_since_it_was_planned_fails_in_one_line(
    photos: Path, tmp_path: Path, change: Callable[[Path], None], named: str
):
    folder = made(tmp_path / "runs", *asked(photos))
    change(photos)
    with pytest.raises(TrialFailed, match=rf"^{photos}[^\n]*{named}[^\n]*$" if change is not gone else named):
        trial.run(folder)
    assert folder.result() is None


@pytest.mark.slow
def test_a_training_whose_data_changed_after_its_range_test_fails(photos: Path, tmp_path: Path):
    folder = made(tmp_path / "runs", *asked(photos, "max_lr=auto", "range_test.steps=100"))
    trial.run(folder.sibling(folder.config()["needs"]["range_test"]))
    noise(photos)
    with pytest.raises(TrialFailed, match="changed since the trial was planned"):
        trial.run(folder)


@pytest.mark.slow
def test_images_decoded_in_every_epoch_are_checked_again_at_the_end(photos: Path, tmp_path: Path):
    folder = made(tmp_path / "runs", *asked(photos, "data.max_cached_gb=0", "epochs=2"))

    def change() -> bool:
        other = photos.with_name("other.bmp")
        other.write_bytes(BMP["train/bees/0.bmp"])
        other.rename(photos / "train" / "ants" / "0.bmp")
        return False

    with pytest.raises(TrialFailed, match=r"train/ants/0.bmp.* changed since the trial was planned"):
        trial.run(folder, change)
    assert folder.result() is None and not folder.checkpoint.exists()


def test_files_that_change_while_they_are_decoded_leave_no_cache(tmp_path: Path, own, monkeypatch):
    overrides = own("np.savez(file, images=images, labels=labels, more=file.stat().st_mtime_ns)")
    with pytest.raises(ConfigError, match=r"^[^\n]*d.npz changed while it was read[^\n]*$"):
        planned(tmp_path / "runs", *overrides(f"+data.file={tmp_path}/a/d.npz"))
    folders = [path.name for path in (tmp_path / "runs" / "data").iterdir() if path.is_dir()]
    assert folders == ["fingerprints"]


LOADER = """
from pathlib import Path
import numpy as np
from onecycle_sweeps.images import Source

FIXED = {fixed!r}

def load(root=None, file="d.npz", **more):
    file = Path(root or ".", file) if not FIXED else FIXED
    with np.load(file) as found:
        images, labels = found["images"], found["labels"]
    {extra}
    return Source(images[:32], labels[:32], images[32:], labels[32:], ("a", "b"))
"""


def arrays(folder: Path, seed: int) -> Path:
    """A file d.npz of 40 images."""
    folder.mkdir(exist_ok=True)
    images = np.random.default_rng(seed).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    np.savez(folder / "d.npz", images=images, labels=np.arange(40) % 2)
    return folder / "d.npz"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Callable[..., tuple[str, ...]]]:
    """A user's own loader beside files a/d.npz and b/d.npz; gives the overrides that name it."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    monkeypatch.syspath_prepend(home)
    for number, name in enumerate("ab"):
        arrays(tmp_path / name, number)

    def write(extra: str = "pass", fixed: str = "") -> Callable[..., tuple[str, ...]]:
        module = f"own_{abs(hash((extra, fixed, tmp_path)))}"
        (home / f"{module}.py").write_text(LOADER.format(extra=extra, fixed=fixed))
        return lambda *more: (f"data._target_={module}.load", "~data.files", *AT_A_RATE, *more)

    return write


def test_data_of_a_users_own_loader_is_identified_by_the_files_below_root(tmp_path: Path, own):
    overrides, runs_dir = own(), tmp_path / "runs"
    a, b = (f"+data.root={tmp_path / name}" for name in "ab")
    first, second = (planned(runs_dir, *overrides(root)) for root in (a, b))
    assert first.signature != second.signature
    assert not np.array_equal(pixels(runs_dir, *overrides(a)), pixels(runs_dir, *overrides(b)))
    arrays(tmp_path / "a", 7)
    assert planned(runs_dir, *overrides(a)).signature not in (first.signature, second.signature)
    (tmp_path / "b").rename(tmp_path / "c")
    assert planned(runs_dir, *overrides(f"+data.root={tmp_path / 'c'}")).signature == second.signature


@pytest.mark.slow
@pytest.mark.parametrize(
    "keys",
    [
        ("+data.file={a}/d.npz",),
        ("+data.root={a}", "+data.file=d.npz"),
        ("+data.file=../a/d.npz",),
        ("+data.options={{deep:[1,{{file:{a}/d.npz}}]}}", "+data.file={a}/d.npz"),
        ("+data.file={a}/d.npz", "+data.pattern='{a}/*.npz'"),
        ("+data.root='~/a'", "+data.file=d.npz"),
        ("+data.file={a}/d.npz", "+data.folder={a}"),
        ("+data.files=[d.npz]", "+data.root={a}"),
    ],
)
def test_every_existing_file_that_a_data_node_names_counts(tmp_path: Path, own, monkeypatch, keys: tuple[str, ...]):
    monkeypatch.setenv("HOME", str(tmp_path))
    overrides = own(fixed=str(tmp_path / "b" / "d.npz"))(*(key.format(a=tmp_path / "a") for key in keys))
    first = planned(tmp_path / "runs", *overrides)
    assert planned(tmp_path / "runs", *overrides).signature == first.signature
    arrays(tmp_path / "a", 7)
    assert planned(tmp_path / "runs", *overrides).signature != first.signature


def test_a_file_that_the_loaders_own_default_names_counts(tmp_path: Path, own):
    overrides = own()()
    first = planned(tmp_path / "runs", *overrides) if arrays(Path(), 1) else None
    arrays(Path(), 2)
    assert first and planned(tmp_path / "runs", *overrides).signature != first.signature


def test_a_root_that_does_not_exist_counts_by_its_name(tmp_path: Path, own):
    overrides = own(fixed=str(tmp_path / "a" / "d.npz"))
    found = {planned(tmp_path / "runs", *overrides(f"+data.root={tmp_path / name}")).signature for name in ("x", "y")}
    assert len(found) == 2


def test_a_root_does_not_count_if_a_file_below_it_is_named(tmp_path: Path, own):
    overrides, runs_dir = own(), tmp_path / "runs"
    before = planned(runs_dir, *overrides(f"+data.root={tmp_path / 'a'}", "+data.file=d.npz"))
    (tmp_path / "a" / "more").write_text("of others")
    (tmp_path / "a").rename(tmp_path / "moved")
    after = planned(runs_dir, *overrides(f"+data.root={tmp_path / 'moved'}", "+data.file=d.npz"))
    assert after.signature == before.signature


def test_files_that_a_loader_fetches_are_fingerprinted_after_fetching(tmp_path: Path, own):
    fetch = "(Path(root) / 'fetched').mkdir(exist_ok=True); (Path(root) / 'fetched' / 'list').write_text('one')"
    overrides, root = own(fetch), f"+data.root={tmp_path / 'a'}"
    first = planned(tmp_path / "runs", *overrides(root))
    assert planned(tmp_path / "runs", *overrides(root)).signature == first.signature
    assert fingerprints.check(first.config["needs"]["files"], fingerprints.memo_folder(tmp_path / "runs")) is None


def test_files_that_this_program_writes_into_a_data_folder_do_not_count(tmp_path: Path, own, monkeypatch):
    monkeypatch.chdir(tmp_path / "a")
    overrides = own()("+data.root=.")
    first = made(Path("runs"), *overrides)
    Path("mlflow.db").write_bytes(b"a store")
    trial.run(first)
    assert planned(Path("runs"), *overrides).signature == first.signature
    arrays(Path(), 7)
    assert planned(Path("runs"), *overrides).signature != first.signature


@pytest.mark.slow
def test_photographs_in_the_working_folder_are_separate_from_its_runs(photos: Path, monkeypatch):
    monkeypatch.chdir(photos)
    overrides = asked(Path(), "data.root=.")
    first = made(Path("runs"), *overrides)
    Path("mlflow.db").write_bytes(b"a store")
    (first.path / "lr_momentum.png").write_bytes(encoded(picture(0)))
    again = made(Path("runs"), *overrides)
    assert again.signature == first.signature
    trial.run(again)
    assert (again.resolved() or {})["data"]["skipped"] == 0


def test_rerun_reads_data_again_that_no_key_names(tmp_path: Path, own, monkeypatch):
    file, runs_dir = tmp_path / "a" / "d.npz", tmp_path / "runs"
    overrides = own(fixed=str(file))()
    seen = pixels(runs_dir, *overrides)
    arrays(tmp_path / "a", 7)
    assert np.array_equal(pixels(runs_dir, *overrides), seen)
    assert not np.array_equal(pixels(runs_dir, *overrides, "rerun=true"), seen)


def test_reusing_data_that_no_key_names_gives_a_remark(tmp_path: Path, own):
    runs_dir, overrides = tmp_path / "runs", own(fixed=str(tmp_path / "a" / "d.npz"))
    named = f"+data.files=[{tmp_path}/a/d.npz]"

    def remarks(*keys: str) -> list[str]:
        planner = Planner(runs_dir)
        for seed in range(2):
            planner.plan(request(runs_dir, *keys, f"seed={seed}"))
        return planner.remarks

    assert remarks(*overrides()) == []
    (line,) = remarks(*overrides())
    assert "rerun=true" in line and "+data.files=" in line
    assert remarks(*overrides("rerun=true")) == remarks(*overrides(named)) == remarks(*overrides(named)) == []
    assert remarks() == remarks() == []


def test_rerun_decodes_a_data_set_once_for_all_trials_and_keeps_equal_files(tmp_path: Path, own):
    overrides, runs_dir = own("with Path('calls').open('a') as calls: calls.write('x')"), tmp_path / "runs"
    keys = overrides(f"+data.file={tmp_path}/a/d.npz")
    cache = runs_dir / "data" / planned(runs_dir, *keys).config["needs"]["data"]
    inode = (cache / "train_images.npy").stat().st_ino
    planner = Planner(runs_dir)
    for more in ("seed=1", "seed=2", "data.val_fraction=0.25"):
        planner.plan(request(runs_dir, *keys, more, "rerun=true"))
    assert Path("calls").read_text() == "xx"
    assert (cache / "train_images.npy").stat().st_ino == inode


def test_a_file_of_weights_that_changed_since_planning_fails_the_trial(tmp_path: Path, own):
    (tmp_path / "net.pt").write_bytes(b"weights")
    keys = own()(f"+data.file={tmp_path}/a/d.npz", f"+model.weights_file={tmp_path}/net.pt")
    folder, before = made(tmp_path / "runs", *keys), planned(tmp_path / "runs", *keys).signature
    (tmp_path / "net.pt").write_bytes(b"WEIGHTS")
    with pytest.raises(TrialFailed, match=rf"^{tmp_path}/net.pt changed since the trial was planned"):
        trial.run(folder)
    assert planned(tmp_path / "runs", *keys).signature != before


@pytest.mark.slow
def test_a_val_part_is_the_validation_data_and_a_test_part_is_scored_once_at_the_end(tmp_path: Path):
    parts = {"Train": 9, "valid": 3, "Test": 2}
    files = {name: content for part, each in parts.items() for name, content in classes(f"{part}/", each=each).items()}
    photos = laid(tmp_path / "photos", files | {"Train/ants/notes.txt": b"x"})
    folder = made(tmp_path / "runs", *asked(photos))
    result = trial.run(folder)
    assert "final/test_accuracy" in result["metrics"]
    decoded_anew = made(tmp_path / "beside", *asked(photos, "data.max_cached_gb=0"))
    metrics = trial.run(decoded_anew)["metrics"]
    assert metrics["final/test_accuracy"] == result["metrics"]["final/test_accuracy"]
    resolved = folder.resolved()
    assert resolved and resolved["data"] == {"train": 18, "val": 6, "test": 4, "classes": 2, "skipped": 1}
    assert any("1 file was skipped" in line and "Train/ants/notes.txt" in line for line in result["warnings"])
    with pytest.raises(ConfigError, match=r"val_fraction must be 0 .* got 0.2.*data.test_part=test"):
        planned(tmp_path / "runs", *asked(photos, "data.val_fraction=0.2"))
    held_out = planned(tmp_path / "runs", *asked(photos, "data.val_fraction=0.2", "data.test_part=test"))
    assert held_out.signature != folder.signature


def test_data_without_a_test_part_records_none(runs_dir: Path):
    folder = made(runs_dir, *AT_A_RATE, "batch_size=256", "data.classes=[3,7]")
    trial.run(folder)
    resolved = folder.resolved()
    assert resolved and resolved["data"]["test"] == 0 and resolved["data"]["classes"] == 2
