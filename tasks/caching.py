"""When a stage may be skipped: the key is what was asked for, never where or when it ran.

A key covers the identity of the inputs (digests and recipes, ``contracts.identity``), the code that computes the
stage, the numerical libraries' versions and the class of device. Its parts are written beside the results, so that
``slimline why STAGE`` can say which part changed. A hit is trusted only while the artifacts it names are in the
store with the bytes they had: otherwise the record is dropped and the stage runs again. Failures are never cached
(Prefect keeps only completed results).
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from prefect.cache_policies import CachePolicy
from prefect.context import TaskRunContext
from prefect.runtime import flow_run
from prefect.settings import get_current_settings
from prefect.transactions import get_transaction

from tasks.adapters.store import Store
from tasks.contracts import identity
from tasks.device_kind import device_class
from tasks.settings import settings
from tasks.sourcecode import code_digest

LIBRARIES = ("torch", "transformers", "compressed-tensors", "numpy", "numba", "tokenizers", "onnx", "onnxruntime")
_apart: ContextVar[str] = ContextVar("apart", default="")


@dataclass
class StageKey(CachePolicy):
    """Cache policy of one stage. ``modules`` are where its mathematics starts; their imports are followed."""

    stage: str = ""
    modules: tuple[str, ...] = ()

    def compute_key(
        self, task_ctx: TaskRunContext, inputs: dict[str, Any], flow_parameters: dict[str, Any], **kwargs: Any
    ) -> str:
        parts = {
            "inputs": {name: identity(value) for name, value in sorted(inputs.items())},
            "code": code_digest(self.modules),
            "libraries": {name: _version(name) for name in LIBRARIES},
            "device": device_class(),
            **self.more(inputs),
            **({"apart": salt} if (salt := _apart.get()) else {}),
        }
        key = f"{self.stage}-{hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:40]}"
        _drop_if_damaged(key)
        if salt:
            return key  # not one that `slimline why` should compare the next run with
        run = getattr(task_ctx, "task_run", None)  # there is none where a key is computed outside a run
        _record(self.stage, key, parts, None if run is None else str(run.id))
        return key

    def more(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Further parts of the key, by name; for a stage whose result depends on more than the above."""
        return {}


@contextmanager
def apart(part: str) -> Iterator[None]:
    """Inside, no stage is answered from the cache of other runs, nor do its results answer theirs. The same flow run
    that is started again, with the same ``part``, still finds its own.
    """
    token = _apart.set(f"{flow_run.id}{part}")
    try:
        yield
    finally:
        _apart.reset(token)


@functools.cache
def _version(library: str) -> str:
    return installed_version(library)


def results_folder() -> Path:
    """Where Prefect keeps the results that are looked up by key."""
    return Path(get_current_settings().results.local_storage_path)


def _drop_if_damaged(key: str) -> None:
    record = results_folder() / key
    if not record.exists():
        return
    store = Store(settings().store)
    try:
        handles = list(_handles(json.loads(json.loads(record.read_text())["result"])))
    except (ValueError, KeyError, TypeError):  # torn by a crash, or written by another serializer
        record.unlink(missing_ok=True)
        return
    if not all(store.holds(uri, digest) for uri, digest in handles):
        record.unlink(missing_ok=True)


def _handles(value: Any) -> Iterator[tuple[str, str]]:
    """Every (uri, digest) pair inside a stored result."""
    if isinstance(value, dict):
        if isinstance(value.get("uri"), str) and isinstance(value.get("digest"), str):
            yield value["uri"], value["digest"]
        for item in value.values():
            yield from _handles(item)
    elif isinstance(value, list):
        for item in value:
            yield from _handles(item)


def _record(stage: str, key: str, parts: dict[str, Any], run: str | None) -> None:
    """Note what a task run asked for. A retry of the same task run asks again and is noted once."""
    if run is not None and run in {noted.get("run") for noted in _recorded(stage)[-1:]}:
        return
    folder = settings().keys
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{stage}.jsonl").open("a") as log:
        log.write(json.dumps({"key": key, "parts": parts, "run": run}, sort_keys=True) + "\n")


def stage_key() -> str | None:
    """The key of the stage that runs now; none outside a cached task."""
    transaction = get_transaction()
    return None if transaction is None else transaction.key


def why(stage: str) -> list[str]:
    """Which parts of ``stage``'s key changed between the last two runs, one line each; empty when the key is the
    same.
    """
    runs = _recorded(stage)
    if not runs:
        return [f"{stage} has not run yet"]
    if len(runs) == 1:
        return [f"{stage} has run once: there is no earlier run to compare with"]
    return _changed(runs[-2], runs[-1])


def differences(stage: str, old: str, new: str) -> list[str]:
    """Which parts two recorded keys differ in, one line each; empty when one of them was not recorded."""
    runs = {run["key"]: run for run in _recorded(stage)}
    return _changed(runs[old], runs[new]) if old in runs and new in runs else []


def _recorded(stage: str) -> list[dict[str, Any]]:
    log = settings().keys / f"{stage}.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def _changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    old, new = _flatten(before["parts"]), _flatten(after["parts"])
    return [
        f"{name}: {old.get(name, 'absent')} → {new.get(name, 'absent')}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for name, item in value.items() for k, v in _flatten(item, f"{prefix}{name}.").items()}
    return {prefix.rstrip("."): value}
