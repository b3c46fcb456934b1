"""Take the pictures of docs/images anew, of a stack that runs: ``slimline up``, ``slimline run tiny`` or ``demo``, then

    python docs/take_screenshots.py http://127.0.0.1:4310 http://127.0.0.1:4311 http://127.0.0.1:4312

with the addresses that ``up`` printed. It shows the newest run that has a report. The pictures of a search, of a
release that was taken back and of an endpoint that was observed degraded are taken where the stack has such a run
(``slimline compare``, ``slimline fault``, ``slimline run observe``), and left as they are where not. Needs Chromium
and the ``dev`` extra.
"""

from __future__ import annotations

import base64
import re
import sys
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import httpx
from PIL import Image
from playwright.sync_api import Locator, Page

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
        drawn(page, prefect)


def newest(prefect: str, key: str) -> dict[str, Any]:
    """The newest artifact of this key."""
    artifacts = artifacts_of(prefect, key)
    if not artifacts:
        raise SystemExit(f"no artifact {key} at {prefect}: run a deployment first, such as `slimline run tiny`")
    return artifacts[0]


def artifacts_of(prefect: str, key: str) -> list[dict[str, Any]]:
    """All of this key, the newest first."""
    asked = {"artifacts": {"key": {"any_": [key]}}, "limit": 200}
    reply = httpx.post(f"{prefect}/api/artifacts/filter", json=asked, timeout=30).raise_for_status()
    return sorted(reply.json(), key=lambda artifact: str(artifact["created"]), reverse=True)


def drawn(page: Page, prefect: str) -> None:
    """The pictures that runs draw themselves, each of the newest artifact that has its word in it."""
    for name, key, word in (
        ("pareto-front", "pareto-front", ""),
        ("rollout-timeline", "rollout-timeline", "RESTORED"),
        ("observed", "observed-timeline", "DEGRADED"),
    ):
        for artifact in artifacts_of(prefect, key):
            image = base64.b64decode(re.findall(r"base64,([^)]+)\)", artifact["data"])[0])
            if word.encode() in image:
                page.set_content(f"<style>body{{margin:0}}svg{{width:960px;height:auto}}</style>{image.decode()}")
                take(page, name, element=page.locator("svg").first)
                break
        else:
            sys.stdout.write(f"{name}: no such run here, left as it is\n")


def show(page: Page, url: str, height: int) -> None:
    page.set_viewport_size({"width": 1200, "height": height})
    page.goto(url)


def take(page: Page, name: str, settle: float = 3, element: Locator | None = None) -> None:
    """The page as it stands, or one element of it, after ``settle`` seconds for pictures to be drawn: a small PNG."""
    page.wait_for_timeout(settle * 1000)
    file = IMAGES / f"{name}.png"
    (element or page).screenshot(path=file)
    with Image.open(file) as image:
        image.convert("RGB").quantize(COLOURS).save(file, optimize=True)
    sys.stdout.write(f"{file.relative_to(ROOT)}: {file.stat().st_size / 1000:.0f} kB\n")


if __name__ == "__main__":
    main(*(url.rstrip("/") for url in sys.argv[1:4]))
