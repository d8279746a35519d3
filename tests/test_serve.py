"""The server in a process of its own, over HTTP on the loopback."""

import asyncio
import http.client
import io
import math
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import uvicorn
from PIL import Image
from playwright.sync_api import Page, expect
from serve_load import put_under_load, running

from browser import new_page, open_browser, watch  # noqa: F401
from vlprompt.cli.serve import serve
from vlprompt.errors import UserError
from vlprompt.estimator.classifier import PromptClassifier
from vlprompt.server import connections
from vlprompt.server.deadlines import Deadlines
from vlprompt.server.http import make_api
from vlprompt.server.listen import need_extra, open_port
from vlprompt.server.uploads import Limits

NAMES = ("red circle", "blue square", "green star", "yellow cross")
MAX_IMAGES = 8
SMALL = ("--max-body-mb", "2", "--max-images", str(MAX_IMAGES), "--max-megapixels", "4")


def picture(seed: int, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return small.resize(size).convert(mode)


def encoded(image: Image.Image, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tuned classifier of four classes."""
    classifier = PromptClassifier("coop", settings={"epochs": 2, "n_ctx": 4}, device="cpu")
    classifier.fit([picture(k) for k in range(8)], [NAMES[k % 4] for k in range(8)])
    out = tmp_path_factory.mktemp("serve") / "classifier"
    classifier.save(out)
    return out


@pytest.fixture(scope="module")
def classifier(folder: Path) -> PromptClassifier:
    return PromptClassifier.load(folder, device="cpu")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server with small limits: its address and its process."""
    with running("serve", str(folder), *SMALL) as started:
        yield started


@pytest.fixture
def address(server: tuple[str, subprocess.Popen[str]]) -> str:
    return server[0]


@pytest.fixture
def client(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=30, trust_env=False) as opened:
        yield opened


def probabilities(answer: httpx.Response, classifier: PromptClassifier) -> np.ndarray:
    """An answer with all classes as an array (N, K)."""
    assert answer.status_code == 200, answer.text
    rows = [{p["class"]: p["probability"] for p in image["predictions"]} for image in answer.json()["images"]]
    return np.array([[row[name] for name in classifier.classnames_] for row in rows])


def error_line(answer: httpx.Response) -> str:
    """The one line of an error."""
    assert answer.headers["content-type"] == "application/json", answer.text
    body = answer.json()
    assert set(body) == {"error"} and body["error"] and "\n" not in body["error"]
    return body["error"]


def test_predictions_are_those_of_the_classifier(client, classifier):
    images = [
        picture(1),
        picture(2, (300, 200)),
        picture(3, mode="L"),
        picture(4, mode="RGBA"),
        picture(5, mode="P"),
    ]
    files = [("images", (f"{i}.png", encoded(image), "image/png")) for i, image in enumerate(images)]
    answer = client.post("/predict?top=9", files=files)
    np.testing.assert_allclose(probabilities(answer, classifier), classifier.predict_proba(images), atol=1e-6)
    assert [image["file"] for image in answer.json()["images"]] == [f"{i}.png" for i in range(5)]
    shown = [p["probability"] for p in answer.json()["images"][0]["predictions"]]
    assert shown == sorted(shown, reverse=True)


def test_an_image_as_the_body(client, classifier):
    data = encoded(picture(6, (90, 60)), "JPEG")
    answer = client.post("/predict", content=data)
    expected = classifier.predict_proba([Image.open(io.BytesIO(data))])
    np.testing.assert_allclose(probabilities(answer, classifier), expected, atol=1e-6)


def test_top_is_the_number_of_classes(client):
    answer = client.post("/predict?top=2", content=encoded(picture(1)))
    assert len(answer.json()["images"][0]["predictions"]) == 2
    for top in ("0", "many"):
        refused = client.post(f"/predict?top={top}", content=encoded(picture(1)))
        assert refused.status_code == 422 and f"top '{top}'" in error_line(refused)


def test_health_and_classes(client, classifier):
    health = client.get("/health").json()
    assert health["ready"] and health["method"] == "coop" and health["backbone"] == "toy"
    assert health["classes"] == 4
    assert client.get("/classes").json() == {"classes": list(classifier.classnames_)}
    before = health["images"]
    client.post("/predict", content=encoded(picture(1)))
    assert client.get("/health").json()["images"] == before + 1


def test_images_of_concurrent_requests_share_batches(client, address, classifier):
    images = [picture(i) for i in range(16)]
    expected = classifier.predict_proba(images)
    before = client.get("/health").json()
    start = threading.Barrier(16)

    def send(image: Image.Image) -> httpx.Response:
        data = encoded(image)
        with httpx.Client(timeout=30, trust_env=False) as own:
            start.wait()
            for _ in range(4):
                answer = own.post(f"{address}/predict", content=data)
        return answer

    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(send, images))
    got = np.concatenate([probabilities(answer, classifier) for answer in answers])
    np.testing.assert_allclose(got, expected, atol=1e-5)
    after = client.get("/health").json()
    assert after["images"] - before["images"] == 64
    assert after["mean_batch"] > 1


def test_a_bad_image_is_named_and_the_request_refused(client):
    served = client.get("/health").json()["images"]
    bad = {
        "broken.jpg": encoded(picture(1, (300, 300)), "JPEG")[:2000],
        "text.png": b"no image at all",
        "page.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
        "void.png": b"",
    }
    for name, data in bad.items():
        files = [("images", ("good.png", encoded(picture(1)))), ("images", (name, data))]
        answer = client.post("/predict", files=files)
        assert answer.status_code == 422 and f"'{name}'" in error_line(answer)
    assert client.get("/health").json()["images"] == served


def test_forms_without_images(client):
    assert "no file" in error_line(client.post("/predict", data={"images": "text"}, files={"": ("", "")}))
    broken = client.post("/predict", content=b"x", headers={"content-type": "multipart/form-data"})
    assert broken.status_code == 422 and "boundary" in error_line(broken)
    assert client.post("/predict").status_code == 422


def test_too_many_images(client):
    files = [("images", (f"{i}.png", encoded(picture(i)))) for i in range(MAX_IMAGES + 1)]
    answer = client.post("/predict", files=files)
    assert answer.status_code == 422 and str(MAX_IMAGES) in error_line(answer)


def test_a_large_body_is_refused_while_it_comes(client):
    announced = client.post("/predict", content=bytes(3_000_000))
    assert announced.status_code == 413 and "2 MB" in error_line(announced)
    as_form = client.post("/predict", files={"images": ("large.png", bytes(3_000_000))})
    assert as_form.status_code == 413
    raw = http.client.HTTPConnection(client.base_url.host, client.base_url.port, timeout=10)
    raw.putrequest("POST", "/predict")
    raw.putheader("Transfer-Encoding", "chunked")
    raw.endheaders()
    for _ in range(3):
        raw.send(b"f4240\r\n" + bytes(1_000_000) + b"\r\n")
    assert raw.getresponse().status == 413  # although the body has no length and has not ended
    raw.close()


def bomb(side: int) -> bytes:
    """A small PNG file of side x side white pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" + b"\xff" * (side // 8)
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    body = zlib.compress(row * side, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_pixels_are_counted_before_they_are_decoded(server, client):
    process = psutil.Process(server[1].pid)
    before = process.memory_info().rss
    for side in (8_000, 24_000):
        answer = client.post("/predict", files={"images": ("bomb.png", bomb(side))})
        assert answer.status_code == 422
        assert "'bomb.png'" in error_line(answer) and "4 megapixels" in error_line(answer)
    assert process.memory_info().rss - before < 8e6  # decoded, the smaller one is 8 MB even as bits


def test_no_file_of_the_server_can_be_read(address, client):
    host, port = address.removeprefix("http://").split(":")
    up = "../" * 12
    paths = [
        "/etc/passwd",
        f"/{up}etc/passwd",
        f"/static-offline-docs/{up}etc/passwd",
        "/static-offline-docs/" + "%2e%2e%2f" * 12 + "etc/passwd",
        "/static-offline-docs/..%5c..%5ccore.py",
        "/static-offline-docs/../core.py",
        "/pyproject.toml",
        "/config.json",
        "//etc/passwd",
    ]
    for path in paths:
        connection = http.client.HTTPConnection(host, int(port), timeout=10)
        connection.request("GET", path)  # as it is: other clients would tidy the path
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status == 404 and b"root:" not in body, path
        assert answer.headers["content-type"] == "application/json"
        connection.close()


def test_errors_are_json(client):
    assert client.get("/nothing").status_code == 404
    error_line(client.get("/nothing"))
    assert client.get("/predict").status_code == 405
    error_line(client.get("/predict"))


def test_docs_name_no_other_host(client):
    page = client.get("/docs").text
    assert "http" not in page.replace("http-equiv", "")
    for part in ("/static-offline-docs/swagger-ui-bundle.js", "/static-offline-docs/swagger-ui.css"):
        assert part in page and client.get(part).status_code == 200
    assert set(client.get("/openapi.json").json()["paths"]) == {"/predict", "/health", "/classes"}


def test_a_full_queue_says_when_to_come_back(folder, classifier):
    with running("serve", str(folder), "--max-batch", "1", "--max-images", "1") as (url, process):
        data = encoded(picture(3, (1600, 1600)), "JPEG")

        def send(_: int) -> httpx.Response:
            return httpx.post(f"{url}/predict", content=data, timeout=30, trust_env=False)

        with ThreadPoolExecutor(24) as threads:
            answers = list(threads.map(send, range(24)))
        by_status = {a.status_code: a for a in answers}
        assert set(by_status) == {200, 503}
        assert int(by_status[503].headers["retry-after"]) >= 1 and "again" in error_line(by_status[503])
        expected = classifier.predict_proba([Image.open(io.BytesIO(data))])
        np.testing.assert_allclose(probabilities(by_status[200], classifier), expected, atol=1e-6)
        assert send(0).status_code == 200

        # SIGTERM: what is under way is answered, and the process ends.
        with ThreadPoolExecutor(1) as thread, httpx.Client(timeout=30, trust_env=False) as ready:
            assert ready.get(f"{url}/health").status_code == 200  # connected, however busy the machine is
            last = thread.submit(ready.post, f"{url}/predict", content=data)
            time.sleep(0.1)
            process.send_signal(signal.SIGTERM)
            start = time.perf_counter()
            assert last.result().status_code == 200
        assert process.wait(10) == 0
        assert time.perf_counter() - start < 8
        with pytest.raises(httpx.ConnectError):
            send(0)


def half_sent(address: str, count: int, text: bytes) -> list[socket.socket]:
    """Connections on which this was sent, and then nothing more."""
    host, port = address.removeprefix("http://").split(":")
    opened = [socket.create_connection((host, int(port)), timeout=20) for _ in range(count)]
    for connection in opened:
        connection.sendall(text)
    return opened


HALF_A_BODY = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf"
HALF_A_HEADER = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Le"


def test_half_sent_bodies_and_headers_hold_nobody_up(address, client):
    data = encoded(picture(1))
    bodies = half_sent(address, 260, HALF_A_BODY)  # more than may be coming in at once
    headers = half_sent(address, 400, HALF_A_HEADER)
    for _ in range(5):
        assert client.post("/predict", content=data).status_code == 200
    for connection in headers:
        assert connection.recv(100) == b""  # closed, within the 20 seconds that recv waits
    for connection in bodies:
        answer = b"".join(iter(partial(connection.recv, 1000), b""))  # until it is closed
        assert answer.startswith(b"HTTP/1.1 408 ") and b"did not come in time" in answer
    for connection in [*bodies, *headers]:
        connection.close()
    assert client.post("/predict", content=data).status_code == 200


def test_a_connection_may_send_its_next_request_late(address):
    host, port = address.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    for wait in (3, 3, 0):  # together longer than a header may take
        connection.request("GET", "/health")
        assert connection.getresponse().read()
        socket_before = connection.sock
        time.sleep(wait)
        assert connection.sock is socket_before
    connection.close()


def test_a_connection_stays_for_a_while_after_a_slow_answer(monkeypatch):
    """However long that took: the next request must meet no connection that is being closed."""

    async def slow(_scope, _receive, send):
        await asyncio.sleep(0.9)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    monkeypatch.setattr(connections, "HEADER_TIME", 0.5)
    server = uvicorn.Server(uvicorn.Config(slow, http=connections.Protocol, lifespan="off"))
    opened = open_port("127.0.0.1", 0)
    opened.listen()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
    thread.start()
    connection = http.client.HTTPConnection(*opened.getsockname(), timeout=30)
    try:
        for _ in range(2):
            connection.request("GET", "/")
            assert connection.getresponse().read() == b"ok"
            time.sleep(0.3)
    finally:
        connection.close()
        server.should_exit = True
        thread.join()


def test_a_server_that_is_stopped_waits_for_no_half_sent_body(folder):
    line = [sys.executable, "-m", "vlprompt", "serve", str(folder), "--port", "0"]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    address = "http://" + process.stdout.readline().split("http://")[1].split()[0]
    opened = half_sent(address, 20, HALF_A_BODY) + half_sent(address, 20, HALF_A_HEADER)
    time.sleep(1)
    start = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert time.monotonic() - start < 10 and process.returncode == 0  # half of it, where nothing else runs
    assert said == ""
    for connection in opened:
        connection.close()


def test_the_oldest_of_too_many_is_given_up():
    """A body that goes on is not the one that stands still the longest."""
    given_up = []

    async def upload(number: int, deadlines: Deadlines, parts: int) -> None:
        try:
            async with deadlines.begin() as body:
                for _ in range(parts):
                    await asyncio.sleep(0.02)
                    deadlines.goes_on(body)
                await asyncio.sleep(30 if number == 1 else 0)
        except TimeoutError:
            given_up.append(number)

    async def all_uploads() -> None:
        deadlines = Deadlines(2, 60, 60)
        first = [asyncio.create_task(upload(0, deadlines, 20)), asyncio.create_task(upload(1, deadlines, 1))]
        await asyncio.sleep(0.2)
        await upload(2, deadlines, 0)
        await asyncio.gather(*first)

    asyncio.run(all_uploads())
    assert given_up == [1]


def test_a_body_that_does_not_come_is_given_up(classifier):
    api = make_api(classifier, Limits(body_time=0.2))

    async def slowly() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.sleep(30)

    async def post() -> httpx.Response:
        transport = httpx.ASGITransport(api)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return await client.post("/predict", content=slowly())

    answer = asyncio.run(post())
    assert answer.status_code == 408 and "time" in error_line(answer)


def test_five_seconds_of_load(address):
    load = put_under_load(address, clients=32, seconds=5)
    assert load.errors == 0
    assert load.requests > 32 and load.mean_batch > 1


def test_bad_starts_are_explained(folder, tmp_path):
    with open_port("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} of '127.0.0.1'.*--port"):
            serve(folder, port=port)
    with pytest.raises(UserError, match="port 99999 "):
        serve(folder, port=99999)
    with pytest.raises(UserError, match="no-host"):
        serve(folder, host="no-host.invalid")
    with pytest.raises(UserError, match=r"classifier '.*nothing' does not exist"):
        serve(tmp_path / "nothing", port=0)
    for name, value in (
        ("max_batch", 0), ("max_images", -1), ("max_body_mb", math.nan), ("max_body_mb", 0),
        ("max_megapixels", math.inf), ("wait_ms", -5), ("wait_ms", math.inf),
    ):  # fmt: skip
        with pytest.raises(UserError, match=f"--{name.replace('_', '-')} {value}: give a number"):
            serve(folder, **{name: value})
    for empty in ("", " "):
        with pytest.raises(UserError, match="--host is empty, which would be every network"):
            serve(folder, host=empty)
    with pytest.raises(UserError, match=r"no_such_module: run pip install 'vlprompt\[serve\]'"):
        need_extra("serve", "json", "no_such_module")


def test_the_page_to_try_it_works_with_no_other_host(address: str, page: Page, tmp_path: Path) -> None:
    page.set_default_timeout(60_000)
    problems = watch(page, address)
    page.goto(address)
    page.get_by_text("/predict").click()
    page.get_by_role("button", name="Try it out").click()
    files = {"name": "a.png", "mimeType": "image/png", "buffer": encoded(picture(1))}
    page.locator("input[type=file]").set_input_files([files])
    page.get_by_role("button", name="Execute").click()
    answer = page.locator(".live-responses-table")
    expect(answer).to_contain_text("probability", timeout=60_000)
    expect(answer).to_contain_text("a.png")
    page.screenshot(path=tmp_path / "docs.png", full_page=True)
    assert problems == []
