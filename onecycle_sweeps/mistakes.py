"""One-line messages for what Hydra refuses: options, overrides, choices in groups, and config files."""

import argparse
import difflib
import io
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
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
from onecycle_sweeps.config import keys, schema
from onecycle_sweeps.config.schema import ConfigError
from onecycle_sweeps.hydra_internals import ConfigLoaderImpl, DefaultsList

# Groups of which a trial has one choice.
GROUPS = (*schema.BUILT, "task", *schema.GLOBAL_GROUPS)
# Options that choose what Hydra does; one of them can be given.
MODES = ("run", "multirun", "cfg", "info", "shell_completion")
OF_A_SWEEPER = ("params", "max_batch_size")
# Choices that come with a package of Hydra's.
OF_PACKAGES = {f"hydra/sweeper={name}": f"hydra-{name}-sweeper" for name in ("optuna", "ax", "nevergrad")}
ADD_M, ONE_VALUE = "add -m to try each of them", "one is needed here"
BRACKETS = {"[": "]", "{": "}", "(": ")"}


def checked_arguments(argv: Sequence[str], parser: argparse.ArgumentParser | None = None) -> list[str]:
    """The arguments with options before overrides, since Hydra's parser does not accept them mixed.

    A relative --config-path is taken from the working folder; Hydra would take it from the folder of its program.
    `parser` is Hydra's own with further options. Raises ConfigError for an unknown option and for a missing folder.
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
        raise ConfigError("--resolve goes with --cfg job: it resolves what that shows")
    if read.experimental_rerun:
        raise ConfigError("--experimental-rerun is not supported: the verb resume repeats a recorded command")
    for option, folder in (("--config-dir", read.config_dir), ("--config-path", read.config_path)):
        if folder is not None and not folder.startswith("pkg://") and not os.path.isdir(folder):
            raise ConfigError(f"{option} {folder}: there is no such folder")
    located = [f"--config-path={os.path.abspath(read.config_path)}"] if _is_relative(read.config_path) else []
    with redirect_stderr(io.StringIO()), suppress(SystemExit):
        parser.parse_args(list(argv))
        return [*argv, *located]
    options, overrides = list(argv), list(read.overrides)
    for override in reversed(overrides):
        del options[len(options) - 1 - options[::-1].index(override)]
    return [*options, *located, *overrides]


def _is_relative(folder: str | None) -> bool:
    return folder is not None and not folder.startswith("pkg://") and not os.path.isabs(folder)


@contextmanager
def as_config_errors() -> Iterator[None]:
    """Let Hydra load configs with our Loader, and turn its exceptions into ConfigErrors of one line."""
    loaded: list[_Loaded] = []
    try:
        with hydra_internals.replaced(partial(Loader, loaded), _environment):
            yield
    except schema.UnknownKey as error:
        file = next(filter(None, (one.file(error.key) for one in loaded[-1:])), None)
        raise ConfigError(f"{file}: {error}" if file else str(error)) from error
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_line(error)) from error


def _environment(env: Any) -> AbstractContextManager[None]:
    """Set environment variables; Hydra passes hydra.job.env_set without the config that it interpolates from."""
    return env_override(HydraConfig.get().job.env_set if OmegaConf.is_config(env) else env)


@dataclass(frozen=True)
class _Loaded:
    """What a config was composed from, so that its files can be searched for a key."""

    loader: "Loader"
    config_name: str | None
    overrides: tuple[str, ...]
    run_mode: RunMode

    def file(self, key: str) -> str | None:
        """The file that gives a key its value, if one does."""
        with suppress(HydraException, OmegaConfBaseException):
            listed = self.loader.compute_defaults_list(self.config_name, list(self.overrides), self.run_mode)
            for default in reversed(listed.defaults):
                if not default.config_path or not (found := self.loader.repository.load_config(default.config_path)):
                    continue
                package = f"{default.package}." if default.package else ""
                if key.startswith(package) and found.path and _has(found.config, key.removeprefix(package)):
                    return f"{found.path.removeprefix('file://')}/{default.config_path.removesuffix('.yaml')}.yaml"
        return None


class Loader(ConfigLoaderImpl):
    """Hydra's config loader, which raises ConfigError for what cannot be composed; `loaded` gets the latest config."""

    def __init__(self, loaded: list[_Loaded], config_search_path: ConfigSearchPath) -> None:
        super().__init__(config_search_path)
        self._loaded = loaded
        self._composes_jobs = False

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """The config of a job."""
        self._composes_jobs = True
        return super().load_sweep_config(master_config, sweep_overrides)

    def compute_defaults_list(self, config_name: str | None, overrides: list[str], run_mode: RunMode) -> DefaultsList:
        """The files that make up a config."""
        try:
            return super().compute_defaults_list(config_name, overrides, run_mode)
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(self._line(error, config_name, overrides, sweeps=True)) from error

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
            self._loaded[:] = [_Loaded(self, config_name, tuple(overrides), run_mode)]
            config = super().load_configuration(config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
            # A sweep's jobs are checked one by one, once their overrides are applied.
            if run_mode == RunMode.RUN and not self._composes_jobs:
                _check_keys(config)
            return config
        except ConfigError:
            raise
        except Exception as error:
            # Hydra first composes only to learn whether this is a sweep, and ignores errors.
            if not validate_sweep_overrides:
                raise
            line = self._line(error, config_name, overrides, sweeps=run_mode == RunMode.MULTIRUN)
            raise ConfigError(line if from_shell else line.replace(ADD_M, ONE_VALUE)) from error

    def _refuse_several_choices(self, overrides: Sequence[str]) -> None:
        """Raise ConfigError for a list of choices in a group, which Hydra would merge into one config."""
        for override in overrides:
            group, _, value = override.partition("=")
            if group in GROUPS and value.startswith("["):
                choices = ",".join(part.strip() for part in value.strip("[]").split(","))
                raise ConfigError(f"{override}: a trial has one {group}; {group}={choices} -m compares them")

    def _line(self, error: Exception, config_name: str | None, overrides: Sequence[str], *, sweeps: bool) -> str:
        """The message about an exception that composing a config raised."""
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
                    return f"{override.input_line}: Hydra's own keys have one value in a sweep"
            elif line := self._mistake_in_group(override):
                return line
        if isinstance(error, yaml.YAMLError | OSError | UnicodeDecodeError):
            return self._of_file(error)
        config = self._composed(config_name, [o for o in parsed if self._is_choice(o)])
        lines = (_mistake_in_value(o, config) for o in parsed if not self._is_choice(o) and not o.is_sweep_override())
        return next(filter(None, lines), None) or self._mistake_in_file(_line(error))

    def _is_choice(self, override: Override) -> bool:
        return self.repository.group_exists(override.key_or_group) and not isinstance(override.value(), dict)

    def _composed(self, config_name: str | None, choices: Sequence[Override]) -> Any:
        """The config of these choices in groups, or of no choice if they cannot be composed."""
        typed = [override.input_line for override in choices if override.input_line]
        for lines in (typed, []):
            with suppress(Exception):
                return super().load_configuration(config_name, lines, RunMode.MULTIRUN, validate_sweep_overrides=False)
        return OmegaConf.create({})

    def _mistake_in_group(self, override: Override) -> str | None:
        """What is wrong with a choice in a group, as far as can be told without composing it."""
        group, typed = override.key_or_group, override.input_line
        if not group:
            return f"{typed} cannot be read: write key=value, such as policy=onecycle"
        if not self._is_choice(override):
            return None
        chosen = override.value()
        if override.is_delete():
            return None
        if group in GROUPS:
            if override.package:
                return f"{typed}: the place of {group} in the config is fixed, write {group}={chosen}"
            if override.is_add():
                return f"{typed}: {group} has a place for one choice, write {group}={chosen} without the +"
        if override.is_force_add():
            return f"{typed}: write {group}={chosen} without the ++"
        if not isinstance(chosen, str | list) or chosen == "":
            none = f", or leave it out for none, or ~{group}" if group in schema.GLOBAL_GROUPS else ""
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
        if (package := OF_PACKAGES.get(f"{group}={name}")) and name not in self._options(group):
            return f"{group}={name}{where} needs {package}: pip install {package}"
        near = difflib.get_close_matches(name, self._options(group), 1)
        said, known = f"{group}={name}{where}: there is no such choice", self._choices(group)
        return f"{said}; did you mean {near[0]}? {known[0].upper()}{known[1:]}" if near else f"{said}; {known}"

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
        near = difflib.get_close_matches(group, groups, 1)
        return f"there is no group {group}" + (f", did you mean {near[0]}?" if near else "")

    def _mistake_in_file(self, line: str) -> str:
        """A message about an override in a defaults list, with the group that was probably meant; others unchanged."""
        if found := re.match(r"In '?([\w/.-]+)'?: Could not override '([^']+)'", line):
            groups = [*GROUPS, *self.get_group_options("", ObjectType.GROUP), "hydra/launcher", "hydra/sweeper"]
            near = difflib.get_close_matches(found[2], groups, 1)
            meant = f"; did you mean {near[0]}?" if near else f"; the groups are {', '.join(GROUPS)}"
            return f"{found[1]}.yaml overrides {found[2]}, which is no group{meant}"
        return line

    def _of_file(self, error: Exception) -> str:
        if not isinstance(error, UnicodeDecodeError):
            return _line(error)
        # The error does not name the file.
        for source in self.get_sources():
            for path in sorted(Path(source.path).rglob("*.yaml")) if source.scheme() == "file" else ():
                try:
                    path.read_text(encoding="utf-8")
                except UnicodeDecodeError:
                    return f"{path} is not text in UTF-8"
        return _line(error)


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
    options = set(re.findall(r"--[\w-]+", parser.format_usage()))
    if near := difflib.get_close_matches(option, options, 1, 0.75):
        raise ConfigError(f"unknown option {option}; did you mean {near[0]}?")
    if not option.startswith("--"):
        raise ConfigError(f"unknown option {option}; the options are {', '.join(sorted(options))}")
    value = value or next((after for before, after in pairwise(argv) if before == option), "...")
    key = option.strip("-").replace("-", "_")
    known = [*schema.READ, *GROUPS]
    key = key if key in known else keys.suggestion(key, known) or key
    raise ConfigError(f"unknown option {option}; keys are written without dashes, {key}={value}")


def _unreadable(override: str, error: HydraException) -> str:
    """The message about an override that does not follow Hydra's grammar."""
    key, equals, value = override.partition("=")
    if not equals:
        return f"{override} is no override: write key=value, such as policy=onecycle"
    if not re.fullmatch(r"(\+\+?|~)?[\w$/@.:-]+", key):
        return f"{override} cannot be read: {key!r} is not the name of a key"
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
    return f"{override} cannot be read: {_line(error)}"


def _mistake_in_value(override: Override, config: Any) -> str | None:
    """What is wrong with an override of one value in a config, or of several values in one node."""
    key, typed = override.key_or_group, override.input_line or ""
    if override.package:
        return f"{typed}: {key} is no group, so @{override.package} means nothing"
    value = typed.partition("=")[2]
    within = override.value()
    inner = [(one, str(v)) for one, v in keys.leaves(within, key)] if isinstance(within, dict) else [(key, value)]
    with suppress(OmegaConfBaseException):
        for one, given in inner:
            if (above := next((place for place in _above(one) if _is_value(config, place)), None)) is not None:
                return f"{typed}: {above} is a single value ({OmegaConf.select(config, above)}), which has no keys"
            if not _has(config, one) and not override.is_add() and not override.is_force_add():
                return _unknown(one, given, config, deleted=typed if override.is_delete() else None)
        if override.is_add() and _has(config, key):
            return f"{typed}: {key} is there already, write {key}={value}"
        if override.is_delete() and override.value() is not None:
            return f"{typed}: {key} is {OmegaConf.select(config, key)}, write ~{key}"
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
        return f"{line}; another one that {target} takes is typed with a +: +{key}={value}"
    # A node such as hydra.job.env_set takes any key.
    inside = OmegaConf.select(config, key.rpartition(".")[0]) if top == "hydra" else None
    if isinstance(inside, DictConfig) and OmegaConf.get_type(inside) is dict:
        return f"{key} is not there yet, it is added with a +: +{key}={value}"
    return line


def _above(key: str) -> Iterator[str]:
    """The nodes that contain a key."""
    parts = key.split(".")
    return (".".join(parts[:length]) for length in range(1, len(parts)))


def _is_value(config: Any, key: str) -> bool:
    """Whether a config has a key whose value has no keys of its own."""
    return (node := OmegaConf.select(config, key)) is not None and not OmegaConf.is_config(node)


def _has(config: Any, key: str) -> bool:
    """Whether a config has a key, even with null or ??? as its value."""
    node, _, leaf = key.rpartition(".")
    inside = OmegaConf.select(config, node) if node else config
    # `in` on the node itself is false for a value of ???.
    return isinstance(inside, DictConfig) and leaf in list(inside)


def _line(error: BaseException) -> str:
    """An exception of Hydra, OmegaConf or YAML in one line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"{error.problem_mark.name}, line {error.problem_mark.line + 1}: {error.problem}"
    if isinstance(error, OverrideParseException):
        reason = str(error).removeprefix(f"Error parsing override '{error.override}'")
        return " ".join(reason.partition("See https")[0].split())
    if isinstance(error, InstantiationException) and (
        found := re.search(r"unexpected keyword argument '(\w+)'.*full_key: ([\w.]+)", str(error), re.DOTALL)
    ):
        return keys.unknown(f"{found[2]}.{found[1]}", [f"{found[2]}.{key}" for key in OF_A_SWEEPER])
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
