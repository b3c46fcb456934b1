"""Whether MLflow is there, asked without importing MLflow: that takes longer than the answer."""

from __future__ import annotations

import urllib.error
import urllib.request


def reachable(tracking_uri: str, seconds: float = 3.0) -> bool:
    """Whether an MLflow server answers there now. MLflow's own client would try for minutes before it says no."""
    try:
        with urllib.request.urlopen(f"{tracking_uri.rstrip('/')}/health", timeout=seconds) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False
