"""The modules of a checkout, their imports and their classes, read without running any."""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

OURS = ("onecycle_sweeps", "hydra_plugins")
When = Literal["load", "call", "typing"]


@dataclass(frozen=True)
class Import:
    """One import: `when` tells whether it runs as the module loads, in a call, or only for the type checker."""

    importer: str
    target: str
    when: When


class House:
    """The modules below some folders of `root`; raises SyntaxError for one that does not parse."""

    def __init__(self, root: Path, folders: Sequence[str] = OURS) -> None:
        files = sorted(path.relative_to(root) for name in folders for path in (root / name).rglob("*.py"))
        self.folders = folders
        self.files = {_dotted(path): path for path in files}
        self.trees = {name: ast.parse((root / path).read_text()) for name, path in self.files.items()}
        self.imports = [
            Import(name, target, when)
            for name, tree in self.trees.items()
            for target, when in self._read(self.files[name], tree, "load")
        ]

    def _read(self, path: Path, node: ast.AST, when: When) -> Iterator[tuple[str, When]]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, when
        elif isinstance(node, ast.ImportFrom):
            package = path.parent.parts[: len(path.parent.parts) + 1 - node.level] if node.level else ()
            module = ".".join((*package, *filter(None, [node.module])))
            for alias in node.names:
                whole = f"{module}.{alias.name}"
                yield (whole if whole in self.files else module), when
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from (found for child in node.body for found in self._read(path, child, "typing"))
            yield from (found for child in node.orelse for found in self._read(path, child, when))
        else:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and when == "load":
                when = "call"
            yield from (found for child in ast.iter_child_nodes(node) for found in self._read(path, child, when))

    @cached_property
    def within(self) -> list[Import]:
        """The imports from one module of ours to another."""
        return [found for found in self.imports if found.target in self.files or self._is_ours(found.target)]

    @property
    def classes(self) -> Iterator[tuple[str, str]]:
        """Each class with the module that defines it, as (class, module)."""
        for module, tree in self.trees.items():
            yield from ((node.name, module) for node in ast.walk(tree) if isinstance(node, ast.ClassDef))

    def only_forwards(self, module: str) -> bool:
        """Whether a module defines nothing, and imports what others then import from it."""
        imports, others = [], []
        for node in self.trees[module].body:
            is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            is_alias = isinstance(node, ast.Assign) and isinstance(node.value, ast.Name | ast.Attribute | ast.List)
            if isinstance(node, ast.Import | ast.ImportFrom):
                imports.append(node)
            elif not is_docstring and not is_alias:
                others.append(node)
        return bool(imports) and not others

    def _is_ours(self, module: str) -> bool:
        return module.split(".")[0] in self.folders

    def loaded_with(self, module: str, seen: frozenset[str] = frozenset()) -> frozenset[str]:
        """All modules that loading `module` loads: those it imports, theirs, and the packages that hold them."""
        if module in seen:
            return seen
        seen |= {module}
        above = [module.rpartition(".")[0]] if "." in module and self._is_ours(module) else []
        imported = [found.target for found in self.imports if found.importer == module and found.when == "load"]
        for target in above + imported:
            seen = self.loaded_with(target, seen)
        return seen


def _dotted(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
