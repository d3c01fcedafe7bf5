"""The rules of the house: who stands on which floor, and who may import what."""

import graphlib
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator

from imports import House

# Imports run downwards only, or stay within one package.
FLOORS = (
    (
        "files",
        "torch_internals",
        "terminal",
        "credentials",
        "measures",
        "validation",
        "machine",
        "memory",
        "seeding",
        "torch_settings",
    ),
    ("onecycle_sweeps", "config", "command_line", "held_generators"),
    (
        "policies",
        "images",
        "samples",
        "models",
        "optimizers",
        "mixing",
        "journal",
        "checkpoint",
        "fingerprints",
        "provenance",
    ),
    ("progress",),
    ("scheduler", "objectives", "sources", "datasets", "trial_folder"),
    ("loop", "restoring", "hydra_internals", "schedule_mistakes"),
    ("range_test", "hydra_job", "mistakes", "trainer_steps", "cuda_graph"),
    ("packs",),
    ("trial", "planning", "lightning", "transformers"),
    ("sweep", "composing", "differences"),
    ("outcome",),
    ("tracking", "report"),
    ("launching", "max_lr", "other_runs", "usage", "watching"),
    ("cli", "hydra_plugins"),
    ("__main__",),
)
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}

# Only conf/ names these, by _target_.
IMPORTED_BY_NOBODY = ("models", "objectives", "optimizers", "sources")

WITH_HYDRA = (
    *("__main__", "cli", "hydra_plugins", "config", "composing", "planning", "differences", "sweep", "trial"),
    *("mistakes", "hydra_job", "hydra_internals"),
)
HOMES = {
    "mlflow": ("tracking",),
    "submitit": ("launching.slurm",),
    "hydra": WITH_HYDRA,
    "omegaconf": WITH_HYDRA,
}

# The submitting side starts without torch. Plan asks torch for its devices only where a config names one.
TORCH = ("torch", "torchvision")
TORCH_FREE = (
    *("__main__", "cli", "hydra_plugins", "policies", "journal"),
    *("files", "config", "measures", "planning", "differences", "composing", "sweep", "outcome", "tracking", "report"),
    "mistakes",
)
TORCH_ON_DEMAND = ("planning",)

# The callback has one name in the module of each trainer of another library.
SAME_FOR_EACH_TRAINER = {"Schedule"}
SAYS_NOTHING = {"util", "utils", "common", "helper", "helpers", "manager", "handler", "base", "core"}


def place(module: str) -> str:
    """The name under which a module stands on its floor."""
    first, *rest = module.split(".")
    return rest[0] if first == "onecycle_sweeps" and rest else first


def every_module_stands_on_a_floor(house: House) -> Iterator[str]:
    for module in sorted(house.files):
        if place(module) not in FLOOR:
            yield f"{module} stands on no floor: give {place(module)} one in FLOORS"


def imports_run_downwards(house: House) -> Iterator[str]:
    for found in house.within:
        # The package lists its public names for the type checker, and imports them on use.
        if found.importer == "onecycle_sweeps" and found.when == "typing":
            continue
        below, above = place(found.target), place(found.importer)
        if below not in ("onecycle_sweeps", above) and FLOOR.get(below, -1) >= FLOOR.get(above, len(FLOORS)):
            yield f"{found.importer} imports {found.target}, which does not stand below it"


def nobody_imports_what_conf_names(house: House) -> Iterator[str]:
    for found in house.within:
        if place(found.target) in IMPORTED_BY_NOBODY and place(found.importer) != place(found.target):
            yield f"{found.importer} imports {found.target}, which only conf/ may name"


def a_library_stays_in_its_home(house: House) -> Iterator[str]:
    for found in house.imports:
        homes = HOMES.get(found.target.split(".")[0])
        name = found.importer.removeprefix("onecycle_sweeps.")
        within = any(f"{name}.".startswith(f"{home}.") for home in homes or ())
        if homes is not None and not within and place(found.importer) not in homes:
            yield f"{found.importer} imports {found.target}, which only {', '.join(homes)} may"


def hydras_private_interfaces_stay_in_one_file(house: House) -> Iterator[str]:
    for found in house.imports:
        within = found.importer == "onecycle_sweeps.hydra_internals" or place(found.importer) == "hydra_plugins"
        if found.target.startswith("hydra._internal") and not within:
            yield f"{found.importer} imports {found.target}, which only hydra_internals and the plugin may"


def the_submitting_side_starts_without_torch(house: House) -> Iterator[str]:
    for module in sorted(name for name in house.files if place(name) in TORCH_FREE):
        for loaded in sorted(house.loaded_with(module)):
            if loaded.split(".")[0] in TORCH:
                yield f"{module} loads {loaded}"
        for found in house.imports:
            called = found.importer == module and found.when == "call" and found.target.split(".")[0] in TORCH
            if called and place(module) not in TORCH_ON_DEMAND:
                yield f"{module} imports {found.target} in a call"


def the_plugin_loads_hydra_alone(house: House) -> Iterator[str]:
    allowed = {"hydra", "omegaconf", *sys.stdlib_module_names}
    for found in house.imports:
        if place(found.importer) != "hydra_plugins" or found.when != "load":
            continue
        if found.target.split(".")[0] not in allowed and place(found.target) != "hydra_plugins":
            yield f"{found.importer} loads {found.target}: every Hydra program would"


def no_import_is_circular(house: House) -> Iterator[str]:
    graph = {name: {found.target for found in house.within if found.importer == name} for name in house.files}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        yield " <- ".join(error.args[1])


def no_two_modules_share_a_name(house: House) -> Iterator[str]:
    places: dict[str, list[str]] = defaultdict(list)
    for module in house.files:
        places[module.rpartition(".")[2]].append(module)
    # The package's own name is that of Hydra's namespace for its plugin as well.
    for name in places.keys() - {"onecycle_sweeps"}:
        if len(places[name]) > 1:
            yield f"{' and '.join(places[name])} have one name"


def no_two_classes_share_a_name(house: House) -> Iterator[str]:
    places: dict[str, list[str]] = defaultdict(list)
    for name, module in house.classes:
        places[name].append(module)
    for name in places:
        if len(places[name]) > 1 and name not in SAME_FOR_EACH_TRAINER:
            yield f"{' and '.join(places[name])} have a class named {name}"


def no_module_only_forwards(house: House) -> Iterator[str]:
    for module, path in house.files.items():
        if path.stem != "__init__" and house.only_forwards(module):
            yield f"{module} defines nothing: import from where its names are defined"


def every_name_says_something(house: House) -> Iterator[str]:
    for module, path in sorted(house.files.items()):
        if SAYS_NOTHING & {word for part in path.with_suffix("").parts for word in part.split("_")}:
            yield f"{module} has a name that does not say what it is for"


RULES: tuple[Callable[[House], Iterator[str]], ...] = (
    every_module_stands_on_a_floor,
    imports_run_downwards,
    nobody_imports_what_conf_names,
    a_library_stays_in_its_home,
    hydras_private_interfaces_stay_in_one_file,
    the_submitting_side_starts_without_torch,
    the_plugin_loads_hydra_alone,
    no_import_is_circular,
    no_two_modules_share_a_name,
    no_two_classes_share_a_name,
    no_module_only_forwards,
    every_name_says_something,
)
