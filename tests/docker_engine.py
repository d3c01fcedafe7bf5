"""docker/ on a real Docker engine: what docker/README.md promises. Run by scripts/docker-check alone.

The tests use one server, one after the other.
"""

import base64
import hashlib
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine import STANDALONE, Engine, Unavailable, engine, local_indexes, provide_images, said, without_digest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = "onecycle-check"
COPIED = ("conf", "docker", "hydra_plugins", "onecycle_sweeps", "scripts")
HEALTHY_SECONDS = 300
# Neither root nor the user of the image.
USER = 4321
SWEEP = ("policy=constant,onecycle", "max_lr=0.1", "seed=0", "epochs=1", "-m")
LINK = re.compile(r"^MLflow: (http\S+)$", flags=re.MULTILINE)
# Of other servers, and of the one who tests.
SETTINGS = re.compile("MLFLOW|ONECYCLE|PUBLIC|TRACKING|TLS|CADDY|TORCH|PG")
MLFLOWS = ("mlflow", "mlflow-skinny", "mlflow-tracing")


@dataclass(frozen=True)
class Stack:
    """The services of compose.yaml, in a copy of the checkout.

    indexes: the package indexes that have torch, where they are not the usual ones.
    """

    engine: Engine
    checkout: Path
    port: int
    indexes: tuple[str, ...]

    @cached_property
    def environment(self) -> dict[str, str]:
        """What a user of the README has in the shell, and what `docker/backup` needs for this project."""
        outside = {name: value for name, value in self.engine.environment.items() if not SETTINGS.match(name)}
        compose = f"{' '.join(self.engine.compose)} -p {PROJECT} -f {self.checkout}/docker/compose.yaml"
        # The plugin builds by BuildKit, as it does for users; 1.29 cannot.
        outside["DOCKER_BUILDKIT"] = str(int(self.engine.compose != STANDALONE))
        return {**outside, "COMPOSE": compose, "PYTHON": sys.executable, **self.login()}

    def configure(self) -> None:
        """Write docker/.env."""
        settings = {
            "TRACKING_PORT": self.port,
            "PUBLIC_HOST": f"localhost:{self.port}",
            "PUBLIC_URL": f"http://localhost:{self.port}",
            "TLS_ADDRESS": "127.0.0.1",
            "ONECYCLE_USER": f"{USER}:{USER}",
        }
        if self.indexes:
            settings["TORCH_INDEX"] = " ".join(self.indexes)
        (self.checkout / "docker/.env").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))

    def login(self, password: str | None = None) -> dict[str, str]:
        """The variables of a login as admin."""
        secret = (self.checkout / "docker/secrets/mlflow_admin_password").read_text()
        return {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": password or secret}

    def compose(self, *arguments: str, **more: str) -> str:
        """What a command of compose prints; it has to succeed."""
        return said([*self.environment["COMPOSE"].split(), *arguments], self.environment | more, cwd=self.checkout)

    def script(self, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        """A command of the checkout, with `docker/backup` and the like, after its end."""
        environment = self.environment | more
        return subprocess.run(words, cwd=self.checkout, env=environment, capture_output=True, text=True, check=False)

    def inspected(self, service: str) -> dict[str, Any]:
        """What the engine knows of a service's container."""
        return json.loads(self.engine.docker("inspect", self.compose("ps", "-q", service).strip()))[0]

    def up(self) -> None:
        """Start the server, and return once it is healthy."""
        self.compose("up", "-d", "mlflow")
        deadline = time.monotonic() + HEALTHY_SECONDS
        while (state := self.inspected("mlflow")["State"])["Health"]["Status"] != "healthy":
            assert time.monotonic() < deadline, (state, self.compose("logs", "--tail", "30", "mlflow"))
            time.sleep(0.5)

    def ask(self, path: str, message: Mapping[str, Any] | None = None, password: str | None = None) -> bytes:
        """The server's answer to a request of the admin's."""
        login = ":".join(self.login(password).values())
        return answer(f"http://localhost:{self.port}/{path}", message, login)

    def schema(self) -> str:
        """The version of the schema of the database."""
        query = 'PGPASSWORD=$(<"$POSTGRES_PASSWORD_FILE") psql -U mlflow -Atc "SELECT * FROM alembic_version"'
        return self.compose("exec", "-T", "postgres", "bash", "-c", query).strip()

    def content(self) -> dict[str, Any]:
        """Every run: its status and last metrics, all points of its loss, and the checksums of its artifacts."""
        listed = json.loads(self.ask("api/2.0/mlflow/experiments/search?max_results=1000"))["experiments"]
        wanted = {"experiment_ids": [experiment["experiment_id"] for experiment in listed], "max_results": 1000}
        runs = json.loads(self.ask("api/2.0/mlflow/runs/search", wanted)).get("runs", [])
        found = {}
        for run in runs:
            name = run["info"]["run_id"]
            wanted_points = f"run_id={name}&metric_key=train/loss&max_results=10000"
            history = self.ask(f"api/2.0/mlflow/metrics/get-history?{wanted_points}")
            points = sorted((point["step"], point["value"]) for point in json.loads(history).get("metrics", []))
            metrics = {metric["key"]: metric["value"] for metric in run["data"].get("metrics", [])}
            found[name] = (run["info"]["status"], metrics, points, dict(self._artifacts(name)))
        return found

    def _artifacts(self, run: str, path: str = "") -> Iterator[tuple[str, str]]:
        listed = json.loads(self.ask(f"api/2.0/mlflow/artifacts/list?run_id={run}&path={path}"))
        for file in listed.get("files", []):
            if file["is_dir"]:
                yield from self._artifacts(run, file["path"])
            else:
                content = self.ask(f"get-artifact?run_id={run}&path={file['path']}")
                yield file["path"], hashlib.sha256(content).hexdigest()

    def sweep_from_the_host(self, folder: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        """A sweep by this environment's program, after its end."""
        folder.mkdir(exist_ok=True)
        environment = self.environment | {"MLFLOW_TRACKING_URI": f"http://localhost:{self.port}"} | more
        command = [sys.executable, "-m", "onecycle_sweeps", *words]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)

    def train(self, *words: str, **more: str) -> str:
        """What a sweep in the trainer's container prints."""
        return self.compose("run", "--rm", "-T", "trainer", *words, **more)


def answer(url: str, message: Mapping[str, Any] | None = None, login: str = "", authority: str | None = None) -> bytes:
    """The body of an answer; an `authority` is the certificate that the server's one has to descend from."""
    headers = {"Content-Type": "application/json"}
    if login:
        headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
    data = None if message is None else json.dumps(message).encode()
    context = ssl.create_default_context(cadata=authority) if authority else None
    request = urllib.request.Request(url, data, headers)
    with urllib.request.urlopen(request, timeout=60, context=context) as got:
        return got.read()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Both images, built as compose.yaml says, and a healthy server."""
    checkout = tmp_path_factory.mktemp("docker") / "checkout"
    checkout.mkdir()
    shutil.copy(ROOT / "pyproject.toml", checkout)
    for name in COPIED:
        ignored = shutil.ignore_patterns("__pycache__", "secrets", ".env")
        shutil.copytree(ROOT / name, checkout / name, ignore=ignored)
    for name in ("runs", "data"):
        (checkout / name).mkdir()
        os.chown(checkout / name, USER, USER)
    try:
        with engine() as made, local_indexes() as indexes:
            real = provide_images(made, images())
            if not real and not indexes:
                raise Unavailable("no image can be pulled, and no package index on this machine's disk has torch")
            for_this_engine(made, checkout / "docker")
            script = [str(checkout / "scripts/mlflow-server"), "secrets", str(checkout / "docker/secrets")]
            said(script, os.environ | {"PYTHON": sys.executable})
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            stack = Stack(made, checkout, port, () if real else tuple(indexes))
            stack.configure()
            stack.compose("--profile", "train", "build", "mlflow", "trainer")
            stack.up()
            yield stack
            stack.compose("--profile=tls", "down", "--volumes", "--timeout", "2")
    except Unavailable as reason:
        pytest.skip(str(reason))


def images() -> list[str]:
    """The images that Dockerfile and compose.yaml name."""
    compose = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())
    first = re.findall(r"^FROM (\S+:\S+) AS", (ROOT / "docker/Dockerfile").read_text(), flags=re.MULTILINE)
    return [*first, *(service["image"] for service in compose["services"].values() if "image" in service)]


def for_this_engine(engine: Engine, docker: Path) -> None:
    """Let builds reach the package index, stand-ins be found, and Debian's docker-compose 1.29 read compose.yaml."""
    compose = yaml.safe_load((docker / "compose.yaml").read_text())
    is_old = engine.compose == STANDALONE
    if is_old:
        del compose["name"]
    for service in compose["services"].values():
        if "image" in service:
            service["image"] = without_digest(service["image"])
        if "build" in service:
            service["build"]["network"] = "host"
        for volume in service.get("volumes", []) if is_old else []:
            if isinstance(volume, dict):
                volume.pop("bind", None)
    (docker / "compose.yaml").write_text(yaml.safe_dump(compose))
    dockerfile = (docker / "Dockerfile").read_text()
    (docker / "Dockerfile").write_text(re.sub(r"^(FROM \S+?)@\S+", r"\1", dockerfile, flags=re.MULTILINE))


@pytest.fixture(scope="session")
def swept(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """A sweep from the host."""
    return stack.sweep_from_the_host(tmp_path_factory.mktemp("host"), *SWEEP)


def test_the_server_asks_for_a_login(stack: Stack):
    experiments = "api/2.0/mlflow/experiments/search?max_results=1"
    assert json.loads(stack.ask(experiments))["experiments"]
    for login in ("", "admin:wrong", "nobody:at-all"):
        with pytest.raises(urllib.error.HTTPError, match="401"):
            answer(f"http://localhost:{stack.port}/{experiments}", login=login)


def test_memory_logs_and_temporary_files_are_bounded(stack: Stack):
    for service, memory in (("postgres", 2**30), ("mlflow", 2 * 2**30)):
        limits = stack.inspected(service)["HostConfig"]
        assert limits["Memory"] == memory
        assert limits["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "5"}}
    size = stack.compose("exec", "-T", "mlflow", "df", "--output=size", "--block-size=1", "/tmp").split()[-1]
    assert int(size) == 2**28


def test_a_sweep_from_the_host_is_on_the_server(stack: Stack, swept: subprocess.CompletedProcess[str]):
    assert swept.returncode == 0, swept.stderr
    assert LINK.search(swept.stdout)
    runs = stack.content()
    assert sorted(bool(points) for _, _, points, _ in runs.values()) == [False, True, True]
    assert {status for status, *_ in runs.values()} == {"FINISHED"}
    assert any(path.endswith("report.html") for *_, files in runs.values() for path in files)


def test_the_trainers_runs_and_report_are_the_users_own_files_on_the_host(stack: Stack):
    before = stack.content()
    printed = stack.train(*SWEEP, "tracking.experiment=from the container")
    link = LINK.search(printed)
    assert link, printed
    assert link[1].startswith(f"http://localhost:{stack.port}/#/experiments/")
    experiment = re.search(r"experiments/(\d+)", link[1])
    assert experiment
    found = json.loads(stack.ask(f"api/2.0/mlflow/experiments/get?experiment_id={experiment[1]}"))
    assert found["experiment"]["name"] == "from the container"
    assert b"<title>MLflow</title>" in stack.ask(link[1].partition("#")[0].split("/", 3)[3])
    assert len(stack.content()) == len(before) + 3
    reports = list((stack.checkout / "runs").glob("sweeps/*/report/report.html"))
    assert len(reports) == 1
    assert {path.stat().st_uid for path in (stack.checkout / "runs").rglob("*")} == {USER}
    # The folder serves the host's program as well.
    told = stack.sweep_from_the_host(stack.checkout, "status")
    assert told.returncode == 0, told.stderr
    assert "2" in told.stdout


def test_the_data_folder_is_written_only_where_that_is_allowed(stack: Stack):
    write = ("run", "--rm", "-T", "--no-deps", "--entrypoint", "touch", "trainer", "/data/downloaded")
    with pytest.raises(AssertionError, match="Read-only file system"):
        stack.compose(*write)
    stack.compose(*write, ONECYCLE_DATA_READ_ONLY="false")
    assert (stack.checkout / "data/downloaded").stat().st_uid == USER


def test_everything_is_there_after_a_crash_and_a_restart(stack: Stack, swept: subprocess.CompletedProcess[str]):
    before = stack.content()
    stack.compose("kill", "mlflow", "postgres")
    stack.compose("down")
    stack.up()
    assert stack.content() == before


def test_with_a_wrong_password_trials_are_trained_and_shipped_later(stack: Stack, tmp_path: Path):
    before = stack.content()
    done = stack.sweep_from_the_host(tmp_path, *SWEEP, **stack.login("not-the-password"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("error code 401") == 1
    assert stack.content() == before
    synced = stack.sweep_from_the_host(tmp_path, "sync")
    assert synced.returncode == 0, synced.stderr
    assert len(stack.content()) == len(before) + 3


def test_a_full_tmp_costs_neither_the_server_nor_a_trainer_anything(stack: Stack, tmp_path: Path):
    before = stack.content()
    fill = "head --bytes=3G /dev/zero > /tmp/filler; df --output=avail /tmp | tail -1"
    assert stack.compose("exec", "-T", "mlflow", "sh", "-c", fill).split()[-1] == "0"
    words = " ".join((*SWEEP, "tracking.experiment=full"))
    trained = ("--entrypoint", "sh", "trainer", "-c", f"{fill}; onecycle-sweeps {words}")
    assert "val accuracy" in stack.compose("run", "--rm", "-T", *trained)
    added = [run for name, run in stack.content().items() if name not in before]
    assert sorted(bool(points) for _, _, points, _ in added) == [False, True, True]
    assert any(path.endswith("report.html") for *_, files in added for path in files)
    assert stack.inspected("mlflow")["State"]["OOMKilled"] is False
    stack.compose("exec", "-T", "mlflow", "rm", "/tmp/filler")


def test_a_backup_brings_back_what_was_lost(stack: Stack, swept: subprocess.CompletedProcess[str], tmp_path: Path):
    before = stack.content()
    saved = stack.script("docker/backup", str(tmp_path / "saved"))
    assert saved.returncode == 0, saved.stderr
    assert (tmp_path / "saved").stat().st_mode & 0o777 == 0o700
    again = stack.script("docker/backup", str(tmp_path / "saved"))
    assert (again.returncode, len(again.stderr.splitlines())) == (1, 1)
    stack.compose("down", "--volumes", "--timeout", "20")
    restored = stack.script("docker/restore", str(tmp_path / "saved"))
    assert restored.returncode == 0, restored.stderr
    stack.up()
    assert stack.content() == before


def test_a_broken_backup_replaces_nothing(stack: Stack, tmp_path: Path):
    before = stack.content()
    saved = stack.script("docker/backup", str(tmp_path / "saved"))
    assert saved.returncode == 0, saved.stderr
    dump = tmp_path / "saved/database.dump"
    dump.write_bytes(dump.read_bytes()[: dump.stat().st_size // 2])
    done = stack.script("docker/restore", str(tmp_path / "saved"))
    assert done.returncode != 0
    stack.up()
    assert stack.content() == before


def test_other_machines_reach_the_server_by_tls(stack: Stack, tmp_path: Path):
    tls = {"PUBLIC_HOST": "localhost", "PUBLIC_URL": "https://localhost"}
    stack.compose("--profile=tls", "up", "-d", "caddy", **tls)
    root = "/data/caddy/pki/authorities/local/root.crt"
    authority = eventually(lambda: stack.compose("exec", "-T", "caddy", "cat", root, **tls))
    login = ":".join(stack.login().values())
    url = "https://localhost/api/2.0/mlflow/experiments/search"
    found = eventually(lambda: answer(url, {"max_results": 1}, login, authority))
    assert json.loads(found)["experiments"]
    with pytest.raises(urllib.error.HTTPError, match="401"):
        answer(url, {"max_results": 1}, "", authority)
    (tmp_path / "authority.crt").write_text(authority)
    client = {"MLFLOW_TRACKING_URI": "https://localhost", "REQUESTS_CA_BUNDLE": str(tmp_path / "authority.crt")}
    done = stack.sweep_from_the_host(tmp_path, *SWEEP, **client)
    link = LINK.search(done.stdout)
    assert link and link[1].startswith("https://localhost/#/experiments/"), done.stdout + done.stderr


def eventually(ask: Any, seconds: float = 60) -> Any:
    """What a call returns, which may fail at first."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return ask()
        except (AssertionError, OSError):
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def test_a_database_of_the_oldest_mlflow_is_upgraded(stack: Stack, tmp_path: Path):
    image = stack.inspected("mlflow")["Config"]["Image"]
    stack.engine.docker("tag", image, "present")
    stack.engine.docker("build", "--network", "host", "--tag", image, "-", text=oldest_server(stack))
    stack.compose("down", "--volumes", "--timeout", "20")
    stack.up()
    done = stack.sweep_from_the_host(tmp_path / "old", *SWEEP)
    assert done.returncode == 0, done.stderr
    before, schema = stack.content(), stack.schema()
    saved = stack.script("docker/backup", str(tmp_path / "saved"))
    assert saved.returncode == 0, saved.stderr

    stack.engine.docker("tag", "present", image)
    stack.compose("stop", "mlflow")
    stack.compose("run", "--rm", "-T", "mlflow", "upgrade")
    stack.up()
    assert stack.schema() != schema
    assert stack.content() == before
    more = stack.sweep_from_the_host(tmp_path / "old", *SWEEP, "seed=1")
    assert more.returncode == 0, more.stderr
    assert len(stack.content()) == len(before) + 3

    # A backup of the old one is upgraded on its way back.
    restored = stack.script("docker/restore", str(tmp_path / "saved"))
    assert restored.returncode == 0, restored.stderr
    stack.up()
    assert stack.schema() != schema
    assert stack.content() == before


def oldest_server(stack: Stack) -> str:
    """A Dockerfile of the server with the oldest MLflow, which reads the admin's login from its file alone."""
    found = re.search(r"\"mlflow>=([\d.]+)", (ROOT / "pyproject.toml").read_text())
    assert found
    oldest = found[1] if found[1].count(".") == 2 else f"{found[1]}.0"
    wheels = " ".join(f"{name}=={oldest}" for name in MLFLOWS)
    login = "admin_username = admin\\nadmin_password = " + stack.login()["MLFLOW_TRACKING_PASSWORD"]
    return f"""FROM present
USER 0
RUN pip install --no-deps {wheels} && printf '{login}\\n' >> /srv/basic_auth.ini
USER 10001
"""
