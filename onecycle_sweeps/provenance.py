"""What made a result: versions, the git commit, and the code that a config names, with everything that it imports.

Source files are read, never run. Libraries are identified by version. The user's own modules are identified by the
content of their files: in the working folder, in that of a config, or in an editable installation. So are the modules
of this program that every trial runs, unless the program is installed as a library.
"""

import ast
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import platform
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from onecycle_sweeps.config import keys
from onecycle_sweeps.terminal import first_few

PROGRAM, DISTRIBUTION = "onecycle_sweeps", "onecycle-sweeps"
# The function that every trial runs, whatever its config names.
TRAINING = f"{PROGRAM}.trial.run"
PACKAGES = (DISTRIBUTION, "torch", "torchvision", "timm")
LIBRARY_FOLDERS = {"site-packages", "dist-packages"}
IMPORTING_CALLS = ("import_module", "__import__")
# How many changed files or keys a message names.
NAMED = 3
# The hashes of the user's files when this process last read them.
_seen: dict[str, str] = {}


@dataclass(frozen=True)
class Code:
    """The code behind a config.

    targets: for each `_target_` a hash of all its files, or the version of the library that it belongs to.
    files: the hash of each file, by its path below the folder where Python finds it, such as `mine/nets.py`.
    behind: the files of each target.
    libraries: the versions of the libraries that these files import, without Python's own.
    """

    targets: dict[str, str]
    files: dict[str, str]
    behind: dict[str, tuple[str, ...]]
    libraries: dict[str, str]


@dataclass(frozen=True)
class Change:
    """What differs between two records: the names of files and targets, and a phrase for each version."""

    code: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.code or self.versions)

    def __str__(self) -> str:
        """A phrase such as `layers.py changed, torch was 2.5.0 and is 2.6.0`."""
        code = [f"{first_few(self.code, NAMED)} changed"] if self.code else []
        return ", ".join([*code, *self.versions])


def versions() -> dict[str, str]:
    """The installed versions of this package and of torch, without importing them."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def code_of_trial(config: Any) -> Code:
    """The code behind a trial's result: what its config names, and this program's own unless it is installed."""
    return code_of(config, *([TRAINING] if program_modules() else []))


def code_of(config: Any, *more: str) -> Code:
    """The code behind each `_target_` of a config and behind `more` targets, as it is on disk."""
    importlib.invalidate_caches()
    search = _Search()
    behind = {
        target: list(program_modules()) if target == TRAINING else search.behind(target)
        for target in (*targets(config), *more)
    }
    files = {module.label: module.digest for modules in behind.values() for module in modules}
    return Code(
        targets={target: _hash(target, modules) for target, modules in behind.items()},
        files=dict(sorted(files.items())),
        behind={target: tuple(module.label for module in modules) for target, modules in behind.items()},
        libraries=_versions_of(search.libraries),
    )


@functools.cache
def program_modules() -> tuple["_Module", ...]:
    """The modules of this program that every trial runs; none if it is installed, and its version identifies it.

    They are read once per process, which goes on running what it has imported when files change.
    """
    modules = tuple(_Search().behind(TRAINING))
    for module in modules:
        _ = module.digest
    return modules


def as_record(code: Code) -> dict[str, Any]:
    """The code and the versions as they are recorded with a result."""
    return {"versions": versions() | code.libraries, "code": code.targets, "files": code.files}


def change(before: Mapping[str, Any], now: Mapping[str, Any]) -> Change:
    """What differs between two records; another version of this program counts as other code."""
    old, new = before.get("versions", {}), now.get("versions", {})
    phrases = {n: f"{n} was {old[n]} and is {new[n]}" for n in old if n in new and old[n] != new[n]}
    program = [phrases.pop(DISTRIBUTION)] if DISTRIBUTION in phrases else []
    return Change((*differing([before, now]), *program), tuple(phrases.values()))


def union(changes: Iterable[Change]) -> Change:
    """All changes in one, each file and version once."""
    changes = list(changes)
    return Change(
        tuple(dict.fromkeys(name for one in changes for name in one.code)),
        tuple(dict.fromkeys(phrase for one in changes for phrase in one.versions)),
    )


def differing(records: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """The files and targets that differ between any of these records; torch's own targets are left out."""
    records = list(records)
    files = _several(record.get("files", {}) for record in records)
    targets = _several(record.get("code", {}) for record in records)
    unexplained = (t for t, found in targets.items() if not files or all(" " in value for value in found))
    return (*files, *(t for t in unexplained if not all(value.startswith("torch ") for value in targets[t])))


def forget_changed_modules(code: Code) -> None:
    """Make this process import again the user's modules that have changed, and those that import them."""
    own = {file: digest for file, digest in code.files.items() if not file.startswith(f"{PROGRAM}/")}
    changed = {file for file, digest in own.items() if _seen.get(file, digest) != digest}
    stale = {file for files in code.behind.values() if changed.intersection(files) for file in files}
    for file in stale.intersection(own):
        module = sys.modules.pop(file.removesuffix(".py").removesuffix("/__init__").replace("/", "."), None)
        # Python would reuse the compiled file of a source with the same size and, in seconds, the same time.
        if file in changed and (compiled := getattr(module, "__cached__", None)):
            Path(compiled).unlink(missing_ok=True)
    _seen.update(own)


def targets(config: Any) -> tuple[str, ...]:
    """Each `_target_` of a config once, sorted."""
    return tuple(sorted({node["_target_"] for _, node in keys.targets(config)}))


def git_commit(folder: Path) -> str | None:
    """The commit of a folder's git checkout, ending in "-dirty" if files differ from it; None outside a checkout."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


@dataclass(frozen=True)
class _Module:
    """A module and its file, which a namespace package does not have; `folders` are those of a package."""

    name: str
    file: Path | None
    folders: tuple[str, ...]

    @property
    def label(self) -> str:
        assert self.file
        return self.name.replace(".", "/") + (f"/{self.file.name}" if self.folders else self.file.suffix)

    @functools.cached_property
    def content(self) -> bytes:
        try:
            return self.file.read_bytes() if self.file else b""
        except OSError:
            return b""

    @functools.cached_property
    def digest(self) -> str:
        return hashlib.sha256(self.content).hexdigest()[:12]

    @property
    def source(self) -> bytes:
        """Its Python code, if its file has any."""
        return self.content if self.file and self.file.suffix == ".py" else b""

    @property
    def is_own(self) -> bool:
        """Whether it belongs neither to Python nor to an installed library."""
        return any(map(_is_own, [self.file] if self.file else map(Path, self.folders)))

    @property
    def names(self) -> dict[str, str]:
        """The names that it binds, with the dotted name of what it imports, or its own name for what it defines."""
        return _names(self.source, self.name, bool(self.folders))

    @property
    def imports(self) -> set[str]:
        """The dotted names that it imports anywhere in its code."""
        return {dotted for _, dotted in _imports(self.source, self.name, bool(self.folders))}


class _Search:
    """Follows imports from file to file; each module is looked up once."""

    def __init__(self) -> None:
        self._known: dict[str, _Module | None] = {}
        # The libraries that the user's own code imports.
        self.libraries: set[str] = set()

    def behind(self, target: str) -> list[_Module]:
        """The modules behind a dotted name: its own, and the user's modules that it imports, directly or indirectly.

        Modules of this program are only followed from targets within this program.
        """
        found: dict[str, _Module] = {}
        within, left, seen = _top(target) == PROGRAM, [target], set[str]()
        while left:
            dotted = left.pop()
            if dotted in seen or (_top(dotted) == PROGRAM) is not within:
                continue
            seen.add(dotted)
            modules, rest = self._path(dotted)
            if not modules or not modules[0].is_own:
                if modules and not within and dotted != target:
                    self.libraries.add(modules[0].name)
                continue
            if within:
                # Packages of this program only re-export what their modules define.
                origin = modules[-1].names.get(rest, "") if modules[-1].folders else ""
                modules, left = ([], [*left, origin]) if origin not in ("", modules[-1].name) else (modules[-1:], left)
            elif rest and modules[-1].folders and rest not in modules[-1].names:
                left += _modules_below(modules[-1])
            for module in modules:
                if module.file and module.name not in found:
                    found[module.name] = module
                    left += module.imports
        return sorted(found.values(), key=lambda module: module.name)

    def _path(self, dotted: str) -> tuple[list[_Module], str]:
        """The modules along a dotted name, and the first part of the name that is not a module, or ""."""
        parts, modules = dotted.split("."), []
        for i, part in enumerate(parts):
            module = self._module(".".join(parts[: i + 1]), modules[-1].folders if modules else None)
            if module is None:
                return modules, part
            modules.append(module)
        return modules, ""

    def _module(self, name: str, folders: tuple[str, ...] | None) -> _Module | None:
        if name not in self._known:
            self._known[name] = _found(name, folders)
        return self._known[name]


def _found(name: str, folders: tuple[str, ...] | None) -> _Module | None:
    """The module with a name, found in the folders of its package without importing the package."""
    spec: ModuleSpec | None = None
    with suppress(ImportError, ValueError, AttributeError):
        if folders is None:
            spec = importlib.util.find_spec(name)
        elif folders:
            spec = PathFinder.find_spec(name.rpartition(".")[2], list(folders))
    if spec is None:
        return None
    file = Path(spec.origin) if spec.has_location and spec.origin else None
    return _Module(name, file, tuple(spec.submodule_search_locations or ()))


def _modules_below(package: _Module) -> Iterator[str]:
    """All modules of a package, for a name that the package does not provide by an import statement."""
    for folder in map(Path, package.folders):
        for path in (*folder.glob("*.py"), *(init.parent for init in folder.glob("*/__init__.py"))):
            if path.stem != "__init__":
                yield f"{package.name}.{path.stem}"


@functools.lru_cache(4096)
def _imports(content: bytes, name: str, is_package: bool) -> tuple[tuple[str, str], ...]:
    """The imports in a module's code: the name that each binds, and the full name of what it imports.

    Code that does not parse has none. Calls such as `import_module("name")` count if the name is a literal.
    """
    package = name if is_package else name.rpartition(".")[0]
    found: list[tuple[str, str]] = []
    for node in ast.walk(_parsed(content)):
        match node:
            case ast.Import(names=names):
                found += [(alias.asname or _top(alias.name), alias.name) for alias in names]
            case ast.ImportFrom(names=names):
                start = _absolute("." * node.level + (node.module or ""), package)
                found += [(alias.asname or alias.name, f"{start}.{alias.name}") for alias in names]
            case ast.Call(
                func=ast.Name(id=called) | ast.Attribute(attr=called), args=[ast.Constant(value=str(text)), *_]
            ):
                if called in IMPORTING_CALLS:
                    found.append(("", _absolute(text, package)))
    return tuple((bound, dotted) for bound, dotted in found if not dotted.startswith("."))


def _absolute(dotted: str, package: str) -> str:
    """The full form of a name relative to a package; one that leaves all packages is returned unchanged."""
    level = len(dotted) - len(dotted.lstrip("."))
    if not level:
        return dotted
    start = package.split(".")[: package.count(".") + 2 - level] if package else []
    return ".".join([*start, *filter(None, [dotted[level:]])]) if start else dotted


@functools.lru_cache(4096)
def _names(content: bytes, name: str, is_package: bool) -> dict[str, str]:
    nodes = list(ast.walk(_parsed(content)))
    made = {n.name for n in nodes if isinstance(n, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)}
    made |= {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return dict(_imports(content, name, is_package)) | dict.fromkeys(made, name)


def _parsed(content: bytes) -> ast.AST:
    with suppress(SyntaxError, ValueError, RecursionError):
        return ast.parse(content)
    return ast.Module([], [])


def _hash(target: str, modules: list[_Module]) -> str:
    if modules:
        text = "\n".join(f"{module.label} {module.digest}" for module in modules)
        return hashlib.sha256(text.encode()).hexdigest()[:12]
    top = _found(_top(target), None)
    if top is None or top.is_own:
        return "not found"
    return f"python {platform.python_version()}" if top.name in sys.stdlib_module_names else _version(top.name)


@functools.cache
def _version(top: str) -> str:
    """The distribution and the version of a top-level package; cached, since the search takes most of a second."""
    with suppress(importlib.metadata.PackageNotFoundError):
        return f"{top} {importlib.metadata.version(top)}"
    for distribution in importlib.metadata.packages_distributions().get(top, []):
        return f"{distribution} {importlib.metadata.version(distribution)}"
    return "unknown version"


def _versions_of(packages: Iterable[str]) -> dict[str, str]:
    """The versions of libraries by the names of their distributions, without Python's own."""
    found = (_version(package).rpartition(" ") for package in sorted(set(packages) - sys.stdlib_module_names))
    return {name: version for name, _, version in found if name != "unknown"}


def _is_own(path: Path) -> bool:
    place = path.resolve()
    return not LIBRARY_FOLDERS & set(place.parts) and not any(map(place.is_relative_to, _pythons_own()))


@functools.cache
def _pythons_own() -> tuple[Path, ...]:
    """The folders of Python's standard library."""
    return tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib"))


def _several(found: Iterable[Mapping[str, str]]) -> dict[str, set[str]]:
    """The keys with more than one value, and their values."""
    values: dict[str, set[str]] = {}
    for one in found:
        for key, value in one.items():
            values.setdefault(key, set()).add(value)
    return {key: known for key, known in values.items() if len(known) > 1}


def _top(dotted: str) -> str:
    return dotted.partition(".")[0]
