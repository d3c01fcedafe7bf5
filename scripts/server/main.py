"""up, start and down of a tracking server; scripts/mlflow-server says what they are for."""

import argparse
import shlex
from pathlib import Path

import secret_files
from place import Place
from programs import PROGRAMS


def main() -> None:
    """Parse the command and do it."""
    parser = argparse.ArgumentParser(prog="mlflow-server", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="from an empty folder, or one that was up, to a server that answers")
    start = commands.add_parser("start", help="start one that is dead")
    down = commands.add_parser("down", help="end both")
    secrets = commands.add_parser("secrets", help="make what is missing of the three secrets, in files of DIR")
    for command in (up, start, down, secrets):
        command.add_argument("folder", metavar="DIR", type=Path)
    start.add_argument("name", metavar="NAME", choices=PROGRAMS)
    up.add_argument("--public-host", metavar="NAME", default="127.0.0.1", help="as browsers are to call it")
    options = parser.parse_args()
    if options.command == "secrets":
        secret_files.make(options.folder.resolve())
        return
    place = Place(options.folder.resolve())
    if options.command == "up":
        bring_up(place, options.public_host)
    elif options.command == "start":
        PROGRAMS[options.name](place)
    else:
        place.end(*reversed(PROGRAMS))


def bring_up(place: Place, public_host: str) -> None:
    """Start what does not run; prints the lines that make a shell a client."""
    place.prepare(public_host)
    try:
        for name, start in PROGRAMS.items():
            if not place.is_alive(name):
                start(place)
    except BaseException:
        place.end(*reversed(PROGRAMS))
        raise
    password = place.secrets / secret_files.ADMIN_PASSWORD
    print(f"export MLFLOW_TRACKING_URI=http://127.0.0.1:{place.ports['mlflow']}")
    print("export MLFLOW_TRACKING_USERNAME=admin")
    print(f'export MLFLOW_TRACKING_PASSWORD="$(cat {shlex.quote(str(password))})"')


if __name__ == "__main__":
    main()
