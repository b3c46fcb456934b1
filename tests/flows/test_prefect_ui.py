"""What a person does in Prefect's pages alone, done in a real browser: form, progress, verdict, MLflow, and back."""

from __future__ import annotations

import re

import httpx
from playwright.sync_api import Page

from tests.flows.browser import browser, choose, expect, field, follow, needs_browser, open_form, seen
from tests.flows.conftest import Line

BLOCKS = 12  # of its own: what other tests look for in the cache stays as it is


def submit(page: Page) -> str:
    """Send the form, and again while the server is busy: its database is one file. Returns the run's id."""
    while True:
        with page.expect_response(re.compile("/create_flow_run$")) as answered:
            page.get_by_role("button", name="Submit").press("Enter")  # a message may lie over it
        if answered.value.status != httpx.codes.SERVICE_UNAVAILABLE:
            assert answered.value.ok, answered.value.text()
            return str(answered.value.json()["id"])


@needs_browser
def test_from_the_form_to_the_verdict_to_mlflow_and_back(line: Line) -> None:
    with browser() as page:
        open_form(page, line.stack.prefect_url, "tiny")
        blocks = field(page, "Calibration blocks")
        expect(blocks).to_contain_text("Blocks that pruning and quantization look at (1 to 4,096)")
        choose(page, "Bits", "8")
        field(page, "Name").locator("textarea").fill("from-the-form")
        blocks.locator("input").fill("9999")
        page.get_by_role("button", name="Submit").click()
        expect(page.get_by_text("9999 is greater than the maximum of 4096").first).to_be_visible()
        blocks.locator("input").fill(str(BLOCKS))
        run_id = submit(page)
        seen(page, page.locator(f"a[href*='/runs/flow-run/{run_id}']").first).click()

        seen(page, page.get_by_role("link", name="compress-tiny-from-the-form").first, "Subflow Runs").click()
        seen(page, page.get_by_text(re.compile(r"quantize: \d+ of 14 layers")), "Artifacts")

        page.get_by_role("link", name="tiny-from-the-form-CANARY").first.click()
        card = seen(page, page.get_by_text("outcome-gate"), "Artifacts")
        expect(page.get_by_text("Gate PASSED: does it still answer like the original?")).to_be_visible()
        card.click()
        expect(page.get_by_role("heading", name="Gate: PASSED")).to_be_visible()
        expect(page.get_by_role("row", name="next-token agreement").first).to_contain_text("at least 0.85")

        mlflow = follow(page, page.get_by_role("link", name="MLflow run"))
        expect(mlflow.get_by_text("Gate passed")).to_be_visible()
        expect(mlflow.get_by_text("tiny-from-the-form").first).to_be_visible()
        back = follow(mlflow, mlflow.get_by_role("link", name="Prefect run"))
        seen(back, back.get_by_text("compress-tiny-from-the-form").first)

        back.get_by_role("link", name="tiny-from-the-form-CANARY").first.click()
        seen(back, back.get_by_text("How the release ended: promoted"), "Artifacts")
        seen(back, back.get_by_text("Completed", exact=True).first)
    chosen = line.prefect_get(f"flow_runs/{run_id}")["parameters"]
    assert (chosen["recipe"]["quantize"]["bits"], chosen["data"]["calibration_blocks"]) == (8, BLOCKS)
    assert chosen["plan"]["endpoint"] == "slimline-tiny", "what nobody touched is the preset's"
