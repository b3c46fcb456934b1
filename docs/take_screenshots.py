"""Take the pictures of docs/images anew, of a stack that runs: ``slimline up``, ``slimline run tiny`` or ``demo``, then

    python docs/take_screenshots.py http://127.0.0.1:4310 http://127.0.0.1:4311 http://127.0.0.1:4312

with the addresses that ``up`` printed. It shows the newest run that has a report. Needs Chromium and the ``dev`` extra.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import httpx
from PIL import Image
from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.flows.browser import browser, choose, field, open_form, seen  # noqa: E402

IMAGES = ROOT / "docs" / "images"
COLOURS = 128  # pages of a user interface have few: the files are a third as big


def main(prefect: str, mlflow: str, endpoints: str) -> None:
    """One picture after the other; each is of the same run."""
    found = {key: newest(prefect, key) for key in ("outcome-gate", "report", "lineage", "verdict")}
    run_id = re.findall(r"/runs/([0-9a-f]{32})", found["report"]["data"])[0]
    with browser(1200, 900) as page:
        open_form(page, prefect, "tiny")
        choose(page, "Bits", "8")
        field(page, "Bits").evaluate("part => part.scrollIntoView({block: 'center'})")
        take(page, "prefect-form")

        show(page, f"{prefect}/runs/flow-run/{found['verdict']['flow_run_id']}", 1350)
        seen(page, page.get_by_text("prune-layers"), "Artifacts")
        take(page, "prefect-run")
        show(page, f"{prefect}/artifacts/artifact/{found['outcome-gate']['id']}", 1500)
        take(page, "verdict")
        show(page, f"{prefect}/artifacts/artifact/{found['lineage']['id']}", 900)
        take(page, "lineage")
        show(page, f"{mlflow}/#/experiments/1/runs/{run_id}?workflowType=machine_learning", 1150)
        seen(page, page.get_by_text("Prefect run"))
        assistant = page.get_by_role("button", name="Close")
        if assistant.count():
            assistant.first.click()
        take(page, "mlflow-run")
        show(page, f"{endpoints}/_slimline/", 900)
        take(page, "endpoint")
        page.set_viewport_size({"width": 1200, "height": 1400})
        report = httpx.get(
            f"{mlflow}/get-artifact", params={"path": "report/report.html", "run_uuid": run_id}, timeout=30
        )
        with NamedTemporaryFile("w", suffix=".html", encoding="utf-8") as file:
            file.write(report.raise_for_status().text)
            file.flush()
            page.goto(Path(file.name).as_uri())
            take(page, "report")


def newest(prefect: str, key: str) -> dict[str, Any]:
    """The newest artifact of this key."""
    asked = {"artifacts": {"key": {"any_": [key]}}, "limit": 200}
    reply = httpx.post(f"{prefect}/api/artifacts/filter", json=asked, timeout=30).raise_for_status()
    artifacts: list[dict[str, Any]] = reply.json()
    if not artifacts:
        raise SystemExit(f"no artifact {key} at {prefect}: run a deployment first, such as `slimline run tiny`")
    return max(artifacts, key=lambda artifact: str(artifact["created"]))


def show(page: Page, url: str, height: int) -> None:
    page.set_viewport_size({"width": 1200, "height": height})
    page.goto(url)


def take(page: Page, name: str, settle: float = 3) -> None:
    """The page as it stands, after ``settle`` seconds in which pictures are drawn, as a small PNG."""
    page.wait_for_timeout(settle * 1000)
    file = IMAGES / f"{name}.png"
    page.screenshot(path=file)
    with Image.open(file) as image:
        image.convert("RGB").quantize(COLOURS).save(file, optimize=True)
    sys.stdout.write(f"{file.relative_to(ROOT)}: {file.stat().st_size / 1000:.0f} kB\n")


if __name__ == "__main__":
    main(*(url.rstrip("/") for url in sys.argv[1:4]))
