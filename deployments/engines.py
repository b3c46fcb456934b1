"""Engine environments ahead of time: what a run would otherwise build when it first needs one."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from tasks.adapters.engine_kinds import ENGINES, EVALUATORS, Engine, check_engine_place
from tasks.adapters.engines import build_environment, environment_bytes, find_environment, read_constraints
from tasks.adapters.sagemaker_sdk import SDK
from tasks.errors import RefusedRecipe


def _known() -> dict[str, Engine]:
    """Every environment that can be built: engines that a recipe can choose, evaluators, and the SageMaker SDK."""
    return {**ENGINES, **EVALUATORS, SDK.name: SDK}


def build_engine(name: str, home: Path, console: Console) -> None:
    """Build the environment of the engine ``name`` below ``home``, saying how far it is.

    Raises:
        RefusedRecipe: there is no such engine, or it cannot be built on this machine.
        EngineNotBuilt: pip could not install its packages.
    """
    known = _known()
    if name not in known:
        raise RefusedRecipe(
            "there is no such engine", observed=name, limit=", ".join(known), remedy="choose one of these"
        )
    engine = known[name]
    check_engine_place(engine)
    packages = len(read_constraints(engine.constraints))
    if find_environment(engine, home) is None:
        console.print(f"{name}: {packages} packages, about {engine.gigabytes:g} GB and {engine.minutes} minutes")
    with console.status("downloading") as status:
        build_environment(
            engine, home, lambda done: status.update(f"{done} of {packages} packages installed" if done else None)
        )


def engine_rows(home: Path) -> list[dict[str, str]]:
    """One row an engine: what it does, its main packages with their versions, and its environment."""
    return [_row(engine, home) for engine in _known().values()]


def _row(engine: Engine, home: Path) -> dict[str, str]:
    pins, found = read_constraints(engine.constraints), find_environment(engine, home)
    return {
        "engine": engine.name,
        "prunes": ", ".join(engine.prunes) or "–",
        "quantizes": ", ".join(engine.quantizes) or ("evaluates" if engine.name in EVALUATORS else "–"),
        "version": next((pins[name] for name in engine.packages if name in pins), "–"),
        "transformers": pins.get("transformers", "–"),
        "environment": f"built, {environment_bytes(found) / 1e9:.1f} GB" if found else f"about {engine.gigabytes:g} GB",
    }
