"""Requests as a reviewer reads them: JSON files beside the tests, and a test that fails when they change."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).with_name("requests")


def same_as_written(name: str, requests: Any) -> None:
    """Compare with ``requests/<name>.json``; with SLIMLINE_WRITE_GOLDEN=1 write it instead."""
    path = FOLDER / f"{name}.json"
    text = json.dumps(requests, indent=2, sort_keys=True) + "\n"
    if os.environ.get("SLIMLINE_WRITE_GOLDEN"):
        FOLDER.mkdir(exist_ok=True)
        path.write_text(text)
    assert json.loads(path.read_text()) == json.loads(text), f"{path.name} holds other requests"
