"""What multiprocessing's fork server imports before it forks the first worker: torch, and the code of a trial."""

import gc
import os
from contextlib import suppress

# A session of its own: signals to the terminal's process group are for the launching process.
with suppress(PermissionError):
    os.setsid()
# What libraries print as they are imported would disturb the display of progress.
_null = os.open(os.devnull, os.O_RDWR)
for _number in (1, 2):
    os.dup2(_null, _number)
# An import that fails is repeated by the worker, which reports it in its log.
with suppress(Exception):
    # Every optimizer imports it, which takes a second and 80 MB: once here, and all workers share it.
    import torch._dynamo as dynamo  # noqa: F401

    from onecycle_sweeps import provenance
    from onecycle_sweeps.launching import job as job
    from onecycle_sweeps.launching import pool as pool

    # Workers run the code as it is at this moment, whatever is edited later.
    provenance.program_modules()
# A garbage collection in a worker would write to every object and so copy the pages that it shares with the others.
gc.freeze()
