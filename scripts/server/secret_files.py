"""The three secrets of a server, each in a file of its own in a folder that only their owner can enter."""

import secrets
from pathlib import Path

POSTGRES_PASSWORD, ADMIN_PASSWORD, SECRET_KEY = "postgres_password", "mlflow_admin_password", "mlflow_secret_key"
BYTES = 32


def make(folder: Path) -> None:
    """Make what is missing; what is there is kept.

    A container's users, who are others than the host's, read the files, so that it is the folder that is closed.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    for name in (POSTGRES_PASSWORD, ADMIN_PASSWORD, SECRET_KEY):
        path = folder / name
        if not path.exists():
            path.write_text(secrets.token_urlsafe(BYTES))
            path.chmod(0o444)
