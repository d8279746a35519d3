"""Work of concurrent requests, done in common batches by one thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


class QueueFullError(Exception):
    """No place is free: try again later."""


@dataclass
class Counts:
    """What was done so far."""

    items: int = 0
    batches: int = 0

    @property
    def mean_batch(self) -> float:
        """Items a batch; 0 before the first one."""
        return self.items / self.batches if self.batches else 0.0


class Batcher(Generic[In, Out]):
    """Gathers items that arrive within a few milliseconds and works on them together.

    Args:
        work: called in a thread of its own with 1 to ``max_batch`` items; one result an item.
        max_batch: most items in one call.
        wait: seconds that the first item of a batch waits for others.
        capacity: places; see :meth:`places`.
    """

    def __init__(
        self, work: Callable[[Sequence[In]], Sequence[Out]], max_batch: int, wait: float, capacity: int
    ):
        self.work, self.max_batch, self.wait, self.capacity = work, max_batch, wait, capacity
        self.counts = Counts()
        self.taken = 0
        self._queue: asyncio.Queue[tuple[In, asyncio.Future[Out]]] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batcher")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to work, in the running event loop."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop after the batch that is being worked on."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._thread.shutdown(wait=True)

    @property
    def running(self) -> bool:
        """Whether items are worked on."""
        return self._task is not None and not self._task.done()

    @contextmanager
    def places(self, count: int) -> Iterator[None]:
        """Take places for items that are still being prepared, until they have been answered.

        Raises:
            QueueFullError: so many are not free.
        """
        if self.taken + count > self.capacity:
            raise QueueFullError
        self.taken += count
        try:
            yield
        finally:
            self.taken -= count

    async def submit(self, items: Sequence[In]) -> list[Out]:
        """Results of items; their batch may hold items of others. A cancelled call is not worked on."""
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Out]] = [loop.create_future() for _ in items]
        for item, future in zip(items, futures, strict=True):
            self._queue.put_nowait((item, future))
        return await asyncio.gather(*futures)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [(item, future) for item, future in await self._gather() if not future.done()]
            if not batch:
                continue
            try:
                results = await loop.run_in_executor(self._thread, self.work, [item for item, _ in batch])
            except Exception as error:  # the batch's callers get it; the next batch is worked on
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            self.counts.items += len(batch)
            self.counts.batches += 1
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)

    async def _gather(self) -> list[tuple[In, asyncio.Future[Out]]]:
        """The next batch: full, or all that came within the wait."""
        batch = [await self._queue.get()]
        deadline = asyncio.get_running_loop().time() + self.wait
        while len(batch) < self.max_batch:
            try:
                async with asyncio.timeout_at(deadline):
                    batch.append(await self._queue.get())
            except TimeoutError:
                break
        return batch
