"""The commands of scripts/slurm-cluster, whose header describes them."""

import argparse
import shutil
import sys
from pathlib import Path

import configuration
import ports
import processes
from daemons import PATH, Cluster, PortTaken

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun")
ACCOUNTING_PROGRAMS = ("slurmdbd", "mariadbd", "sacctmgr")
PACKAGES = "slurm-wlm slurm-wlm-basic-plugins munge"
ACCOUNTING_PACKAGES = "slurmdbd mariadb-server-core mariadb-client-core"


def main() -> None:
    """Parse the command and run it."""
    parser = argparse.ArgumentParser(prog="slurm-cluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="from an empty folder to idle nodes; prints the line that makes a client")
    down = commands.add_parser("down", help="end its daemons and jobs; keep its logs")
    start = commands.add_parser("start", help="restart one daemon that was killed")
    for command in (up, down, start):
        command.add_argument("folder", metavar="DIR", type=Path)
    start.add_argument("name", metavar="NAME", help="munged, mariadbd, slurmdbd, slurmctld, n1, n2, ...")
    up.add_argument("--nodes", type=int, default=4, help="each has 8 CPUs and 2 GPUs that are /dev/null")
    up.add_argument("--accounting", action="store_true", help="with slurmdbd and MariaDB, so that sacct answers")
    up.add_argument("--no-requeue", action="store_true", help="JobRequeue=0")
    up.add_argument("--silent-preemption", action="store_true", help="a preempted job gets SIGTERM, and no --signal")
    up.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="a line of slurm.conf; KEY= drops it"
    )
    options = parser.parse_args()
    cluster = Cluster(options.folder.resolve())
    if options.command == "up":
        bring_up(cluster, options)
    elif options.command == "start":
        restart(cluster, options.name)
    else:
        take_down(cluster)


def bring_up(cluster: Cluster, options: argparse.Namespace) -> None:
    """Start a cluster from an empty folder; prints the line that makes a shell its client."""
    refuse_missing(options.accounting)
    names = ["munged", *(["mariadbd", "slurmdbd"] if options.accounting else []), "slurmctld"]
    names += [f"n{number}" for number in range(1, options.nodes + 1)]
    for attempt in range(5):
        take_down(cluster)
        configuration.write(cluster.folder, options)
        try:
            for name in names:
                cluster.start(name)
            cluster.wait_for_nodes(options.nodes)
        except PortTaken:
            print(f"slurm-cluster: a port was taken, attempt {attempt + 1}", file=sys.stderr)
        except BaseException:
            take_down(cluster)
            raise
        else:
            print(f"export SLURM_CONF={cluster.folder}/slurm.conf")
            return
    take_down(cluster)
    raise SystemExit("slurm-cluster: other programs took its ports five times")


def restart(cluster: Cluster, name: str) -> None:
    """Restart a daemon that was killed."""
    if not (cluster.folder / "pid" / "munged").exists():
        raise SystemExit(f"slurm-cluster: no cluster is up in {cluster.folder}")
    try:
        cluster.start(name)
    except PortTaken:
        raise SystemExit(f"slurm-cluster: another program has taken the port of {name}") from None


def take_down(cluster: Cluster) -> None:
    """End all processes of the cluster and release its ports."""
    left = processes.end(cluster.folder)
    ports.release(cluster.folder)
    for path in (cluster.folder / "pid").glob("*"):
        path.unlink()
    if left:
        raise SystemExit(f"slurm-cluster: these processes do not die: {left}")


def refuse_missing(accounting: bool) -> None:
    """Exit with a line that names the packages of missing programs."""
    needed = (*PROGRAMS, *(ACCOUNTING_PROGRAMS if accounting else ()))
    missing = [name for name in needed if not shutil.which(name, path=PATH)]
    if missing:
        packages = f"{PACKAGES} {ACCOUNTING_PACKAGES}" if accounting else PACKAGES
        raise SystemExit(
            f"slurm-cluster: no {', no '.join(missing)}: apt-get install --no-install-recommends {packages}"
        )


if __name__ == "__main__":
    main()
