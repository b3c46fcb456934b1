"""How many tokens a second a live endpoint decodes: real requests, several at once, timed from outside."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle, islice

from tasks.errors import SlimlineError


class NoRate(SlimlineError):
    """The endpoint's answers do not show a rate."""


@dataclass(frozen=True)
class LiveRate:
    """``tokens_per_second`` of one instance; ``tokens`` answered in ``seconds`` by all of them together."""

    tokens_per_second: float
    tokens: int
    seconds: float
    concurrency: int
    instances: int


def live_rate(
    ask: Callable[[str], str],
    count: Callable[[str], int],
    prompts: Sequence[str],
    *,
    requests: int,
    concurrency: int,
    instances: int,
) -> LiveRate:
    """Ask ``requests`` prompts, ``concurrency`` at a time (closed loop: the next leaves when one has come back), after
    one that is not timed. Reading the prompt and the way there and back are in the time, as they are in the bill.

    Args:
        ask: sends one prompt and returns the new text; errors are not caught, a failed measurement is none.
        count: tokens of a text, by the model's own tokenizer.
        instances: that share the requests.

    Raises:
        NoRate: not one token came back.
    """
    ask(prompts[0])
    began = time.perf_counter()
    with ThreadPoolExecutor(concurrency) as pool:
        answers = list(pool.map(ask, islice(cycle(prompts), requests)))
    seconds = time.perf_counter() - began
    tokens = sum(map(count, answers))
    if not tokens:
        raise NoRate(
            "the endpoint answered without a token",
            observed=f"{requests} answers, all empty",
            limit="at least one token",
            remedy="look at what it answers: slimline status, and its log",
        )
    return LiveRate(tokens / seconds / instances, tokens, seconds, concurrency, instances)
