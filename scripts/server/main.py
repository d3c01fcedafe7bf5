"""The commands of scripts/mlflow-server, whose header describes them."""

import argparse
import shlex
from pathlib import Path

from programs import PROGRAMS
from server_folder import ADMIN_PASSWORD, ServerFolder, create_secrets


def main() -> None:
    """Parse the command and run it."""
    parser = argparse.ArgumentParser(prog="mlflow-server", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="create a server in DIR, or start the one that is there")
    start = commands.add_parser("start", help="start one of its two programs after its end")
    down = commands.add_parser("down", help="stop both programs")
    secrets = commands.add_parser("secrets", help="create those of the three secrets that are missing, as files in DIR")
    for command in (up, start, down, secrets):
        command.add_argument("folder", metavar="DIR", type=Path)
    start.add_argument("name", metavar="NAME", choices=PROGRAMS, help=", ".join(PROGRAMS))
    up.add_argument("--public-host", metavar="NAME", default="127.0.0.1", help="the name by which browsers reach it")
    options = parser.parse_args()
    if options.command == "secrets":
        create_secrets(options.folder.resolve())
        return
    folder = ServerFolder(options.folder.resolve())
    if options.command == "up":
        bring_up(folder, options.public_host)
    elif options.command == "start":
        PROGRAMS[options.name](folder)
    else:
        folder.stop(*reversed(PROGRAMS))


def bring_up(folder: ServerFolder, public_host: str) -> None:
    """Start what does not run; print the lines that make a shell a client of the server."""
    folder.prepare(public_host)
    try:
        for name, start in PROGRAMS.items():
            if not folder.is_alive(name):
                start(folder)
    except BaseException:
        folder.stop(*reversed(PROGRAMS))
        raise
    password = folder.secrets / ADMIN_PASSWORD
    print(f"export MLFLOW_TRACKING_URI=http://127.0.0.1:{folder.ports['mlflow']}")
    print("export MLFLOW_TRACKING_USERNAME=admin")
    print(f'export MLFLOW_TRACKING_PASSWORD="$(cat {shlex.quote(str(password))})"')


if __name__ == "__main__":
    main()
