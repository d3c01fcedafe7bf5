"""MLflow's own UI on a store, on this machine alone."""

import os
import socket
from typing import NoReturn

from onecycle_sweeps import tracking
from onecycle_sweeps.launching import conclusion
from onecycle_sweeps.sweep import Sweep

LAST_PORT = 65536


def become(uri: str, which: Sweep | None = None) -> NoReturn:
    """Become the UI's server, on the first free port; raises ValueError where the store is a server itself."""
    port = next(port for port in range(tracking.PORT, LAST_PORT) if _is_free(port))
    command = tracking.ui_command(uri, port)
    conclusion.say(f"MLflow: {tracking.overlay_link(which, port) if which else f'http://127.0.0.1:{port}'}")
    os.execvpe(command[0], command, tracking.ui_environment(uri))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
