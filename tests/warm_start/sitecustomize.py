"""Python runs this as it starts, where this folder is on PYTHONPATH: a command of the program is handed to `warm`.

A process there, which has the libraries loaded, is forked into the command, with this one's arguments, environment,
folder, open files and ignored and blocked signals. This one stays in its place: it passes signals on, and ends as the
command does; where it is killed, so is the command. Whatever `warm` does not take goes on here as if nothing had been.
"""

import marshal
import os
import signal
import sys
from _socket import AF_UNIX, SCM_RIGHTS, SOCK_SEQPACKET, SOL_SOCKET, socket
from array import array
from contextlib import suppress

ADDRESS = os.environ.get("ONECYCLE_TESTS_WARM", "")
# The exit status where nothing is known of the command's end.
LOST = 70
PASSED_ON = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def hand_over(words: list[str]) -> None:
    files = [int(name) for name in os.listdir("/proc/self/fd")]
    # Without the one that was open for the list itself.
    files = [file for file in files if os.path.exists(f"/proc/self/fd/{file}")]
    connection = socket(AF_UNIX, SOCK_SEQPACKET)
    # A signal comes before there is a command for it, or is passed on; none is lost.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
    try:
        connection.connect(ADDRESS)
        ignored = [number for number in PASSED_ON if signal.getsignal(number) is signal.SIG_IGN]
        is_leader = os.getsid(0) == os.getpid()
        environment = dict(os.environ)
        request = (words, os.getcwd(), environment, is_leader, files, list(map(int, ignored)), list(map(int, blocked)))
        rights = [(SOL_SOCKET, SCM_RIGHTS, array("i", files))]
        connection.sendmsg([marshal.dumps(request)], rights)
        is_taken = connection.recv(1) == b"y"
    except OSError:
        is_taken = False
    if not is_taken:
        connection.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        return
    for file in files:
        os.close(file)
    for number in PASSED_ON:
        signal.signal(number, lambda number, _: pass_on(connection, number))
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    status = connection.recv(4)
    code = os.waitstatus_to_exitcode(int.from_bytes(status, "little")) if status else LOST
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def pass_on(connection: socket, number: int) -> None:
    # It fails where the command has just ended.
    with suppress(OSError):
        connection.send(bytes([number]))


if ADDRESS:
    hand_over(sys.orig_argv[1:])
