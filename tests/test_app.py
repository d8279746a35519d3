"""The page of ``vlprompt app`` in a real browser, and what its server must not give away."""

import json
import re
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import Page, expect
from serve_load import running

from browser import new_page, open_browser, watch  # noqa: F401
from vlprompt.app.session import start_session
from vlprompt.estimator.classifier import PromptClassifier

SLOW = 120_000
"""Milliseconds until something must be on the page; the machine may be busy."""
WIDE = {"width": 1400, "height": 1000}


@pytest.fixture(scope="module")
def home() -> Iterator[str]:
    with running("app", "--model", "toy", "--device", "cpu") as (address, _):
        yield address


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Three pictures of each of two classes."""
    folder = tmp_path_factory.mktemp("pictures")
    drawn: dict[str, list[Path]] = {"red circle": [], "blue square": []}
    for name, paths in drawn.items():
        for i in range(3):
            image = Image.new("RGB", (96, 96), "white")
            draw = ImageDraw.Draw(image)
            box = (12 + 6 * i, 20, 70 + 6 * i, 78)
            if name == "red circle":
                draw.ellipse(box, fill="red")
            else:
                draw.rectangle(box, fill="blue")
            paths.append(folder / f"{name} {i}.png")
            image.save(paths[-1])
    return drawn


def bars(page: Page, name: str) -> dict[str, int]:
    """Classes and percents that a view shows."""
    text = page.locator(f"#{name}").inner_text()
    return {label.strip(): int(percent) for label, percent in re.findall(r"([^\n%]+?)\s*\n?(\d+)%", text)}


def show(page: Page, picture: Path) -> None:
    page.locator("#picture input[type=file]").set_input_files(picture)
    expect(page.locator("#zeroshot")).to_contain_text("%", timeout=SLOW)


def shot(page: Page, folder: Path, name: str) -> None:
    page.wait_for_timeout(500)  # pictures fade in
    page.screenshot(path=folder / f"{name}.png", full_page=True)


def test_the_whole_job(home: str, page: Page, pictures: dict[str, list[Path]], tmp_path: Path) -> None:
    page.set_viewport_size(WIDE)
    problems = watch(page, home)
    page.goto(home)
    names = page.locator("#names textarea")
    expect(names).to_have_value("red circle\nblue square\ngreen star", timeout=SLOW)

    # A picture among the classes by their names alone.
    picture = pictures["red circle"][0]
    show(page, picture)
    plain = start_session(
        ("red circle", "blue square", "green star"), PromptClassifier(device="cpu")
    ).zeroshot
    expected = dict(zip(plain.classnames_, plain.predict_proba([picture])[0], strict=True))
    shown = bars(page, "zeroshot")
    assert shown.keys() == expected.keys()
    assert all(abs(shown[name] - 100 * expected[name]) <= 1 for name in shown)
    expect(page.locator("#zeroshot-heat img")).to_be_visible(timeout=SLOW)
    shot(page, tmp_path, "1-zeroshot")

    # Other names.
    names.fill("red ring\nblue square")
    page.locator("#use").click()
    expect(page.locator("#zeroshot")).to_contain_text("red ring", timeout=SLOW)
    assert bars(page, "zeroshot").keys() == {"red ring", "blue square"}

    # Six photos of two classes, and training.
    for count, (label, paths) in enumerate(pictures.items(), start=1):
        page.locator("#label input").fill(label)
        page.locator("#label input").press("Enter")
        page.locator("#files input[type=file]").set_input_files(paths)
        expect(page.locator("#files")).to_contain_text(paths[-1].stem, timeout=SLOW)
        page.locator("#add").click()
        expect(page.locator("#photos img")).to_have_count(3 * count, timeout=SLOW)
    shot(page, tmp_path, "2-photos")
    page.locator("#epochs input[type=number]").fill("6")
    page.locator("#epochs input[type=number]").press("Tab")
    page.locator("#train").click()
    expect(page.locator("#progress-text")).to_contain_text("Done: CoOp, 6 epochs, 6 photos", timeout=SLOW)
    expect(page.locator("#tuned")).to_contain_text("%", timeout=SLOW)
    expect(names).to_have_value("red circle\nblue square")
    assert bars(page, "tuned").keys() == bars(page, "zeroshot").keys() == {"red circle", "blue square"}
    shot(page, tmp_path, "3-tuned")

    # The classifier to take away gives the numbers of the page.
    page.locator("#save").click()
    expect(page.locator("#download")).to_be_visible(timeout=SLOW)
    with page.expect_download(timeout=SLOW) as download:
        page.locator("#download").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        archive.extractall(tmp_path)
    kept = PromptClassifier.load(tmp_path / "classifier", device="cpu")
    probabilities = dict(zip(kept.classnames_, kept.predict_proba([picture])[0], strict=True))
    assert all(abs(value - 100 * probabilities[name]) <= 1 for name, value in bars(page, "tuned").items())
    shot(page, tmp_path, "4-saved")
    # Gradio itself ends its streams of events.
    assert [p for p in problems if not ("queue/data" in p and "ERR_ABORTED" in p)] == []


def test_mistakes_are_explained(home: str, page: Page, tmp_path: Path) -> None:
    page.set_viewport_size(WIDE)
    page.goto(home)
    expect(page.locator("#names textarea")).not_to_have_value("", timeout=SLOW)
    for button, message in (
        ("#train", "photos of two or more classes"),
        ("#save", "train first"),
        ("#add", "name the class"),
    ):
        page.locator(button).click()
        expect(page.get_by_text(message)).to_be_visible(timeout=SLOW)
    page.locator("#names textarea").fill("only one")
    page.locator("#use").click()
    expect(page.get_by_text("two or more classes, one a line")).to_be_visible(timeout=SLOW)
    expect(page.locator("#progress-text")).to_contain_text("Add photos")
    shot(page, tmp_path, "mistakes")


def test_a_narrow_screen(home: str, page: Page, pictures: dict[str, list[Path]], tmp_path: Path) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(home)
    expect(page.locator("#names textarea")).not_to_have_value("", timeout=SLOW)
    show(page, pictures["blue square"][0])
    shot(page, tmp_path, "narrow")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def call(home: str, component: str, data: list[Any]) -> dict[str, Any]:
    """What the server answers to the event whose inputs end with a component, past the page."""
    config = httpx.get(f"{home}/config", trust_env=False).json()
    number = next(c["id"] for c in config["components"] if c["props"].get("elem_id") == component)
    event = next(d["id"] for d in config["dependencies"] if d["inputs"] and d["inputs"][-1] == number)
    begin = next(d["id"] for d in config["dependencies"] if not d["inputs"])
    for which, values in ((begin, []), (event, data)):
        job = {"data": values, "fn_index": which, "session_hash": "test"}
        httpx.post(f"{home}/gradio_api/queue/join", json=job, trust_env=False).raise_for_status()
        answer = completed(f"{home}/gradio_api/queue/data?session_hash=test")
    return answer


def completed(url: str) -> dict[str, Any]:
    """The last message of a stream of events."""
    with httpx.stream("GET", url, timeout=60, trust_env=False) as stream:
        for line in stream.iter_lines():
            if line.startswith("data:") and '"process_completed"' in line:
                return json.loads(line.removeprefix("data:"))
    raise AssertionError(f"{url} ended without an answer")


def file_data(path: str | Path) -> dict[str, Any]:
    return {"path": str(path), "orig_name": "x.png", "meta": {"_type": "gradio.FileData"}}


def test_no_file_of_the_server_can_be_read(home: str) -> None:
    up = "../" * 12
    for path in ("/etc/passwd", f"{up}etc/passwd", "pyproject.toml", f"/tmp/{up}etc/passwd"):
        for route in ("/gradio_api/file=", "/gradio_api/file/", "/static/", "/assets/", "/svelte/"):
            answer = httpx.get(home + route + path, trust_env=False)
            assert answer.status_code in (403, 404), route
            assert b"root:" not in answer.content and b"[project]" not in answer.content
    for address in ("https://example.org/", f"{home}/config"):
        for route in (f"/gradio_api/file={address}", f"/gradio_api/proxy={address}"):
            assert httpx.get(home + route, trust_env=False).status_code == 403


UNLISTED = {
    "GET": (
        "/gradio_api/openapi.json", "/gradio_api/app_id", "/gradio_api/token", "/monitoring", "/pwa_icon",
        "/gradio_api/vibe-code", "/gradio_api/call/look/1", "/gradio_api/custom_component/1/client/x/y.js",
        "/gradio_api/runs", "/gradio_api/dev/reload", "/docs", "/config/x", "/gradio_api/file=", "/x",
    ),
    "POST": ("/gradio_api/run/look", "/gradio_api/call/look", "/gradio_api/api/look", "/", "/config",
             "/gradio_api/component_server", "/gradio_api/vibe-edit", "/gradio_api/process_recording"),
    "PUT": ("/", "/gradio_api/upload"),
}  # fmt: skip


def test_nothing_is_served_but_what_the_page_asks_for(home: str, tmp_path: Path) -> None:
    """By a list of these, not of what Gradio's next version may serve."""
    for method, paths in UNLISTED.items():
        for path in paths:
            answer = httpx.request(method, home + path, trust_env=False)
            assert answer.status_code == 403 and "not served" in answer.json()["error"], (method, path)
    beside = Path(tempfile.gettempdir()) / "vlprompt-app-other.txt"  # Gradio takes all of it for its own
    beside.write_text("secret")
    try:
        for path in (beside, f"{beside}/../{beside.name}", "", "%00", "relative.txt"):
            answer = httpx.get(f"{home}/gradio_api/file={path}", trust_env=False)
            assert answer.status_code == 403 and "secret" not in answer.text, path
    finally:
        beside.unlink()
    assert httpx.get(home, trust_env=False).status_code == 200


def test_events_take_only_files_that_were_uploaded(
    home: str, tmp_path: Path, pictures: dict[str, list[Path]]
) -> None:
    secret = tmp_path / "secret.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(secret)
    for path in (secret, Path("pyproject.toml").resolve(), Path("/etc/passwd"), f"{home}/static/x.png"):
        for component, data in (
            ("picture", [None, file_data(path)]),
            ("files", [None, "cat", [file_data(path)]]),
        ):
            answer = call(home, component, data)
            assert not answer["success"] and "cannot identify image" not in str(answer), answer
    with pictures["red circle"][0].open("rb") as file:
        uploaded = httpx.post(f"{home}/gradio_api/upload", files={"files": file}, trust_env=False).json()[0]
    assert call(home, "picture", [None, file_data(uploaded)])["success"]


def test_visitors_do_not_change_each_other() -> None:
    first = start_session(("red circle", "blue square"), PromptClassifier(device="cpu"))
    one, other = first.own(), first.own()
    one.set_classes(["green star", "yellow cross"])
    assert other.classnames == first.classnames == ["red circle", "blue square"]
    assert one.zeroshot.method_.encoder is other.zeroshot.method_.encoder


def test_a_training_can_be_stopped(pictures: dict[str, list[Path]]) -> None:
    session = start_session(("cat", "dog"), PromptClassifier(device="cpu"))
    for label, paths in pictures.items():
        session.add(paths, label)
    records = []
    for record in session.train("coop", 500):
        records.append(record)
        session.stop.set()
    assert 1 <= len(records) < 500
    assert session.tuned is None and session.classnames == ["cat", "dog"]
    assert len(list(session.train("coop", 2))) == 2
    assert session.tuned is not None and session.classnames == ["red circle", "blue square"]
