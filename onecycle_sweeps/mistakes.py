"""One-line messages about what Hydra refuses: options, overrides, choices in groups, and config files.

`checked_arguments` checks the options. Within `as_config_errors`, Hydra loads configs with `Loader`, and each of its
exceptions becomes a ConfigError: `Loader._message` looks for the mistake in the overrides, then in the files.
"""

import argparse
import errno
import io
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stderr, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import yaml
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.default_element import GroupDefault
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import env_override
from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from onecycle_sweeps import hydra_internals
from onecycle_sweeps.command_line import CONF
from onecycle_sweeps.config import keys, schema
from onecycle_sweeps.config.schema import ConfigError
from onecycle_sweeps.hydra_internals import ConfigLoaderImpl, DefaultsList

# Groups of which a trial has one choice.
GROUPS = (*schema.BUILT, "task", *schema.GLOBAL_GROUPS)
# Options that choose what Hydra does, of which a command can have one.
MODES = ("run", "multirun", "cfg", "info", "shell_completion")
SWEEPER_KEYS = ("params", "max_batch_size")
# Choices that other packages of Hydra's provide, with what to do for them. Once a package is installed that cannot be
# imported, no program that uses Hydra starts.
PACKAGES = {"hydra/sweeper=optuna": "it needs hydra-optuna-sweeper: pip install hydra-optuna-sweeper"} | {
    f"hydra/sweeper={name}": (
        f"hydra-{name}-sweeper 1.2.0, the newest, cannot be imported by Python 3.11 and newer: use hydra/sweeper=optuna"
    )
    for name in ("ax", "nevergrad")
}
# The file in which Hydra records a sweep's config.
SWEEPS_FILE = "multirun.yaml"
ADD_M, ONE_VALUE = "add -m to try each of them", "one is needed here"
BRACKETS = {"[": "]", "{": "}", "(": ")"}


def checked_arguments(argv: Sequence[str], parser: argparse.ArgumentParser | None = None) -> list[str]:
    """The arguments with options before overrides, because Hydra's parser does not accept them mixed.

    A relative --config-path is relative to the working folder; Hydra would start from the program's folder.
    `parser` is Hydra's parser with further options. Raises ConfigError for an unknown option and for a missing folder.
    """
    parser = parser or hydra_internals.option_parser()
    errors = io.StringIO()
    try:
        with redirect_stderr(errors):
            read = parser.parse_intermixed_args(list(argv))
    except SystemExit as end:
        if not end.code:
            raise
        _refuse_option(parser, errors.getvalue().strip().rpartition("error: ")[2], argv)
    modes = [f"--{mode.replace('_', '-')}" for mode in MODES if getattr(read, mode)]
    if len(modes) > 1:
        raise ConfigError(f"{' and '.join(modes)} do not go together: leave one out")
    if read.resolve and not read.cfg and not read.help:
        raise ConfigError("--resolve needs --cfg job, whose output it resolves")
    if read.experimental_rerun:
        raise ConfigError("--experimental-rerun is not supported: use the verb resume to repeat a recorded command")
    for option, folder in (("--config-dir", read.config_dir), ("--config-path", read.config_path)):
        if folder is not None and not folder.startswith("pkg://") and not os.path.isdir(folder):
            raise ConfigError(f"{option} {folder}: there is no such folder")
    path, located = read.config_path or "pkg://", list[str]()
    if not path.startswith("pkg://") and not os.path.isabs(path):
        located = [f"--config-path={os.path.abspath(path)}"]
    with redirect_stderr(io.StringIO()), suppress(SystemExit):
        parser.parse_args(list(argv))
        return [*argv, *located]
    options, overrides = list(argv), list(read.overrides)
    for override in reversed(overrides):
        del options[len(options) - 1 - options[::-1].index(override)]
    return [*options, *located, *overrides]


@contextmanager
def as_config_errors() -> Iterator[None]:
    """Let Hydra load configs with our Loader, and turn its exceptions into ConfigErrors of one line."""
    loaders: list[Loader] = []
    try:
        with hydra_internals.replaced(partial(Loader, loaders), _environment):
            yield
    except schema.UnknownKey as error:
        file = loaders[-1].file_with(error.key) if loaders else None
        raise ConfigError(f"{file}: {error}" if file else str(error)) from error
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_in_one_line(error)) from error
    except OSError as error:
        # Hydra makes the folder of a sweep, and a file in it, before anything of ours runs.
        folder = loaders[-1].sweep_folder().absolute() if loaders else Path()
        made = folder / SWEEPS_FILE if error.filename is None else Path(error.filename).absolute()
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        if made not in (folder / SWEEPS_FILE, folder, *folder.parents) or (error.filename is None and not is_full):
            raise
        line = f"runs_dir: {error.filename or made} cannot be made ({error.strerror}): name another folder"
        raise ConfigError(line) from error


def _environment(env: Any) -> AbstractContextManager[None]:
    """Set environment variables; the hydra.job.env_set that Hydra passes lacks the config that it interpolates."""
    return env_override(HydraConfig.get().job.env_set if OmegaConf.is_config(env) else env)


class Loader(ConfigLoaderImpl):
    """Hydra's config loader, which adds itself to `loaders` and raises ConfigError for what cannot be composed."""

    def __init__(self, loaders: list["Loader"], config_search_path: ConfigSearchPath) -> None:
        super().__init__(config_search_path)
        loaders.append(self)
        # What the latest config was composed from.
        self._latest: tuple[str | None, list[str], RunMode] = (None, [], RunMode.RUN)
        self._composes_jobs = False
        self._latest_config = OmegaConf.create()

    def sweep_folder(self) -> Path:
        """The folder that Hydra makes for a sweep of the latest config."""
        return Path(OmegaConf.select(self._latest_config, "hydra.sweep.dir", default=""))

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """The config of a job."""
        self._composes_jobs = True
        return super().load_sweep_config(master_config, sweep_overrides)

    def compute_defaults_list(self, config_name: str | None, overrides: list[str], run_mode: RunMode) -> DefaultsList:
        """The files that make up a config."""
        try:
            return super().compute_defaults_list(config_name, overrides, run_mode)
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(self._message(error, config_name, overrides, sweeps=True)) from error

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """The composed config."""
        try:
            self._refuse_several_choices(overrides)
            self._latest = config_name, list(overrides), run_mode
            config = super().load_configuration(config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
            self._latest_config = config
            self._refuse_hidden(config)
            # A sweep's jobs are checked one by one, with their overrides.
            if run_mode == RunMode.RUN and not self._composes_jobs:
                _check_keys(config)
            return config
        except ConfigError:
            raise
        except Exception as error:
            # Hydra composes once just to learn whether this is a sweep, and ignores errors.
            if not validate_sweep_overrides:
                raise
            line = self._message(error, config_name, overrides, sweeps=run_mode == RunMode.MULTIRUN)
            raise ConfigError(line if from_shell else line.replace(ADD_M, ONE_VALUE)) from error

    def file_with(self, key: str) -> str | None:
        """The file that sets a key of the latest config; None if no file does."""
        with suppress(HydraException, OmegaConfBaseException):
            for default in reversed(self.compute_defaults_list(*self._latest).defaults):
                if not default.config_path or not (found := self.repository.load_config(default.config_path)):
                    continue
                package = f"{default.package}." if default.package else ""
                if key.startswith(package) and found.path and _has(found.config, key.removeprefix(package)):
                    return f"{found.path.removeprefix('file://')}/{default.config_path.removesuffix('.yaml')}.yaml"
        return None

    def _refuse_hidden(self, config: DictConfig) -> None:
        """Raise ConfigError if a file of the user's has the name of a choice of the program, which comes before it."""
        sources = [one.path for one in self.config_search_path.get_path() if one.path]
        folders = [Path(path.removeprefix("file://")) for path in sources if path.startswith("file://")]
        folders = [folder for folder in folders if folder.resolve() != CONF.resolve()]
        for group, name in config.hydra.runtime.choices.items() if folders else ():
            file = Path(group, f"{name}.yaml")
            for own in folders:
                if (CONF / file).is_file() and (own / file).is_file():
                    raise ConfigError(f"{own / file} is hidden by this program's own {group}={name}: rename the file")

    def _refuse_several_choices(self, overrides: Sequence[str]) -> None:
        """Raise ConfigError for a list of choices in one group, which Hydra would merge into one config."""
        for override in overrides:
            group, _, value = override.partition("=")
            if group in GROUPS and value.startswith("["):
                choices = ",".join(part.strip() for part in value.strip("[]").split(","))
                raise ConfigError(f"{override}: a trial has one {group}; {group}={choices} -m compares them")

    def _message(self, error: Exception, config_name: str | None, overrides: Sequence[str], *, sweeps: bool) -> str:
        """The message about an exception that was raised while a config was composed."""
        parsed = []
        for override in overrides:
            try:
                parsed.append(OverridesParser.create().parse_override(override))
            except HydraException as unreadable:
                return _unreadable(override, unreadable)
        if isinstance(error, MissingConfigException):
            return self._missing(error, config_name, parsed)
        for override in parsed:
            if override.is_sweep_override():
                if not sweeps:
                    return f"{override.input_line} is several values: {ADD_M}"
                if override.is_hydra_override():
                    return f"{override.input_line}: a key of Hydra's own can only have one value in a sweep"
            elif line := self._mistake_in_group(override):
                return line
        if isinstance(error, yaml.YAMLError | OSError | UnicodeDecodeError):
            return self._of_file(error)
        config = self._composed(config_name, [o for o in parsed if self._is_choice(o)])
        lines = (_mistake_in_value(o, config) for o in parsed if not self._is_choice(o) and not o.is_sweep_override())
        return next(filter(None, lines), None) or self._mistake_in_file(_in_one_line(error))

    def _is_choice(self, override: Override) -> bool:
        return self.repository.group_exists(override.key_or_group) and not isinstance(override.value(), dict)

    def _composed(self, config_name: str | None, choices: Sequence[Override]) -> Any:
        """The config with these choices in groups, or with none if that cannot be composed."""
        typed = [override.input_line for override in choices if override.input_line]
        for lines in (typed, []):
            with suppress(Exception):
                return super().load_configuration(config_name, lines, RunMode.MULTIRUN, validate_sweep_overrides=False)
        return OmegaConf.create({})

    def _mistake_in_group(self, override: Override) -> str | None:
        """What is wrong with a choice in a group; None if nothing is, or only composing it can show it."""
        group, typed = override.key_or_group, override.input_line
        if not group:
            return f"{typed} cannot be read: write key=value, such as policy=onecycle"
        if not self._is_choice(override) or override.is_delete():
            return None
        chosen = override.value()
        if group in GROUPS:
            if override.package:
                return f"{typed}: {group} cannot be moved within the config, write {group}={chosen}"
            if override.is_add():
                return f"{typed}: a config has one {group}, write {group}={chosen} without the +"
        if override.is_force_add():
            return f"{typed}: write {group}={chosen} without the ++"
        if not isinstance(chosen, str | list) or chosen == "":
            none = f", or leave it out for none (~{group} removes it)" if group in schema.GLOBAL_GROUPS else ""
            return f"{typed}: name a choice of {group}{none}; {self._choices(group)}"
        return None

    def _missing(self, error: MissingConfigException, config_name: str | None, parsed: Sequence[Override]) -> str:
        """The message about a config file that does not exist."""
        missing = error.missing_cfg_file or ""
        if missing in (config_name, f"{config_name}.yaml"):
            places = ", ".join(source.path for source in self.get_sources() if source.scheme() == "file")
            return f"--config-name {config_name}: there is no {missing.removesuffix('.yaml')}.yaml in {places}"
        group, _, name = missing.rpartition("/")
        where = ""
        for override in parsed:
            if missing == f"{override.key_or_group}/{override.value()}":
                group, name, where = override.key_or_group, str(override.value()), ""
                break
            if self._is_choice(override) and self._chooses(f"{override.key_or_group}/{override.value()}", missing):
                where = f" in {override.key_or_group}/{override.value()}.yaml"
        if (remedy := PACKAGES.get(f"{group}={name}")) and name not in self._options(group):
            return f"{group}={name}{where}: {remedy}"
        line, known = f"{group}={name}{where}: there is no such choice", self._choices(group)
        if near := keys.nearest(name, self._options(group)):
            return f"{line}; did you mean {near}? {known[0].upper()}{known[1:]}"
        own = f"; one of your own is {group}/{name}.yaml in the folder of --config-dir" if self._options(group) else ""
        return f"{line}; {known}{own}"

    def _chooses(self, file: str, missing: str) -> bool:
        """Whether a file's defaults list chooses a file in a group."""
        with suppress(Exception):
            loaded = self.repository.load_config(file)
            listed = loaded.defaults_list or () if loaded else ()
            return any(f"{d.group}/{d.value}".strip("/") == missing for d in listed if isinstance(d, GroupDefault))
        return False

    def _options(self, group: str) -> list[str]:
        """The choices of a group, including those in its folders."""
        found = [name for name in self.get_group_options(group) if not name.startswith("_")]
        for folder in self.get_group_options(group, ObjectType.GROUP):
            found += [f"{folder}/{name}" for name in self._options(f"{group}/{folder}")]
        return found

    def _choices(self, group: str) -> str:
        if options := self._options(group):
            return f"the choices are {', '.join(options)}"
        groups = [name for name in self.get_group_options("", ObjectType.GROUP) if name != "hydra"]
        near = keys.nearest(group, groups)
        return f"there is no group {group}" + (f", did you mean {near}?" if near else "")

    def _mistake_in_file(self, line: str) -> str:
        """A message from Hydra; one about an override in a defaults list gets the group that was probably meant."""
        if found := re.match(r"In '?([\w/.-]+)'?: Could not override '([^']+)'", line):
            groups = [*GROUPS, *self.get_group_options("", ObjectType.GROUP), "hydra/launcher", "hydra/sweeper"]
            near = keys.nearest(found[2], groups)
            meant = f"did you mean {near}?" if near else f"the groups are {', '.join(GROUPS)}"
            return f"{found[1]}.yaml overrides {found[2]}, which is not a group; {meant}"
        return line

    def _of_file(self, error: Exception) -> str:
        """The message about a file that is no YAML or cannot be read."""
        if not isinstance(error, UnicodeDecodeError):
            return _in_one_line(error)
        # The error does not name the file.
        for source in self.get_sources():
            for path in sorted(Path(source.path).rglob("*.yaml")) if source.scheme() == "file" else ():
                try:
                    path.read_text(encoding="utf-8")
                except UnicodeDecodeError:
                    return f"{path} is not UTF-8 text: save it in that encoding"
        return _in_one_line(error)


def _check_keys(config: DictConfig) -> None:
    """Raise ConfigError for a key of a composed config that nothing reads."""
    content = OmegaConf.to_container(config, resolve=False)
    assert isinstance(content, dict)
    of_hydra = content.pop("hydra")
    schema.check_keys({str(key): value for key, value in content.items()}, keys.read_in(of_hydra))


def _refuse_option(parser: argparse.ArgumentParser, reason: str, argv: Sequence[str]) -> NoReturn:
    if not (unknown := re.match(r"unrecognized arguments: (-\S+)", reason)):
        raise ConfigError(reason)
    option, _, value = unknown[1].partition("=")
    options = sorted(set(re.findall(r"--[\w-]+", parser.format_usage())))
    if near := keys.nearest(option, options, 0.75):
        raise ConfigError(f"unknown option {option}; did you mean {near}?")
    if not option.startswith("--"):
        raise ConfigError(f"unknown option {option}; the options are {', '.join(options)}")
    value = value or next((after for before, after in pairwise(argv) if before == option), "...")
    key = option.strip("-").replace("-", "_")
    known = [*schema.READ, *GROUPS]
    key = key if key in known else keys.suggestion(key, known) or key
    raise ConfigError(f"unknown option {option}; keys are written without dashes: {key}={value}")


def _unreadable(override: str, error: HydraException) -> str:
    """The message about an override that does not follow Hydra's grammar."""
    key, equals, value = override.partition("=")
    if not equals:
        return f"{override} is not an override: write key=value, such as policy=onecycle"
    if not re.fullmatch(r"(\+\+?|~)?[\w$/@.:-]+", key):
        return f"{override} cannot be read: {key!r} is not a valid name of a key"
    if value.endswith(","):
        return f"{override} cannot be read: there is no value after the last comma"
    for opened, closed in BRACKETS.items():
        if value.count(opened) != value.count(closed):
            missing = closed if value.count(opened) > value.count(closed) else opened
            return f"{override} cannot be read: a {missing} is missing"
    quoted = f'{key}="{value}"'
    with suppress(HydraException):
        OverridesParser.create().parse_override(quoted)
        return f"{override} cannot be read: quote its value, {shlex.quote(quoted)}"
    return f"{override} cannot be read: {_in_one_line(error)}"


def _mistake_in_value(override: Override, config: Any) -> str | None:
    """What is wrong with an override of a value or a node of the config; None if nothing is."""
    key, typed = override.key_or_group, override.input_line or ""
    if override.package:
        return f"{typed}: only a group can have a package, and {key} is not a group: leave out @{override.package}"
    value = typed.partition("=")[2]
    within = override.value()
    inner = [(one, str(v)) for one, v in keys.leaves(within, key)] if isinstance(within, dict) else [(key, value)]
    with suppress(OmegaConfBaseException):
        for one, given in inner:
            if (above := next((place for place in _above(one) if _is_value(config, place)), None)) is not None:
                return f"{typed}: {above} is a single value ({OmegaConf.select(config, above)}) and has no keys"
            if not _has(config, one) and not override.is_add() and not override.is_force_add():
                return _unknown(one, given, config, deleted=typed if override.is_delete() else None)
        if override.is_add() and _has(config, key):
            return f"{typed}: {key} exists already, write {key}={value}"
        if override.is_delete() and override.value() is not None:
            return f"{typed}: the value of {key} is {OmegaConf.select(config, key)}, write ~{key} to delete it"
    return None


def _unknown(key: str, value: str, config: Any, *, deleted: str | None) -> str:
    """The message about a key that the config does not have."""
    top, _, rest = key.partition(".")
    if key.startswith(f"{schema.LAUNCHER}."):
        launcher = [str(name) for name in OmegaConf.select(config, schema.LAUNCHER) or () if name != "_target_"]
        return schema.unknown_to_launcher(key.removeprefix(f"{schema.LAUNCHER}."), value, launcher)
    node = OmegaConf.to_container(config, resolve=False)
    names = dict.fromkeys(name.partition("[")[0] for name, _ in keys.leaves(node) if not name.endswith("_target_"))
    known = [*schema.READ, *GROUPS, *(name for name in names if name.startswith("hydra.") == key.startswith("hydra."))]
    line = keys.unknown(key, known, value)
    if deleted:
        return f"{deleted}: there is no key {key}" if "?" not in line else line
    if keys.suggestion(key, known):
        return line
    if top in schema.BUILT and rest:
        target = OmegaConf.select(config, f"{top}._target_")
        return f"{line}; to pass {target} another parameter, add it with a +: +{key}={value}"
    # Nodes such as hydra.job.env_set may have any key.
    inside = OmegaConf.select(config, key.rpartition(".")[0]) if top == "hydra" else None
    if isinstance(inside, DictConfig) and OmegaConf.get_type(inside) is dict:
        return f"{key} does not exist yet, add it with a +: +{key}={value}"
    return line


def _above(key: str) -> Iterator[str]:
    """The nodes that contain a key."""
    parts = key.split(".")
    return (".".join(parts[:length]) for length in range(1, len(parts)))


def _is_value(config: Any, key: str) -> bool:
    """Whether a config has a key, and its value is neither a node nor a list."""
    return (node := OmegaConf.select(config, key)) is not None and not OmegaConf.is_config(node)


def _has(config: Any, key: str) -> bool:
    """Whether a config has a key, even with null or ??? as its value."""
    node, _, leaf = key.rpartition(".")
    inside = OmegaConf.select(config, node) if node else config
    # `leaf in inside` is false for a value of ???.
    return isinstance(inside, DictConfig) and leaf in list(inside)


def _in_one_line(error: BaseException) -> str:
    """An exception of Hydra, OmegaConf or YAML in one line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"{error.problem_mark.name}, line {error.problem_mark.line + 1}: {error.problem}"
    if isinstance(error, OverrideParseException):
        reason = str(error).removeprefix(f"Error parsing override '{error.override}'")
        return " ".join(reason.partition("See https")[0].split())
    if isinstance(error, InstantiationException) and (
        found := re.search(r"unexpected keyword argument '(\w+)'.*full_key: ([\w.]+)", str(error), re.DOTALL)
    ):
        return keys.unknown(f"{found[2]}.{found[1]}", [f"{found[2]}.{key}" for key in SWEEPER_KEYS])
    if isinstance(error, InstantiationException) and (found := re.search(r"full_key: ([\w.]+)", str(error))):
        reason = error
        while (deeper := reason.__cause__) is not None:
            reason = deeper
        located = reason is not error and not isinstance(reason, ModuleNotFoundError | AttributeError)
        said = f"{type(reason).__name__}: {reason}" if located else str(error).partition(", set env var")[0]
        return f"{found[1]}: {' '.join(said.partition('full_key')[0].split())}"
    if isinstance(error, InterpolationResolutionError):
        return unresolvable(error)
    text = str(error) or str(error.__cause__ or type(error).__name__)
    return " ".join(re.split(r"Config search path:|\n    full_key:|To append to your", text)[0].split())


def unresolvable(error: OmegaConfBaseException) -> str:
    """The message about a value that cannot be resolved."""
    reason = str(error).splitlines()[0].rpartition("raised while resolving interpolation: ")[2].strip('"')
    reason = re.sub(r"^Interpolation key '(.*)' not found$", r"there is no key \1", reason)
    return f"{error.full_key or 'a value'} cannot be resolved: {reason}"
