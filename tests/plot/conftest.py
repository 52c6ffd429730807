"""A browser, and pages opened in it from disk."""

import re
import shutil

import pytest

ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def chromium():
    """One browser for the module."""
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("no Chromium on the PATH")
    api.expect.set_options(timeout=15_000)
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def expect(chromium):
    from playwright.sync_api import expect

    return expect


@pytest.fixture
def show(chromium, expect, tmp_path):
    """Open a page from disk; in the end nothing may have failed, popped up or been fetched."""
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    path = tmp_path / "page.html"
    trouble, requests = [], []
    context.on("request", lambda request: requests.append(request.url))

    def note_dialog(dialog):
        trouble.append(dialog.message)
        dialog.dismiss()

    def show(page):
        page.save(path)
        tab = context.new_page()
        tab.on("pageerror", lambda error: trouble.append(str(error)))
        tab.on("console", lambda message: trouble.append(message.text))
        tab.on("dialog", note_dialog)
        tab.goto(path.as_uri())
        expect(tab.locator("html")).to_have_attribute("data-ready", re.compile(r"\d+"))
        return tab

    yield show
    context.close()
    assert trouble == []
    assert requests == [path.as_uri()]
