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


LOOKS = [(width, scheme) for width in (1400, 400) for scheme in ("light", "dark")]
"""Widths and colour schemes that every page is looked at in."""


def misplaced(page: Page) -> list[str]:
    """What is cut or lies on something else: the whole page sideways, texts of figures, parts of the page."""
    return page.evaluate(
        """() => {
            const found = [], seen = element => element.checkVisibility();
            const lie = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1.5
                && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1.5;
            if (document.documentElement.scrollWidth > innerWidth) found.push('the page scrolls sideways');
            for (const svg of [...document.querySelectorAll('svg')].filter(seen)) {
                const whole = svg.getBoundingClientRect(), upright = [];
                for (const text of svg.querySelectorAll('text')) {
                    const box = text.getBoundingClientRect();
                    if (box.left < whole.left - 1 || box.right > whole.right + 1
                        || box.top < whole.top - 1 || box.bottom > whole.bottom + 1)
                        found.push('cut off: ' + text.textContent);
                    const turned = /rotate\\((?!-?0\\b)/.test(text.getAttribute('transform') || '');
                    if (!turned) upright.push([text, box]);
                }
                upright.forEach(([text, box], i) => upright.slice(0, i).forEach(([other, its]) => {
                    if (lie(box, its)) found.push(`${text.textContent} lies on ${other.textContent}`);
                }));
            }
            const kinds = 'h1, h2, h3, p, caption, figcaption, th, td, li, img, summary, pre, svg';
            const parts = [...document.querySelectorAll(kinds)].filter(seen)
                .map(element => [element, element.getBoundingClientRect()]);
            parts.forEach(([part, box], i) => parts.slice(0, i).forEach(([other, its]) => {
                if (!part.contains(other) && !other.contains(part) && lie(box, its))
                    found.push(`${part.outerHTML.slice(0, 60)} lies on ${other.outerHTML.slice(0, 60)}`);
            }));
            for (const image of document.images)
                if (!image.naturalWidth) found.push('no picture: ' + image.alt);
            return found;
        }"""
    )
