"""A store's credentials: where they are kept, and how they are removed from what is written or shown.

They are kept only in the environment, in MLflow's own variable MLFLOW_TRACKING_URI, which child processes and jobs
inherit. Other users can read a process's arguments, but not its environment. Credentials are put into a URI only to
open the store, and are never written.
"""

import os
import re
from collections.abc import Sequence
from urllib.parse import unquote

VARIABLE = "MLFLOW_TRACKING_URI"
PASSWORDS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "PGPASSWORD")
# Names of environment variables that probably contain a secret.
SECRET_VARIABLE = r"(.*_)?(PASS|PASSWORD|PASSWD|PWD|SECRET|TOKEN|KEY|APIKEY|CREDENTIALS?)|(.*_)?(PASSWORD|SECRET)_.*"
# Shorter passwords also occur as parts of ordinary words.
LEAST_LENGTH = 8
OVERRIDE = re.compile(r"^([+~]*tracking(?:\.uri)?=.*?)([a-z][\w+.-]*://(?:[^\s'\"]*@)?[^\s'\",}]*)")
SECRET_KEY = r"[\w-]*(?:pass|pwd|secret|token|key)[\w-]*"


def without_secrets(uri: str) -> str:
    """A store's URI without its secrets: a server's login, a database's password, and those in its query."""
    scheme, mark, rest = uri.partition("://")
    if not mark or scheme.startswith("sqlite"):
        return uri
    rest, _, query = rest.partition("?")
    login, at, place = rest.rpartition("@")
    user = "" if scheme in ("http", "https") else login.partition(":")[0] + at
    kept = "&".join(part for part in query.split("&") if not re.match(f"{SECRET_KEY}=", part, re.IGNORECASE))
    return f"{scheme}{mark}{user}{place}{'?' if kept else ''}{kept}"


def with_secrets(uri: str) -> str:
    """The URI with the secrets that the environment has for its store; unchanged if it contains secrets itself."""
    known = os.environ.get(VARIABLE, "")
    return known if without_secrets(uri) == uri == without_secrets(known) else uri


def move_to_environment(uri: str) -> str:
    """The URI without its secrets, which are moved to this process's environment."""
    found = without_secrets(uri)
    if found != uri:
        os.environ[VARIABLE] = uri
    return found


def scrubbed(arguments: Sequence[str]) -> list[str]:
    """A command's arguments after the secrets in tracking.uri were moved to the environment."""
    return [OVERRIDE.sub(lambda found: found[1] + move_to_environment(found[2]), argument) for argument in arguments]


def address(uri: str) -> str:
    """A store's URI without login and query."""
    scheme, mark, rest = uri.partition("://")
    rest = rest.partition("?")[0]
    return scheme + mark + (rest if scheme.startswith("sqlite") else rest.rpartition("@")[2])


def without_logins(text: str) -> str:
    """A text, such as a command, without the logins in its URIs."""
    return re.sub(r"://\S+@", "://", text)


def redacted(text: str) -> str:
    """A text with `***` for the credentials in its URIs and for passwords from the environment."""
    text = re.sub(r"://[^\s'\"]*@", "://***@", text)
    text = re.sub(rf"([?&]{SECRET_KEY}=)[^\s'\"&]+", r"\1***", text, flags=re.IGNORECASE)
    for secret in _passwords():
        text = text.replace(secret, "***")
    return text


def _passwords() -> list[str]:
    """The passwords in the environment, the longest first."""
    password = os.environ.get(VARIABLE, "").partition("://")[2].rpartition("@")[0].partition(":")[2]
    found = {password, unquote(password), *(os.environ.get(name, "") for name in PASSWORDS)}
    return sorted((secret for secret in found if len(secret) >= LEAST_LENGTH), key=len, reverse=True)
