"""A digest of the first-party code that a stage's result depends on.

Prefect's own ``TASK_SOURCE`` sees only the task's lines; the mathematics lies in other modules. Here the imports
are followed through ``tasks.compression`` and the numeric adapters, and each file is reduced to its syntax tree
without docstrings, so that a change of wording or layout recomputes nothing and a change of meaning always does.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
from collections.abc import Iterable
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import NamedTuple

FOLLOWED = ("tasks.compression.", "tasks.adapters.tokens", "tasks.adapters.texts")


class _Source(NamedTuple):
    """``imports``: every dotted name that an import statement could mean; some are functions, not modules."""

    imports: frozenset[str]
    syntax: str


def code_digest(modules: Iterable[str], followed: tuple[str, ...] = FOLLOWED) -> str:
    """Hex SHA-256 over the syntax of ``modules`` and of everything below ``followed`` that they import."""
    digest = hashlib.sha256()
    for name in sorted(_closure(modules, followed)):
        digest.update(name.encode())
        digest.update(_source(name).syntax.encode())
    return digest.hexdigest()


def _closure(modules: Iterable[str], followed: tuple[str, ...]) -> set[str]:
    seen: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += [other for other in _source(name).imports if other.startswith(followed) and _spec(other)]
    return seen


def _source(name: str) -> _Source:
    spec = _spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{name} has no source file, so its digest cannot be taken", name=name)
    seen = Path(spec.origin).stat()
    return _read(spec.origin, seen.st_mtime_ns, seen.st_size)


@functools.cache
def _spec(name: str) -> ModuleSpec | None:
    """Where a module is, without importing the packages it lies in; None where the name is something in a module."""
    top, *parts = name.split(".")
    spec, path = importlib.util.find_spec(top), top
    for part in parts:
        if spec is None or spec.submodule_search_locations is None:
            return None
        path = f"{path}.{part}"
        spec = PathFinder.find_spec(path, spec.submodule_search_locations)
    return spec


@functools.lru_cache(maxsize=512)
def _read(file: str, changed: int, size: int) -> _Source:
    """Of a file as it was then: several stages depend on the same ones."""
    tree = ast.parse(Path(file).read_text())
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            node.body = [statement for statement in node.body if not _is_text(statement)]
    return _Source(frozenset(found), ast.dump(tree))


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
