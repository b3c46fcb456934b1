"""What the process of a flow run changes in Prefect's engine (``deployments/engine.py``)."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from prefect import flow_engine

from deployments.engine import end_at_once


class Engine:
    """What Prefect's heartbeats ask of its engine."""

    heartbeat_seconds = 60
    flow_run = None
    logger = flow_engine.get_logger("heartbeats")

    def __init__(self) -> None:
        self.sent = threading.Event()

    def _build_heartbeat_event_template(self) -> tuple[Any, Any]:
        return {}, []

    def _emit_flow_run_heartbeat(self, resource: Any, related: Any) -> None:
        self.sent.set()


@pytest.mark.parametrize(("at_once", "left"), [(False, 0), (True, 1)])
def test_a_flow_ends_without_waiting_for_the_thread_of_its_heartbeats(
    at_once: bool, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first half says that Prefect still waits: once it does not, ``end_at_once`` can go."""
    monkeypatch.setattr(flow_engine, "_send_heartbeats", flow_engine._send_heartbeats)
    if at_once:
        end_at_once()
    engine, before = Engine(), set(threading.enumerate())
    with flow_engine._send_heartbeats(engine):  # type: ignore[arg-type]
        assert engine.sent.wait(20), "a heartbeat was sent while the flow ran"
    assert len(set(threading.enumerate()) - before) == left


def test_a_prefect_without_such_a_thread_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(flow_engine, "_send_heartbeats")
    end_at_once()
    assert not hasattr(flow_engine, "_send_heartbeats")
