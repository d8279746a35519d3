"""A real headless Chromium for tests of pages.

``from browser import new_page, open_browser, watch  # noqa: F401`` gives the fixtures ``page`` and
``browser`` to a test file; they bear other names here, so that an argument ``page`` hides no import.
"""

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, Request, sync_playwright

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module", name="browser")
def open_browser() -> Iterator[Browser]:
    """One browser for the tests of a file; they are skipped only where no Chromium is installed.

    Not for the whole session: while it is open its event loop runs in the main thread, and other
    tests could not call ``asyncio.run``.
    """
    if CHROMIUM is None:
        pytest.skip("no chromium is installed: pages are not tested in a browser")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield started
        started.close()


@pytest.fixture(name="page")
def new_page(browser: Browser) -> Iterator[Page]:
    """A fresh page with its own cookies and storage."""
    context = browser.new_context()
    yield context.new_page()
    context.close()


def watch(page: Page, home: str) -> list[str]:
    """A list that fills, from now on, with what goes wrong on the page.

    Console errors, uncaught exceptions, failed requests, and requests for anything whose address does
    not start with ``home`` (the server under test, or ``file:`` for a page on disk).
    """
    problems: list[str] = []

    def check(request: Request) -> None:
        if not request.url.startswith((home, "data:", "blob:")):
            problems.append(f"request for {request.url}")

    page.on("request", check)
    page.on("requestfailed", lambda request: problems.append(f"failed: {request.url} {request.failure}"))
    page.on("console", lambda m: problems.append(f"console: {m.text}") if m.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(f"exception: {error}"))
    return problems


def texts(page: Page, selector: str) -> list[str]:
    """What elements show."""
    return [text.strip() for text in page.locator(selector).all_inner_texts()]
