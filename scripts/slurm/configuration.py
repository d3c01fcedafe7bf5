"""The folder of a cluster before its daemons start: slurm.conf and what it names."""

import argparse
import getpass
import os
import shutil
import socket
from pathlib import Path
from string import Template

import ports

TEMPLATES = Path(__file__).resolve().parent
REPEATED = ("nodename", "partitionname")


def write(folder: Path, options: argparse.Namespace) -> None:
    """Write all that the daemons need into the folder, and remove what an earlier cluster left there."""
    for name in ("munge", "pid", "log", "state", "spool", "gpu", "database"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("munge", "pid", "log", "state", "gpu", *(f"spool/n{n + 1}" for n in range(options.nodes))):
        (folder / name).mkdir(parents=True)
    (folder / "munge").chmod(0o711)
    (folder / "munge" / "key").touch(0o600)
    (folder / "munge" / "key").write_bytes(os.urandom(128))
    for number in range(2):
        (folder / "gpu" / f"nvidia{number}").symlink_to("/dev/null")
    first = ports.claim(folder)
    values = {
        "folder": folder,
        "host": socket.gethostname().partition(".")[0],
        "user": getpass.getuser(),
        "nodes": options.nodes,
        "controller_port": first,
        "database_port": first + 1,
        "first_node_port": first + 2,
        "last_node_port": first + 1 + options.nodes,
    }
    for name in ("slurm.conf", "gres.conf", "slurmdbd.conf"):
        lines = Template((TEMPLATES / name).read_text()).substitute(values).splitlines()
        lines = with_settings(lines, settings(options, folder, first + 1)) if name == "slurm.conf" else lines
        (folder / name).touch(0o600)
        (folder / name).write_text("\n".join(lines) + "\n")


def settings(options: argparse.Namespace, folder: Path, port: int) -> list[str]:
    """The lines of slurm.conf for the command's options."""
    lines = ["JobRequeue=0"] if options.no_requeue else []
    if options.silent_preemption:
        lines.append("SlurmctldParameters=")
    if options.accounting:
        lines += ["AccountingStorageType=accounting_storage/slurmdbd", "AccountingStorageHost=127.0.0.1"]
        lines += [f"AccountingStoragePort={port}", f"AccountingStoragePass={folder}/munge/socket"]
    return lines + options.set


def with_settings(lines: list[str], chosen: list[str]) -> list[str]:
    """Replace the lines of the chosen keys, unless a key may be repeated; an empty value removes the line."""
    keys = {line.partition("=")[0].lower() for line in chosen} - set(REPEATED)
    kept = [line for line in lines if line.partition("=")[0].lower() not in keys]
    return kept + [line for line in chosen if line.partition("=")[2]]
