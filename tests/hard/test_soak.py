"""A server under load for minutes, with hostile clients among the good: ``SOAK`` sets the seconds."""

from __future__ import annotations

import asyncio
import io
import os
import random
import signal
import struct
import time
import zlib
from collections import Counter
from contextlib import suppress

import httpx
import numpy as np
import psutil
from PIL import Image
from serve_load import pictures, running

from vlprompt import PromptClassifier

SECONDS = float(os.environ.get("SOAK", "600"))
CLIENTS = 32
FIRST = min(60, SECONDS / 2)
"""Seconds whose memory is the measure of all that comes after."""
GROWTH = 1.1
DRAINED = 5.0


def bomb(side: int = 24_000) -> bytes:
    """A PNG of a few kilobytes with half a gigapixel."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\xff" * (side // 8)) * 1000, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


class Clients:
    """Good requests and hostile ones, and what became of them."""

    def __init__(self, address: str):
        self.address = address
        self.host, port = address.removeprefix("http://").split(":")
        self.port = int(port)
        self.good, self.bomb = pictures(), bomb()
        self.latencies: list[float] = []
        self.answers: Counter[str] = Counter()

    async def client(self, number: int, end: float) -> None:
        draw = random.Random(number)
        async with httpx.AsyncClient(timeout=60, trust_env=False, verify=False) as http:
            while time.monotonic() < end:
                if draw.random() < 0.1:
                    with suppress(OSError, httpx.HTTPError, asyncio.TimeoutError):
                        await self.hostile(http, draw)
                else:
                    await self.send(http, draw.choice(self.good))

    async def send(self, http: httpx.AsyncClient, picture: bytes) -> None:
        start = time.perf_counter()
        try:
            status = str((await http.post(f"{self.address}/predict", content=picture)).status_code)
        except httpx.HTTPError as error:
            status = type(error).__name__
        self.latencies.append(time.perf_counter() - start)
        self.answers[status] += 1

    async def hostile(self, http: httpx.AsyncClient, draw: random.Random) -> None:
        kind = draw.choice(("slow body", "half a header", "gone", "bomb", "text", "many", "types", "noise"))
        self.answers[kind] += 1
        url = f"{self.address}/predict"
        match kind:
            case "bomb":
                await http.post(url, content=self.bomb)
            case "text":
                await http.post(url, content=b"no image" * draw.randint(1, 1000))
            case "many":
                await http.post(url, files=[("images", (str(i), b"x")) for i in range(500)])
            case "types":
                form = {
                    "content-type": draw.choice(
                        ("multipart/form-data", "multipart/form-data; boundary=", "x" * 5000)
                    )
                }
                await http.post(
                    f"{url}?top={draw.choice(('-1', '1e9', 'x' * 999))}", content=b"x", headers=form
                )
            case _:
                await self.raw(kind, draw)

    async def raw(self, kind: str, draw: random.Random) -> None:
        """What no client of a library would send."""
        _, writer = await asyncio.open_connection(self.host, self.port)
        head = b"POST /predict HTTP/1.1\r\nHost: x\r\n"
        picture = draw.choice(self.good)
        match kind:
            case "half a header":
                writer.write(head)
            case "noise":
                writer.write(bytes(draw.randint(0, 255) for _ in range(2000)))
            case _:
                writer.write(
                    head + b"Content-Length: %d\r\n\r\n" % len(picture) + picture[: draw.randint(1, 900)]
                )
        with suppress(OSError):
            await writer.drain()
        if kind != "gone":
            await asyncio.sleep(draw.uniform(0.2, 3))
        writer.close()


async def soak(address: str, process: psutil.Process) -> tuple[Clients, list[tuple[float, int]]]:
    """All clients until the time is over; memory of each second."""
    clients, start, memory = Clients(address), time.monotonic(), []

    async def watch() -> None:
        while (now := time.monotonic() - start) < SECONDS:
            memory.append((now, process.memory_info().rss))
            await asyncio.sleep(1)

    await asyncio.gather(watch(), *(clients.client(i, start + SECONDS) for i in range(CLIENTS)))
    return clients, memory


def test_soak(tmp_path):
    images = [Image.open(io.BytesIO(file)) for file in pictures()]
    PromptClassifier("coop", settings={"epochs": 1}).fit(images, list("abcd") * 2).save(tmp_path / "c")
    with running("serve", str(tmp_path / "c")) as (address, process):
        clients, memory = asyncio.run(soak(address, psutil.Process(process.pid)))
        points = np.percentile(np.array(clients.latencies) * 1e3, (50, 90, 99, 100)).round(1)
        print(f"{len(clients.latencies)} good requests, {dict(clients.answers)}")
        print(f"milliseconds: p50 {points[0]}, p90 {points[1]}, p99 {points[2]}, max {points[3]}")
        first = max(rss for now, rss in memory if now <= FIRST)
        later = max(rss for now, rss in memory if now > FIRST)
        print(f"memory: {first / 1e6:.0f} MB in the first {FIRST:.0f} s, at most {later / 1e6:.0f} MB later")
        assert clients.answers["200"] == len(clients.latencies)
        assert later < GROWTH * first
        asyncio.run(drain(address, process))


async def drain(address: str, process: psutil.Popen) -> None:
    """What is under way at SIGTERM is answered, and the process ends, whoever else is still connected."""
    clients = Clients(address)
    idle = [await asyncio.open_connection(clients.host, clients.port) for _ in range(8)]
    for _, writer in idle:
        writer.write(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nxx")
        await writer.drain()
    form = [("images", (str(i), picture)) for i, picture in enumerate(pictures(16))]
    async with httpx.AsyncClient(timeout=60, trust_env=False, verify=False) as http:
        last = asyncio.create_task(http.post(f"{address}/predict", files=form))
        await asyncio.sleep(0.1)
        start = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert (await last).status_code == 200
    code = await asyncio.to_thread(process.wait, 60)
    took = time.monotonic() - start
    print(f"SIGTERM: drained and ended after {took:.1f} s")
    assert code == 0 and took < DRAINED
    for _, writer in idle:
        writer.close()
