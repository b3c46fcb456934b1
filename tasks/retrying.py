"""Which failures deserve another try. Deterministic ones do not: they would fail again and hide the cause for
longer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import httpx
from prefect import task
from prefect.cache_policies import NO_CACHE, CachePolicy
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from tasks.errors import SlimlineError, is_out_of_memory

NETWORK_DELAYS = [2, 10, 30]  # seconds; long enough for a server's restart
COMPUTE_DELAYS = [5]

P = ParamSpec("P")
R = TypeVar("R")


def is_transient(error: BaseException) -> bool:
    """True for what time may mend: lost connections, throttling, a full disk, lack of memory."""
    if isinstance(error, SlimlineError):
        return error.transient
    if isinstance(error, (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)):
        return False
    if is_out_of_memory(error):
        return True
    if isinstance(error, (ValueError, TypeError, KeyError, AssertionError)):
        return False
    return isinstance(error, OSError) or _is_remote(error)


def _is_remote(error: BaseException) -> bool:
    from botocore.exceptions import BotoCoreError, ClientError
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code = error.response.get("Error", {}).get("Code", "")
        return (status >= 500 and status != 501) or status == 429 or "Throttl" in code
    if isinstance(error, MlflowException):
        return error.get_http_status_code() >= 500 or "API request to" in str(error)
    return isinstance(error, (BotoCoreError, RequestException, httpx.TransportError))


def transient_only(task: Task[Any, Any], run: TaskRun, state: State[Any]) -> bool:
    """``retry_condition_fn`` of every task."""
    try:
        state.result()
    except BaseException as error:  # noqa: BLE001 - it is looked at, not handled
        return is_transient(error)
    return False


def network_task(run_name: str, *, cache_policy: CachePolicy = NO_CACHE) -> Callable[[Callable[P, R]], Task[P, R]]:
    """A task that talks to a server: several tries, further and further apart, on transient errors only."""
    return _decorator(run_name, cache_policy, NETWORK_DELAYS)


def compute_task(run_name: str, *, cache_policy: CachePolicy) -> Callable[[Callable[P, R]], Task[P, R]]:
    """A task that computes: one more try when memory or disk ran out, none when the numbers were wrong."""
    return _decorator(run_name, cache_policy, COMPUTE_DELAYS)


def _decorator(run_name: str, cache_policy: CachePolicy, delays: list[int]) -> Callable[[Callable[P, R]], Task[P, R]]:
    def decorate(function: Callable[P, R]) -> Task[P, R]:
        make: Callable[[Callable[P, R]], Task[P, R]] = task(
            name=function.__name__.replace("_", "-"),
            task_run_name=run_name,
            cache_policy=cache_policy,
            retries=len(delays),
            retry_delay_seconds=[float(delay) for delay in delays],
            retry_condition_fn=transient_only,
            # Said here and not only in a setting: Prefect's default is to pickle.
            persist_result=True,
            result_serializer="json",
        )
        return make(function)

    return decorate
