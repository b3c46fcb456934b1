"""A headless Chromium on Prefect's and MLflow's own pages, as a person would use them."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Locator, Page, TimeoutError, expect, sync_playwright

FOUND = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(FOUND is None, reason="no Chromium here: apt-get install chromium, or Google Chrome")
expect.set_options(timeout=30_000)  # milliseconds: two processes beside each other on two cores


@contextmanager
def browser(width: int = 1400, height: int = 1000) -> Iterator[Page]:
    """A page of a browser that knows nothing yet."""
    with sync_playwright() as playwright:
        # The sandbox needs a user of its own; these pages are ours.
        chromium = playwright.chromium.launch(executable_path=FOUND, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield chromium.new_page(viewport={"width": width, "height": height})
        finally:
            chromium.close()


def open_form(page: Page, prefect_url: str, deployment: str) -> None:
    """From the list of deployments to the form of one."""
    page.goto(f"{prefect_url}/deployments")
    page.get_by_placeholder("Search deployments").fill(deployment)
    page.get_by_role("link", name=deployment, exact=True).first.click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Custom run").click()
    expect(page.get_by_role("button", name="Submit")).to_be_visible()


def field(page: Page, title: str) -> Locator:
    """The innermost part of the form that has this title."""
    label = page.get_by_text(re.compile(rf"^{re.escape(title)}( \(Optional\))?$"))
    found = page.locator(".schema-form-property").filter(has=label).last
    expect(found).to_be_visible()
    return found


def choose(page: Page, title: str, value: str) -> None:
    """Pick from a menu of the form. By the keyboard: a click that scrolls closes the menu again."""
    field(page, title).locator("button.p-select-button__control").press("ArrowDown")
    page.locator(".p-select-option").filter(has_text=re.compile(rf"^{re.escape(value)}$")).click()


def tab(page: Page, name: str) -> None:
    page.locator(".p-tab, [role=tab]").filter(has_text=re.compile(rf"^{name}$")).click()


def seen(page: Page, what: Locator, under: str = "", seconds: float = 150) -> Locator:
    """Wait for it, on the tab ``under`` where it is on one, and load the page anew now and then, as a person does: a
    busy server answers some requests with 503.

    Raises:
        TimeoutError: of Playwright; it has not come.
    """
    deadline = time.monotonic() + seconds
    while True:
        if under:  # a page that is loaded anew begins with its first tab
            tab(page, under)
        try:
            what.wait_for(timeout=8_000)
            return what
        except TimeoutError:
            if time.monotonic() > deadline:
                raise
            page.reload()


def follow(page: Page, link: Locator) -> Page:
    """Click a link; the page it leads to, be it in a tab of its own or in this one."""
    if link.get_attribute("target") != "_blank":
        link.click()
        return page
    with page.expect_popup() as opened:
        link.click()
    return opened.value


def approve(page: Page, prefect_url: str, run_id: str, reason: str) -> None:
    """Answer yes in the form of a paused release."""
    page.goto(f"{prefect_url}/runs/flow-run/{run_id}")
    seen(page, page.get_by_role("button", name="Resume")).click()
    field(page, "Reason").locator("textarea").fill(reason)
    field(page, "Approve").locator(".p-toggle__control, [role=switch]").first.click()
    with page.expect_response(re.compile("/resume$")) as answered:
        page.get_by_role("button", name="Submit").click()
    assert answered.value.json()["status"] == "ACCEPT", answered.value.text()
