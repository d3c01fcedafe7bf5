"""A Docker engine of the tests' own, with stand-ins for the images that it cannot pull.

Nothing is pulled into, built by or started in an engine that is there already.
"""

import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

PACKAGES = {"dockerd": "docker.io", "docker": "docker.io", "iptables": "iptables", "debootstrap": "debootstrap"}
# The plugin, which users have, or else Debian's docker-compose 1.29.
PLUGIN, STANDALONE = ("docker", "compose"), ("docker-compose",)
FREE_GB = 20
START_SECONDS, STOP_SECONDS = 60, 60
PULL_SECONDS = 600
RELEASE = "bookworm"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"

# The entrypoint of the official image, as far as compose.yaml uses it.
POSTGRES_ENTRYPOINT = """#!/bin/bash
set -euo pipefail
data=/var/lib/postgresql/data
as_postgres() { setpriv --reuid=postgres --regid=postgres --clear-groups "$@"; }
if [ ! -s "$data/PG_VERSION" ]; then
    install -d -m 700 -o postgres -g postgres "$data"
    install -m 600 -o postgres "$POSTGRES_PASSWORD_FILE" /tmp/password
    read -ra options <<<"$POSTGRES_INITDB_ARGS"
    as_postgres initdb -D "$data" --username="$POSTGRES_USER" --pwfile=/tmp/password --encoding=UTF8 "${options[@]}"
    echo "host all all all scram-sha-256" >>"$data/pg_hba.conf"
    echo "CREATE DATABASE $POSTGRES_DB" | as_postgres postgres --single -D "$data" postgres
fi
exec setpriv --reuid=postgres --regid=postgres --clear-groups "$@"
"""
# The official program of Caddy has the capability too.
SERVICES = """FROM {base}
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends postgresql caddy libcap2-bin \\
    && setcap cap_net_bind_service=+ep /usr/bin/caddy
COPY entrypoint /entrypoint
"""
STAND_INS = {
    "postgres": """FROM services
ENV PATH=/usr/lib/postgresql/15/bin:/usr/bin:/bin
STOPSIGNAL SIGINT
ENTRYPOINT ["/entrypoint"]
CMD ["postgres", "-D", "/var/lib/postgresql/data", "-c", "listen_addresses=*"]
""",
    "caddy": """FROM services
ENV XDG_CONFIG_HOME=/config XDG_DATA_HOME=/data
""",
}


class Unavailable(Exception):
    """There can be no engine here, or not one of the images; the message says why."""


@dataclass(frozen=True)
class Engine:
    """An engine that runs, the command for compose, and the environment in which that and `docker` talk to it."""

    folder: Path
    environment: Mapping[str, str]
    compose: tuple[str, ...]

    def docker(self, *arguments: str, text: str | None = None) -> str:
        """What a docker command prints; it has to succeed."""
        return said(["docker", *arguments], self.environment, text=text)


def said(
    command: list[str], environment: Mapping[str, str], *, text: str | None = None, cwd: Path | None = None
) -> str:
    """What a command prints on stdout; it has to succeed."""
    done = subprocess.run(command, env=environment, input=text, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@contextmanager
def engine() -> Iterator[Engine]:
    """An engine with all its files in a temporary folder, which goes with it."""
    compose = _refuse_what_cannot_work()
    folder = Path(tempfile.mkdtemp(prefix="onecycle-docker-"))
    socket = f"unix://{folder}/socket"
    daemon = ["dockerd", "--data-root", folder / "data", "--exec-root", folder / "exec", "--pidfile", folder / "pid"]
    # No bridge of its own: networks are made by compose, and another engine may have the usual one.
    daemon += ["--host", socket, "--bridge", "none"]
    log = (folder / "log").open("wb")
    # The engine ends with these tests, also where they are killed.
    process = subprocess.Popen(["setpriv", "--pdeathsig", "TERM", *daemon], stdout=log, stderr=log)
    settings = {"DOCKER_HOST": socket, "DOCKER_CONFIG": f"{folder}/config", "DOCKER_BUILDKIT": "0"}
    settings |= {"COMPOSE_DOCKER_CLI_BUILD": "0", "COMPOSE_HTTP_TIMEOUT": "600"}
    made = Engine(folder, os.environ | settings, compose)
    try:
        _wait_for(made, process)
        yield made
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()
        _unmount(folder)
        shutil.rmtree(folder)


def _unmount(folder: Path) -> None:
    """Unmount what an engine that ended, or a debootstrap that was interrupted, has left under a folder."""
    mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for place in reversed([place for place in mounted if place.startswith(f"{folder}/")]):
        subprocess.run(["umount", "--lazy", place], check=False, capture_output=True)


def _refuse_what_cannot_work() -> tuple[str, ...]:
    """The command for compose; raises Unavailable."""
    compose = next((one for one in (PLUGIN, STANDALONE) if _answers(one)), None)
    missing = {program: package for program, package in PACKAGES.items() if shutil.which(program) is None}
    if compose is None:
        missing |= {"docker compose": "docker-compose"}
    if missing:
        packages = " ".join(dict.fromkeys(missing.values()))
        raise Unavailable(f"no {', '.join(missing)}: apt-get install --no-install-recommends {packages}")
    if os.getuid() != 0:
        raise Unavailable("only root can start a Docker engine")
    free = shutil.disk_usage(tempfile.gettempdir()).free // 10**9
    if free < FREE_GB:
        raise Unavailable(f"{free} GB are free in {tempfile.gettempdir()}, and the images need {FREE_GB} GB")
    return compose or STANDALONE


def _answers(compose: tuple[str, ...]) -> bool:
    try:
        return subprocess.run([*compose, "version"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def _wait_for(engine: Engine, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while subprocess.run(["docker", "info"], env=engine.environment, capture_output=True, check=False).returncode:
        if process.poll() is not None or time.monotonic() > deadline:
            last = (engine.folder / "log").read_text(errors="replace").strip().splitlines()[-1:]
            raise Unavailable(f"dockerd does not start on this machine: {''.join(last)}")
        time.sleep(0.2)


def provide_images(engine: Engine, images: list[str]) -> bool:
    """Pull these images, or make stand-ins of their names; returns whether they are the real ones."""
    if all(_is_pulled(engine, image) for image in images):
        return True
    base = next(image for image in images if image.startswith("python:"))
    _import_debian(engine, without_digest(base))
    _build(engine, "services", SERVICES.format(base=without_digest(base)))
    for image in images:
        if image != base:
            _build(engine, without_digest(image), STAND_INS[image.partition(":")[0]])
    return False


def without_digest(image: str) -> str:
    """An image's name and tag alone, which a stand-in can have."""
    return image.partition("@")[0]


def _is_pulled(engine: Engine, image: str) -> bool:
    command = ["docker", "pull", "--quiet", image]
    try:
        done = subprocess.run(command, env=engine.environment, capture_output=True, timeout=PULL_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return False
    if done.returncode == 0:
        engine.docker("tag", image, without_digest(image))
    return done.returncode == 0


def _import_debian(engine: Engine, image: str) -> None:
    """Debian with Python and pip, as an image of this name."""
    root = engine.folder / "debian"
    packages = "python3,python3-pip,python3-venv,ca-certificates"
    command = ["debootstrap", "--variant=minbase", f"--include={packages}", RELEASE, str(root), _mirror()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"no image can be pulled, and debootstrap made no stand-in: {done.stdout.strip()[-200:]}")
    (root / "usr/bin/python").symlink_to("python3")
    for path in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
        path.unlink()
    shutil.rmtree(root / "var/cache/apt/archives")
    # The network may have an authority of its own.
    shutil.copy(os.environ.get("PIP_CERT", CERTIFICATES), root / CERTIFICATES[1:])
    with subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE) as packing:
        command = ["docker", "import", "--change", f"ENV PIP_CERT={CERTIFICATES}", "-", image]
        subprocess.run(command, stdin=packing.stdout, env=engine.environment, check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(root)


def _mirror() -> str:
    command = ["apt-get", "indextargets", "--format", "$(CODENAME) $(REPO_URI)", "Created-By: Packages"]
    known = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    mirrors = [line.split()[1] for line in known if line.split()[0] == RELEASE]
    return mirrors[0] if mirrors else "http://deb.debian.org/debian"


def _build(engine: Engine, image: str, dockerfile: str) -> None:
    context = engine.folder / "stand-in"
    context.mkdir(exist_ok=True)
    (context / "Dockerfile").write_text(dockerfile)
    (context / "entrypoint").write_text(POSTGRES_ENTRYPOINT)
    (context / "entrypoint").chmod(0o755)
    try:
        engine.docker("build", "--quiet", "--network", "host", "--tag", image, str(context))
    except AssertionError as error:
        raise Unavailable(f"{image} cannot be pulled, and no stand-in built: {str(error).splitlines()[-1]}") from error


@contextmanager
def local_indexes() -> Iterator[list[str]]:
    """The package indexes that pip finds on this machine's disk, by the addresses at which containers reach them."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    ).stdout
    folders = [unquote(urlsplit(url).path) for url in re.findall(r"file://[^\s']+", listed)]
    folders = [folder for folder in folders if Path(folder).is_dir()]
    allowed = tuple(f"{Path(folder).parent}/" for folder in folders)

    class OnlyIndexes(SimpleHTTPRequestHandler):
        def translate_path(self, path: str) -> str:
            found = super().translate_path(path)
            return found if found.startswith(allowed) else os.devnull + "/nothing"

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(OnlyIndexes, directory="/")) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield [f"http://127.0.0.1:{server.server_port}{folder}" for folder in folders]
        server.shutdown()
