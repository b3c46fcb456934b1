"""A digest of the first-party code that a stage's result depends on.

Prefect's own ``TASK_SOURCE`` sees only the task's lines; the mathematics lies in other modules. Here the imports
are followed through ``tasks.compression`` and the numeric adapters, and each file is reduced to its syntax tree
without docstrings, so that a change of wording or layout recomputes nothing and a change of meaning always does.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Iterable
from pathlib import Path

FOLLOWED = ("tasks.compression.", "tasks.adapters.tokens", "tasks.adapters.texts")


def code_digest(modules: Iterable[str], followed: tuple[str, ...] = FOLLOWED) -> str:
    """Hex SHA-256 over the syntax of ``modules`` and of everything below ``followed`` that they import."""
    digest = hashlib.sha256()
    for name in sorted(_closure(modules, followed)):
        digest.update(name.encode())
        digest.update(_syntax(name).encode())
    return digest.hexdigest()


def _closure(modules: Iterable[str], followed: tuple[str, ...]) -> set[str]:
    seen: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += [other for other in _imports(name) if other.startswith(followed) and _is_module(other)]
    return seen


def _path(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{name} has no source file, so its digest cannot be taken", name=name)
    return Path(spec.origin)


def _imports(name: str) -> set[str]:
    """Every dotted name that an import statement could mean; some are functions, not modules."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(_path(name).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the parent is a module and no package: a name inside it
        return False


def _syntax(name: str) -> str:
    tree = ast.parse(_path(name).read_text())
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            node.body = [statement for statement in node.body if not _is_text(statement)]
    return ast.dump(tree)


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
