"""Traffic for a rehearsal: held-out prompts at the plan's rate while a block runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.runtime import flow_run

from tasks.adapters.sagemaker import SageMaker
from tasks.adapters.store import Store
from tasks.adapters.tokens import read_dataset
from tasks.contracts import DatasetRef
from tasks.plans import ReleasePlan
from tasks.serving.traffic import send_traffic
from tasks.settings import settings


@contextmanager
def rehearsal(cloud: SageMaker, plan: ReleasePlan, data: DatasetRef) -> Iterator[None]:
    """Send held-out prompts while the block runs, at the plan's rate. On AWS the plan has no rate: real users are
    the traffic.
    """
    if plan.rehearsal.requests_per_second == 0 or not cloud.describe_rehearsal():
        yield
        return
    store = Store(settings().store)
    prompts = read_dataset(store.open(data.uri, data.digest)).splits.prompts
    stop = threading.Event()
    sender = threading.Thread(
        target=send_traffic,
        kwargs={
            "send": lambda prompt: cloud.send(plan.endpoint, prompt, plan.payload),
            "prompts": prompts,
            "rate": plan.rehearsal.requests_per_second,
            "stop": stop,
            "max_seconds": 1800.0,
        },
        name=f"rehearsal-{flow_run.name}",
        daemon=True,
    )
    sender.start()
    try:
        yield
    finally:
        stop.set()
        sender.join(timeout=60)
