"""Where a store's credentials go: from what was typed into the environment, and nowhere else."""

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from onecycle_sweeps import credentials, trial_folder
from onecycle_sweeps.credentials import move_to_environment, redacted, scrubbed, with_secrets, without_secrets

# In a URI a login is percent-encoded, as RFC 3986 wants it.
secrets = st.text(min_size=8, max_size=30).filter(lambda text: text.isprintable() and len(text.encode()) >= 8)
places = st.sampled_from(["host", "host:5000", "host/a/path", "[::1]:5000", "host/db?sslmode=require"])
schemes = st.sampled_from(["http", "https", "postgresql", "postgresql+psycopg2", "mysql+pymysql"])


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (credentials.VARIABLE, *credentials.PASSWORDS):
        # Set first, so that what a test leaves there is undone.
        monkeypatch.setenv(name, "")


@pytest.mark.slow
@given(schemes, secrets, places)
def test_a_password_is_in_the_environment_and_nowhere_else(scheme: str, secret: str, place: str):
    password = quote(secret, safe="")
    assume(password not in f"{scheme}://someone")
    uri = f"{scheme}://someone:{password}@{place}"
    kept = move_to_environment(uri)
    assert password not in kept.replace(place, "")
    assert kept.endswith(place)
    assert with_secrets(kept) == uri
    assert with_secrets(kept.replace("host", "other").replace("::1", "::2")) != uri
    assert password not in redacted(f"no answer from {uri}, says the server, which got {secret}").replace(place, "")


@pytest.mark.slow
@given(st.sampled_from(["tracking.uri={}", "++tracking.uri='{}'", 'tracking={{uri: "{}", experiment: mine}}']), secrets)
def test_a_typed_password_does_not_stay_in_the_arguments(form: str, secret: str):
    uri = f"http://someone:{quote(secret, safe='')}@host:5000/p"
    typed = ["policy=onecycle", form.format(uri), "-m"]
    assert scrubbed(typed) == ["policy=onecycle", form.format("http://host:5000/p"), "-m"]
    assert os.environ[credentials.VARIABLE] == uri


@pytest.mark.parametrize(
    ("uri", "kept"),
    [
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("postgresql://me:secret@host/db", "postgresql://me@host/db"),
        (
            "postgresql://host/db?user=me&password=secret&sslmode=require",
            "postgresql://host/db?user=me&sslmode=require",
        ),
        ("http://token@host", "http://host"),
        ("http://me:s/ec@ret@host/p", "http://host/p"),
        ("sqlite:////home/me@work/mlflow.db?timeout=5", "sqlite:////home/me@work/mlflow.db?timeout=5"),
        ("mlruns", "mlruns"),
    ],
)
def test_what_a_uri_needs_beside_its_secrets_stays(uri: str, kept: str):
    assert without_secrets(uri) == kept
    assert without_secrets(kept) == kept


def test_a_uri_with_a_login_of_its_own_is_opened_with_that_one():
    move_to_environment("http://me:first-password@host")
    assert with_secrets("http://me:other-password@host") == "http://me:other-password@host"


@pytest.mark.parametrize("name", credentials.PASSWORDS)
def test_a_password_of_the_environment_is_starred_wherever_it_turns_up(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(name, "correct horse")
    assert redacted("a correct horse, and ?password=x&a=1") == "a ***, and ?password=***&a=1"


PROGRAM = """
import os, sys
from pathlib import Path
from onecycle_sweeps import __main__, cli
cli.main = lambda words: print(Path("/proc/self/cmdline").read_text(), os.environ["MLFLOW_TRACKING_URI"], words)
__main__.main()
"""


@pytest.mark.slow
def test_no_process_has_the_password_among_its_arguments(tmp_path: Path):
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    command = [sys.executable, str(script), "status", "tracking.uri=http://me:hunter2hunter2@host"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    arguments, variable, words = done.stdout.split(" ", 2)
    assert "hunter2" not in arguments + words
    assert "tracking.uri=http://host" in words
    assert variable == "http://me:hunter2hunter2@host"


def test_a_file_of_another_user_that_says_what_code_runs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "config.yaml"
    trial_folder.check_owner(path)
    path.write_text("model: {_target_: os.system}")
    trial_folder.check_owner(path)
    if os.geteuid() == 0:
        os.chown(path, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(PermissionError, match="belongs to user"):
        trial_folder.check_owner(path)
