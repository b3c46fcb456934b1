"""How fast one form of a model decodes in this process: torch, ONNX Runtime or llama.cpp (``benchmarks.decode``)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

WARM_STEPS = 4

Feed = Callable[[Any], Any]  # takes int64 (1, length), appends it to the text


@dataclass(frozen=True)
class Speed:
    """One variant: tokens a wall and a CPU second, bytes of its folder and resident, seconds to load it."""

    variant: str
    decode_per_wall_s: float
    decode_per_cpu_s: float
    prefill_per_wall_s: float
    prefill_per_cpu_s: float
    folder_bytes: int
    resident_bytes: int
    load_s: float


def measure_speed(variant: str, kind: str, folder: Path, tokens: Any, steps: int, threads: int) -> Speed:
    """Load ``folder``, read ``tokens`` (1, length) twice and go on for ``steps`` tokens; the better prefill counts."""
    import psutil

    started = time.perf_counter()
    begin = {"torch": _torch, "onnx": _onnx, "gguf": _gguf}[kind](folder, threads, tokens.shape[1] + steps)
    loaded = time.perf_counter() - started
    prefills, decodes = [], []
    for _ in range(2):
        feed = begin()
        prefills.append(_timed(feed, tokens))
    for step in range(steps):
        decodes.append(_timed(feed, tokens[:, step % tokens.shape[1]][:, None]))
    walls, cpus = zip(*decodes[WARM_STEPS:], strict=True)
    length = tokens.shape[1]
    return Speed(
        variant,
        round(1 / median(walls), 2),
        round(1 / median(cpus), 2),
        round(length / min(wall for wall, _ in prefills), 1),
        round(length / min(cpu for _, cpu in prefills), 1),
        sum(path.stat().st_size for path in ([folder] if folder.is_file() else folder.rglob("*")) if path.is_file()),
        psutil.Process().memory_info().rss,
        round(loaded, 2),
    )


def _timed(feed: Feed, tokens: Any) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    feed(tokens)
    return time.perf_counter() - wall, time.process_time() - cpu


def _torch(folder: Path, threads: int, capacity: int) -> Callable[[], Feed]:
    import torch

    from tasks.serving.generator import Generator

    torch.set_num_threads(threads)
    model = Generator(folder).model

    def begin() -> Feed:
        past: list[Any] = [None]

        def feed(tokens: Any) -> None:
            with torch.inference_mode():
                # As generate does: logits of the last position only.
                output = model(
                    input_ids=torch.from_numpy(tokens), past_key_values=past[0], use_cache=True, logits_to_keep=1
                )
            past[0] = output.past_key_values

        return feed

    return begin


def _onnx(folder: Path, threads: int, capacity: int) -> Callable[[], Feed]:
    import numpy as np

    from tasks.serving.onnx_session import Cache, OnnxDecoder

    decoder = OnnxDecoder(folder, threads)

    def begin() -> Feed:
        cache = Cache(decoder, 1, capacity)

        def feed(tokens: Any) -> None:
            if tokens.shape[1] == 1:
                cache.step(tokens[:, 0], np.array([True]))
            else:
                list(cache.prefill(0, tokens[0]))

        return feed

    return begin


def _gguf(file: Path, threads: int, capacity: int) -> Callable[[], Feed]:
    from llama_cpp import Llama

    model = Llama(str(file), n_ctx=capacity, n_threads=threads, n_threads_batch=threads, verbose=False)

    def begin() -> Feed:
        model.reset()
        return lambda tokens: model.eval(tokens[0].tolist())

    return begin
