"""docker/, as far as it can be tested without Docker."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tracking_server import Server

ROOT = Path(__file__).resolve().parent.parent
DOCKER = ROOT / "docker"
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SECRETS = {
    "PGPASSWORD": "a" * 12,
    "MLFLOW_AUTH_ADMIN_PASSWORD": "b" * 12,
    "MLFLOW_FLASK_SERVER_SECRET_KEY": "c" * 32,
}
PLACES = {
    "PGHOST": "there",
    "PGUSER": "mlflow",
    "PGDATABASE": "mlflow",
    "PUBLIC_HOST": "mlflow.team.test",
    "MLFLOW_ARTIFACTS_DESTINATION": "/artifacts",
}
# A stand-in for the Python that would serve: it records its arguments and its environment.
RECORD = '#!/usr/bin/env bash\nprintf "%s\\0" "$@" > "$RECORDED/arguments"; env -0 > "$RECORDED/environment"\n'
# Names and paths, which differ between a container and a test; all other settings have to be the same.
WHERE = {"PGHOST", "PGPORT", "PUBLIC_HOST", "OTHER_HOSTS", "MLFLOW_HOST", "MLFLOW_PORT", "MLFLOW_ARTIFACTS_DESTINATION"}
WHERE |= {"MLFLOW_SERVER_ALLOWED_HOSTS", "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS", *SECRETS}
WHERE |= {f"{name}_FILE" for name in SECRETS}


def tool(name: str) -> str:
    found = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    return found or pytest.skip(f"no {name}: the extra `test` has it")


def serve(folder: Path, environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """Run the container's entrypoint up to the start of the server, which is recorded in `folder`."""
    program = folder / "python"
    program.write_text(RECORD)
    program.chmod(0o755)
    given = {"PATH": os.environ["PATH"], "PYTHON": str(program), "RECORDED": str(folder), **environment}
    return subprocess.run([str(DOCKER / "serve"), *words], env=given, capture_output=True, text=True, check=False)


def recorded(folder: Path) -> tuple[list[str], dict[str, str]]:
    """The recorded arguments and environment of the server."""
    lines = (folder / "environment").read_text().split("\0")
    return (folder / "arguments").read_text().split("\0")[:-1], dict(line.split("=", 1) for line in lines if line)


def of_the_server(environment: dict[str, str]) -> dict[str, str]:
    """The settings of MLflow and the database in an environment, without names and paths."""
    ours = re.compile("MLFLOW|_MLFLOW|PG|PUBLIC_|OTHER_")
    # A process that has imported MLflow has its session's id, and so have its children.
    others = {*WHERE, "_MLFLOW_TELEMETRY_SESSION_ID"}
    return {name: value for name, value in environment.items() if ours.match(name) and name not in others}


def test_hadolint_accepts_the_dockerfile():
    done = subprocess.run([tool("hadolint"), str(DOCKER / "Dockerfile")], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("", 0)


def test_compose_yaml_is_valid():
    command = [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(DOCKER / "compose.yaml")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_only_the_service_with_tls_listens_beyond_loopback():
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published.pop("mlflow") == ["127.0.0.1:${TRACKING_PORT:-5000}:5000"]
    assert [port.rpartition("}:")[2] for port in published.pop("caddy")] == ["80:80", "443:443"]
    assert not published
    assert SERVICES["caddy"]["profiles"] == ["tls"]


def test_memory_and_logs_of_every_service_are_bounded_and_so_is_tmp():
    for name, service in SERVICES.items():
        assert service["logging"]["options"] == {"max-size": "10m", "max-file": "5"}, name
        assert "mem_limit" in service, name
        assert all(":size=" in mounted for mounted in service.get("tmpfs", [])), name
    assert all("tmpfs" in SERVICES[name] for name in ("mlflow", "trainer", "trainer-cuda"))


def test_the_readme_lists_every_setting_with_its_default():
    settings = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", (DOCKER / "compose.yaml").read_text()))
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| (.*?) \|", (DOCKER / "README.md").read_text(), flags=re.MULTILINE))
    assert set(rows) == set(settings)
    for name in ("PUBLIC_URL", "TRACKING_PORT", "TLS_ADDRESS", "ONECYCLE_USER", "ONECYCLE_DATA_READ_ONLY"):
        assert rows[name].strip("`") == settings[name]


def test_a_trainer_has_the_users_folders_and_links_that_a_browser_can_open():
    for name in ("trainer", "trainer-cuda"):
        runs, data = SERVICES[name]["volumes"]
        assert runs["source"] == "${ONECYCLE_RUNS:-../runs}"
        assert (data["source"], data["read_only"]) == ("${ONECYCLE_DATA:-../data}", "${ONECYCLE_DATA_READ_ONLY:-true}")
        # Docker would create a missing folder as root, and the trainings could not write to it.
        assert not any(volume["bind"]["create_host_path"] for volume in (runs, data))
        assert SERVICES[name]["environment"]["MLFLOW_UI_URI"] == "${PUBLIC_URL:-http://localhost:5000}"
        assert not SERVICES[name]["user"].startswith("0")


def test_the_cuda_version_that_is_named_is_that_of_the_pinned_torch():
    torch = pytest.importorskip("torch")
    pinned = re.search(r"^torch==(.*)$", (DOCKER / "constraints.txt").read_text(), flags=re.MULTILINE)
    if torch.version.cuda is None or not pinned or torch.__version__.partition("+")[0] != pinned[1]:
        pytest.skip(f"torch {torch.__version__} is not the CUDA build that docker/constraints.txt names")
    for name in ("Dockerfile", "README.md"):
        assert f"CUDA {torch.version.cuda}" in (DOCKER / name).read_text()


def test_the_cpu_builds_index_is_an_argument():
    assert re.search(
        r"^ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu$", (DOCKER / "Dockerfile").read_text(), re.M
    )
    arguments = SERVICES["trainer"]["build"]["args"]
    assert arguments == {"DEVICE": "cpu", "TORCH_INDEX": "${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}"}


def test_secrets_are_files_that_git_ignores_and_are_in_no_service():
    for name, service in SERVICES.items():
        for key, value in service.get("environment", {}).items():
            secret = re.search("PASSWORD|SECRET", key)
            assert not secret or value is None or value.startswith("/run/secrets/"), (name, key)
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert "/docker/secrets/" in ignored
    assert "docker/secrets" in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    assert all(secret["file"].startswith("secrets/") for secret in COMPOSE["secrets"].values())


def test_the_script_creates_the_secrets_that_compose_reads(tmp_path: Path):
    script = [str(ROOT / "scripts" / "mlflow-server"), "secrets", str(tmp_path / "secrets")]
    for _ in range(2):
        subprocess.run(script, check=True, env=os.environ | {"PYTHON": sys.executable})
        made = {f"secrets/{path.name}": path.read_text() for path in (tmp_path / "secrets").iterdir()}
        assert set(made) == {secret["file"] for secret in COMPOSE["secrets"].values()}
        assert len(set(made.values())) == 3
        assert min(map(len, made.values())) >= 32
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", ["mlflow", "trainer", "trainer-cuda"])
def test_our_images_run_without_root_and_without_privileges(name: str):
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    stages = re.split(r"^FROM ", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE)
    stage = next(text for text in stages if text.partition("\n")[0].endswith(f" AS {service['build']['target']}"))
    assert re.search(r"^USER (?!0\b)\d+$", stage, flags=re.MULTILINE)


def test_images_and_packages_are_pinned():
    bases = re.findall(r"^FROM (\S+:\S+) AS", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE)
    images = [service["image"] for service in SERVICES.values() if "image" in service]
    assert all(re.search(r":\d+\.\d+(\.\d+)?-", image) for image in [*bases, *images])
    pinned = dict(re.findall(r"^([a-z0-9-]+)==(\S+)$", (DOCKER / "constraints.txt").read_text(), flags=re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["pretrained"], "mlflow", "psycopg-binary"]
    names = [re.match(r"[\w-]+", requirement) for requirement in needed]
    assert {found[0].lower() for found in names if found} <= set(pinned)


@pytest.mark.parametrize("missing", SECRETS)
@pytest.mark.parametrize("given", ["nothing", "an empty file", "a short one", "no such file"])
def test_the_server_does_not_start_without_its_secrets(tmp_path: Path, missing: str, given: str):
    environment = PLACES | SECRETS
    del environment[missing]
    if given == "a short one":
        environment[missing] = "x" * 11
    elif given != "nothing":
        environment[f"{missing}_FILE"] = str(tmp_path / "secret")
    if given == "an empty file":
        (tmp_path / "secret").write_text("\n")
    done = serve(tmp_path, environment)
    assert done.returncode == 1
    assert missing in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "environment").exists()


@pytest.mark.parametrize("missing", PLACES)
def test_the_server_names_a_missing_setting(tmp_path: Path, missing: str):
    done = serve(tmp_path, {key: value for key, value in (PLACES | SECRETS).items() if key != missing})
    assert (done.returncode, done.stderr) == (1, f"serve: {missing} is not set\n")


def test_the_servers_arguments_and_addresses_contain_no_secret(tmp_path: Path):
    assert serve(tmp_path, PLACES | SECRETS).returncode == 0
    arguments, environment = recorded(tmp_path)
    assert arguments == ["-m", "mlflow", "server", "--app-name", "basic-auth"]
    assert environment["MLFLOW_BACKEND_STORE_URI"] == "postgresql://"
    assert environment["MLFLOW_SERVER_ALLOWED_HOSTS"] == "mlflow.team.test"
    assert [name for name, value in environment.items() if value in SECRETS.values()] == [*SECRETS]


def test_an_upgrade_needs_the_same_secrets_and_changes_the_schema_alone(tmp_path: Path):
    assert serve(tmp_path, PLACES, "upgrade").returncode == 1
    assert serve(tmp_path, PLACES | SECRETS, "upgrade").returncode == 0
    arguments, environment = recorded(tmp_path)
    assert arguments == ["-m", "mlflow", "db", "upgrade", "postgresql://"]
    assert environment["PGHOST"] == PLACES["PGHOST"]
    assert "lock_timeout" in environment["PGOPTIONS"], "it would wait for ever for a table that a session keeps locked"
    assert serve(tmp_path, PLACES | SECRETS, "downgrade").returncode == 2


@pytest.mark.parametrize("script", ["backup", "restore"])
def test_a_backup_and_its_restore_need_one_folder_that_makes_sense(script: str, tmp_path: Path):
    refused = {(): 2, ("a", "b"): 2, (str(tmp_path),): 1}
    for words, status in refused.items():
        # `false` stands in for compose: nothing may be asked of it.
        done = subprocess.run(
            [str(DOCKER / script), *words], env=os.environ | {"COMPOSE": "false"}, capture_output=True, text=True
        )
        assert (done.returncode, len(done.stderr.splitlines())) == (status, 1)


def test_a_restore_ends_where_the_database_never_answers(tmp_path: Path):
    for name in ("database.dump", "artifacts.tar"):
        subprocess.run(["tar", "--create", "--file", str(tmp_path / name), "--files-from=/dev/null"], check=True)
    # Only `up` succeeds, and no second passes.
    for name, line in {"compose": '[ "$1" = up ]', "sleep": "true"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    outside = os.environ | {"COMPOSE": "compose", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([str(DOCKER / "restore"), str(tmp_path)], env=outside, capture_output=True, text=True)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "logs postgres" in done.stderr


def test_a_backup_that_fails_leaves_no_folder_of_that_name(tmp_path: Path):
    command = [str(DOCKER / "backup"), str(tmp_path / "saved")]
    assert subprocess.run(command, env=os.environ | {"COMPOSE": "false"}).returncode != 0
    assert not (tmp_path / "saved").exists()


def test_the_container_and_the_script_serve_with_the_same_settings(server: Server, tmp_path: Path):
    """With the container's environment and secrets, `serve` starts a server with the settings of the running one."""
    environment = {key: str(value) for key, value in SERVICES["mlflow"]["environment"].items()}
    for name in [name for name in environment if name.endswith("_FILE")]:
        path = tmp_path / Path(environment[name]).name
        path.write_text(SECRETS[name.removesuffix("_FILE")])
        environment[name] = str(path)
    assert serve(tmp_path, environment).returncode == 0
    arguments, contained = recorded(tmp_path)
    words = Path(f"/proc/{server.pid('mlflow')}/cmdline").read_text().split("\0")[1:-1]
    running = server.settings()
    assert arguments == words
    assert of_the_server(contained) == of_the_server(running)
    assert contained["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert {name for name in contained if name in WHERE} == {name for name in running if name in WHERE}
    for each in (contained, running):
        assert each["MLFLOW_SERVER_ALLOWED_HOSTS"] == f"{each['PUBLIC_HOST']},{each['OTHER_HOSTS']}"


def test_the_image_starts_what_the_script_starts():
    stage = (DOCKER / "Dockerfile").read_text().split(" AS server")[1].split("\nFROM ")[0]
    assert json.loads(re.findall(r"^ENTRYPOINT (.*)$", stage, flags=re.MULTILINE)[0]) == ["/srv/serve"]
    assert "COPY docker/serve docker/basic_auth.ini docker/healthy.py /srv/" in stage
    assert SERVICES["mlflow"]["healthcheck"]["test"] == ["CMD", "python", "/srv/healthy.py"]
    assert not {"entrypoint", "command"} & set(SERVICES["mlflow"])
