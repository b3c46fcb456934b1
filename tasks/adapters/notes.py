"""Small files that several processes read and write: whole, or as they were."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` in one step; its folder is made where it is absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{uuid.uuid4().hex}")
    part.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    part.replace(path)


def read_json(path: Path) -> Any:
    """What the file says; none where there is no file, or where a damaged disk has torn it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
