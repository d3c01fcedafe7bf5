"""The doctor reports what would fail later, before anything is submitted."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from onecycle_sweeps import cli, files
from onecycle_sweeps.launching import doctor as checks
from program import write
from slurm_cluster import Cluster, up
from test_cli import unused_port

SLURM = ("hydra/launcher=slurm", "hydra.launcher.mem_gb=2")

Doctor = Callable[..., tuple[int, dict[str, str]]]


@pytest.fixture(scope="module")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One cluster for all tests of a process that do not change it."""
    with up(tmp_path_factory.mktemp("slurm")) as made:
        yield made


@pytest.fixture
def doctor(
    runs_dir: Path, checks_here: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Doctor:
    """Runs the doctor in a folder of the test's own: the exit status, and `word: line` by what was checked.

    The key "" has the whole output.
    """
    monkeypatch.chdir(runs_dir.parent)

    def ask(*typed: str) -> tuple[int, dict[str, str]]:
        status = cli.main(["doctor", *typed])
        out = capsys.readouterr().out
        told = [line[9:].split(": ", 1) for line in out.splitlines() if not line.startswith(" ")]
        words = [line.split()[0] for line in out.splitlines() if not line.startswith(" ")]
        return status, {about: f"{word}: {line}" for word, (about, line) in zip(words, told, strict=True)} | {"": out}

    return ask


@pytest.fixture
def doctor_on_cluster(shared_cluster: Cluster, doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """The doctor on a machine with a cluster."""
    monkeypatch.setenv("SLURM_CONF", shared_cluster.environment["SLURM_CONF"])
    return lambda *typed: doctor(*SLURM, *typed)


@contextmanager
def server(status: int) -> Iterator[str]:
    """The address of an MLflow server that answers every request with one status."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"{}" if status == 200 else b"Invalid Host header")

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as made:
        threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()


def test_without_a_cluster_all_checks_pass_or_are_skipped(doctor: Doctor, runs_dir: Path):
    status, told = doctor("-m")
    assert status == 0
    assert list(told) == ["config", "runs_dir", "trial", "tracking", "slurm", "sbatch", ""]
    assert told["trial"] == "ok: it has 1437 training and 360 validation samples, and can take a step"
    assert told["slurm"].startswith("skipped: ") and "hydra/launcher=slurm" in told["slurm"]
    assert [path.name for path in runs_dir.iterdir()] == ["data"]
    assert not (runs_dir.parent / "mlflow.db").exists()


def test_a_working_cluster_accepts_the_request_and_nothing_is_submitted(
    shared_cluster: Cluster, doctor_on_cluster: Doctor
):
    before = shared_cluster.run("squeue", "--noheader", "--states=all")
    status, told = doctor_on_cluster("hydra.launcher.partition=high", "hydra.launcher.gpus_per_node=1")
    assert status == 0
    assert [line.split()[0] for line in told[""].splitlines()] == ["ok"] * 6 + ["skipped"]
    assert told["node"].startswith("skipped: --probe ")
    assert shared_cluster.run("squeue", "--noheader", "--states=all") == before


@pytest.mark.parametrize(
    ("asked", "words"),
    [("partition=nowhere", "Invalid partition name"), ("gpus_per_node=32", "node configuration is not available")],
)
def test_what_the_cluster_does_not_have_is_named(doctor_on_cluster: Doctor, asked: str, words: str):
    status, told = doctor_on_cluster(f"hydra.launcher.{asked}", "--probe")
    assert status == 1
    assert told["sbatch"].startswith("FAILS: ")
    assert words in told["sbatch"]
    assert told["node"].startswith("skipped: ")


def test_a_probe_checks_a_node(shared_cluster: Cluster, doctor_on_cluster: Doctor, runs_dir: Path):
    with server(200) as address:
        status, told = doctor_on_cluster("--probe", f"tracking.uri={address}")
    assert status == 0, told[""]
    assert told["node"].startswith("ok: n")
    assert told["cuda"].startswith("skipped: hydra.launcher.gpus_per_node")
    assert told["tracking there"] == f"ok: {address} answers"
    assert told["runs_dir there"].startswith("ok: what n")
    assert [path.name for path in runs_dir.iterdir()] == ["data"]
    shared_cluster.wait_for(lambda: not shared_cluster.run("squeue", "--noheader"), "the end of the probe's job")


def test_a_probe_fails_if_torch_does_not_find_the_requested_gpus(doctor_on_cluster: Doctor):
    hidden = "hydra.launcher.setup=['export CUDA_VISIBLE_DEVICES=-1']"
    status, told = doctor_on_cluster("--probe", "hydra.launcher.gpus_per_node=1", hidden)
    assert status == 1
    assert told["cuda"].startswith("FAILS: torch ")


@pytest.mark.parametrize(
    ("setup", "words"),
    [
        ("false", "(NonZeroExitCode)"),
        ("no-such-module load cuda", "no-such-module: command not found"),
        ("export PYTHONHOME=/nowhere", "No module named 'encodings'"),
    ],
)
def test_a_probe_whose_job_cannot_start_says_why(doctor_on_cluster: Doctor, runs_dir: Path, setup: str, words: str):
    status, told = doctor_on_cluster("--probe", f"hydra.launcher.setup=['{setup}']")
    assert status == 1
    assert told["node"].startswith("FAILS: it could not be started on n")
    assert "hydra.launcher.setup" in told["node"]
    assert words in told[""]
    assert [path.name for path in runs_dir.iterdir()] == ["data"]


def test_a_controller_that_does_not_answer_is_reported(
    cluster: Cluster, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
    cluster.kill("slurmctld")
    status, told = doctor(*SLURM, "--probe")
    assert status == 1
    assert told["slurm"].startswith("FAILS: ")
    assert "Unable to contact slurm controller" in told["slurm"]
    assert told["sbatch"].startswith("skipped: ")


def test_a_probe_that_exceeds_its_memory_says_so(doctor_on_cluster: Doctor):
    status, told = doctor_on_cluster("--probe", "hydra.launcher.mem_gb=0.05")
    assert status == 1
    assert told["node"].endswith(": raise hydra.launcher.mem_gb")


def test_a_probe_that_does_not_start_in_time_is_cancelled(
    shared_cluster: Cluster, doctor_on_cluster: Doctor, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(checks, "PATIENCE_MIN", 0.05)
    status, told = doctor_on_cluster("--probe", "hydra.launcher.additional_parameters={begin: 'now+1hour'}")
    assert status == 1
    assert "the job is pending (BeginTime): it is cancelled" in told["node"]
    assert shared_cluster.run("squeue", "--noheader") == ""


def test_ctrl_c_cancels_the_probe(shared_cluster: Cluster, doctor_on_cluster: Doctor, monkeypatch: pytest.MonkeyPatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("onecycle_sweeps.launching.slurm.client.query", interrupt)
    with pytest.raises(KeyboardInterrupt):
        doctor_on_cluster("--probe", "hydra.launcher.additional_parameters={begin: 'now+1hour'}")
    assert shared_cluster.run("squeue", "--noheader") == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "about", "words"),
    [
        ("epochs=0", "config", "epochs must be a whole number of at least 1, got 0"),
        ("runs_dir=/dev/null/runs", "runs_dir", "/dev/null/runs cannot be written to (Not a directory)"),
        ("data=mnist data.root=nowhere", "trial", "nowhere"),
        ("tracking.uri=sqlite:////dev/null/mlflow.db", "tracking", "cannot create /dev/null/mlflow.db"),
    ],
)
def test_each_failure_is_reported_with_its_value(doctor: Doctor, typed: str, about: str, words: str):
    status, told = doctor(*typed.split())
    assert status == 1
    assert told[about].startswith("FAILS: ")
    assert words in told[about]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (403, "MLFLOW_SERVER_ALLOWED_HOSTS=127.0.0.1:"),
        (401, "set MLFLOW_TRACKING_USERNAME and "),
        (404, "start it, or"),
    ],
)
def test_a_server_that_refuses_is_reported_with_what_to_do(doctor: Doctor, status: int, advice: str):
    with server(status) as address:
        failed, told = doctor(f"tracking.uri={address}")
    assert failed == 1
    assert told["tracking"].startswith(f"FAILS: the MLflow store {address} cannot be used: ")
    assert advice in told["tracking"]


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_reported_without_its_password(doctor: Doctor):
    status, told = doctor(f"tracking.uri=http://me:hunter2@127.0.0.1:{unused_port()}")
    assert status == 1
    assert "tracking.uri=..." in told["tracking"]
    assert "hunter2" not in told["tracking"]


def test_a_missing_slurm_is_reported(doctor: Doctor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    status, told = doctor(*SLURM)
    assert status == 1
    assert told["slurm"].startswith("FAILS: hydra/launcher=slurm needs sbatch, which is not on the PATH here")
    assert told["sbatch"].startswith("skipped: ")


@pytest.mark.parametrize(
    ("kind", "words"),
    [("nfs4", "on nfs4, which machines share"), ("ext4", "warning: ext4 looks local to this machine")],
)
def test_a_folder_that_nodes_may_not_see_gets_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, words: str
):
    (tmp_path / "mounts").write_text(
        "1 1 8:1 / / rw - tmpfs none rw\n"
        f"2 1 8:2 / {tmp_path} rw,relatime shared:1 - {kind} server:/home rw\n"
        f"3 1 8:2 / {tmp_path}/runs-of-another rw - tmpfs none rw\n"
    )
    monkeypatch.setattr(files, "MOUNTS", tmp_path / "mounts")
    assert files.file_system(tmp_path / "runs") == kind
    assert words in checks.runs_dir(tmp_path / "runs", on_nodes=True).line
    assert "machine" not in checks.runs_dir(tmp_path / "runs", on_nodes=False).line


def test_the_doctor_accepts_no_sweep(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["doctor", "5weeb1d0"]) == 2
    assert capsys.readouterr().err == "onecycle_sweeps: doctor takes no sweep, got 1: 5weeb1d0\n"


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--config-dir my", "--config-dir=my", "-cd my"])
def test_the_doctor_accepts_the_overrides_of_a_sweep(doctor: Doctor, tmp_path: Path, option: str):
    write(tmp_path, {"my/policy/mine.yaml": "_target_: onecycle_sweeps.policies.Constant\nmax_lr: ${max_lr}\n"})
    status, told = doctor("-m", "policy=mine,constant", *option.split(), "seed=0,1", "max_lr=0.1")
    assert (status, told["trial"]) == (0, "ok: it has 1437 training and 360 validation samples, and can take a step")


@pytest.mark.slow
def test_the_doctor_checks_every_trial_of_a_sweep_and_the_ends_of_a_search(doctor: Doctor, tmp_path: Path):
    search = "_target_: mine.Search\nparams: {batch_size: 'range(64, 2000)'}\n"
    write(tmp_path, {"my/hydra/sweeper/search.yaml": search})
    for typed in (["batch_size=64,2000", "max_lr=0.1"], ["hydra/sweeper=search", "max_lr=interval(0.1, 0.5)"]):
        status, told = doctor("--config-dir", "my", *typed)
        assert status == 1
        assert "FAILS: batch_size must be at most the 1437 training samples" in told["trial"]


@pytest.mark.parametrize(
    "typed", ["--config-dir nowhere", "--config-dir", "--config-name nowhere", "--cfg job", "--nope"]
)
def test_an_option_that_cannot_be_used_is_refused_in_one_line(typed: str, capsys: pytest.CaptureFixture[str]):
    for verb in ("doctor", "status"):
        assert cli.main([verb, *typed.split()]) == 2
        assert capsys.readouterr().err.count("\n") == 1
