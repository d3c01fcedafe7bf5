"""A store's credentials: kept in the environment alone, put into a URI where the store is opened, and never written.

MLFLOW_TRACKING_URI is MLflow's own variable. This process's children and its jobs inherit it, and of a process's
environment, other than of its arguments, no other user reads anything.
"""

import os
import re
from collections.abc import Sequence
from urllib.parse import unquote

VARIABLE = "MLFLOW_TRACKING_URI"
PASSWORDS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "PGPASSWORD")
# Shorter ones would make stars of words that are no secret.
LEAST_LENGTH = 8
OVERRIDE = re.compile(r"^([+~]*tracking(?:\.uri)?=.*?)([a-z][\w+.-]*://(?:[^\s'\"]*@)?[^\s'\",}]*)")
SECRET_KEY = r"[\w-]*(?:pass|pwd|secret|token|key)[\w-]*"


def bare(uri: str) -> str:
    """A store's URI without its secrets: a server's login, a database's password, and what a query has of them."""
    scheme, mark, rest = uri.partition("://")
    if not mark or scheme.startswith("sqlite"):
        return uri
    rest, _, query = rest.partition("?")
    login, at, place = rest.rpartition("@")
    user = "" if scheme in ("http", "https") else login.partition(":")[0] + at
    kept = "&".join(part for part in query.split("&") if not re.match(f"{SECRET_KEY}=", part, re.IGNORECASE))
    return f"{scheme}{mark}{user}{place}{'?' if kept else ''}{kept}"


def entrusted(uri: str) -> str:
    """The URI without its secrets, which this process's environment has from here on."""
    found = bare(uri)
    if found != uri:
        os.environ[VARIABLE] = uri
    return found


def whole(uri: str) -> str:
    """The URI with the secrets that the environment has for the same store, if it has none of its own."""
    known = os.environ.get(VARIABLE, "")
    return known if bare(uri) == uri == bare(known) else uri


def without(arguments: Sequence[str]) -> list[str]:
    """A command's arguments with tracking.uri entrusted to the environment."""
    return [OVERRIDE.sub(lambda found: found[1] + entrusted(found[2]), argument) for argument in arguments]


def address(uri: str) -> str:
    """Where a store is, without credentials or query."""
    scheme, mark, rest = uri.partition("://")
    rest = rest.partition("?")[0]
    return scheme + mark + (rest if scheme.startswith("sqlite") else rest.rpartition("@")[2])


def redacted(text: str) -> str:
    """A text with stars in the place of what URIs have of credentials, and of passwords that the environment holds."""
    text = re.sub(r"://[^\s'\"]*@", "://***@", text)
    text = re.sub(rf"([?&]{SECRET_KEY}=)[^\s'\"&]+", r"\1***", text, flags=re.IGNORECASE)
    for secret in _known():
        text = text.replace(secret, "***")
    return text


def _known() -> list[str]:
    """The passwords in the environment, the longest first."""
    password = os.environ.get(VARIABLE, "").partition("://")[2].rpartition("@")[0].partition(":")[2]
    found = {password, unquote(password), *(os.environ.get(name, "") for name in PASSWORDS)}
    return sorted((secret for secret in found if len(secret) >= LEAST_LENGTH), key=len, reverse=True)
