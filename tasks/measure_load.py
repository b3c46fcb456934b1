"""Latency and throughput of both models under load, as a stage."""

from __future__ import annotations

from tasks.adapters.serving_load import Level, Served, serve, under_load
from tasks.adapters.store import Store
from tasks.adapters.tokens import read_dataset
from tasks.caching import StageKey
from tasks.contracts import DatasetRef, ModelRef
from tasks.evidence_contracts import LoadFigure, LoadFigures
from tasks.retrying import compute_task
from tasks.settings import settings
from tasks.workbench import Progress, open_model

MODULES = ("tasks.measure_load", "tasks.adapters.serving_load", "tasks.serving.container", "tasks.serving.generator")
NEW_TOKENS = 32


@compute_task("load-{served.name}", cache_policy=StageKey(stage="load", modules=MODULES))
def measure_load(
    served: ModelRef, baseline: ModelRef, data: DatasetRef, concurrency: tuple[int, ...], requests: int
) -> LoadFigures:
    """Serve both by the inference container, beside each other on this machine, and ask each in turn at every level:
    what slows the machine down meanwhile slows both.
    """
    prompts = read_dataset(Store(settings().store).open(data.uri, data.digest)).splits.prompts
    progress, figures = Progress("load"), []
    threads = settings().threads
    with serve(open_model(baseline), threads) as original, serve(open_model(served), threads) as candidate:
        sides: tuple[tuple[str, Served], ...] = (("original", original), ("candidate", candidate))
        for _, server in sides:
            under_load(server, prompts, 1, 1, NEW_TOKENS)  # the first request touches every page; not counted
        for number, level in enumerate(concurrency, start=1):
            for side, server in sides if number % 2 else sides[::-1]:
                found = under_load(server, prompts, level, max(requests, level), NEW_TOKENS)
                figures.append(_figure(side, found))
            progress.show(number / len(concurrency), f"{level} requests at a time")
    return LoadFigures(levels=tuple(sorted(figures, key=lambda each: (each.concurrency, each.side != "original"))))


def _figure(side: str, found: Level) -> LoadFigure:
    return LoadFigure(
        side="original" if side == "original" else "candidate",
        concurrency=found.concurrency,
        requests=found.requests,
        failed=found.failed,
        first_token_p50_ms=found.quantile("first", 0.5),
        first_token_p90_ms=found.quantile("first", 0.9),
        per_token_p50_ms=found.quantile("token", 0.5),
        per_token_p90_ms=found.quantile("token", 0.9),
        tokens_per_second=found.tokens / found.seconds if found.seconds else 0.0,
        peak_bytes=found.peak_bytes,
    )
