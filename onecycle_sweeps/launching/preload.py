"""What multiprocessing's fork server imports before it forks the first worker: torch, and the code that runs trials."""

import gc
import os
from contextlib import suppress
from pathlib import Path

from onecycle_sweeps import memory, terminal

memory.collect_seldom()
# In a new session, because signals from the terminal are for the launching process.
with suppress(PermissionError):
    os.setsid()
# Libraries may print while they are imported, which would disturb the display of progress.
terminal.redirect_output(Path(os.devnull))
# Where an import fails, the worker repeats it and has the error in its log.
with suppress(Exception):
    from onecycle_sweeps import provenance
    from onecycle_sweeps.launching import execution as execution
    from onecycle_sweeps.launching import pool as pool

    # Workers run the code as it is now, whatever is edited later.
    provenance.program_modules()
# A garbage collection in a worker would write to every object, and so copy the memory that the workers share.
gc.freeze()
