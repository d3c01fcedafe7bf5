"""Several trainings of one net whose steps are computed together."""

from onecycle_sweeps.packs.pack import Pack as Pack
from onecycle_sweeps.packs.pack import steps_from as steps_from
from onecycle_sweeps.packs.weights import CannotPack as CannotPack
