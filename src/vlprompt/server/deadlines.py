"""Bodies that are coming in and answers that are being made, each with a time by which it is given up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Deadlines:
    """What is under way, and when each is given up.

    Args:
        most: how many at once; where one more begins, that is given up which has stood still the longest.
        whole: seconds in which one must end.
        idle: seconds in which it must go on; None asks only for its end.
    """

    def __init__(self, most: int, whole: float, idle: float | None = None):
        self.most, self.whole, self.idle = most, whole, idle
        self._going: dict[asyncio.Timeout, float] = {}  # the longest without progress first
        self._stop: float | None = None

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[asyncio.Timeout]:
        """One that begins.

        Raises:
            TimeoutError: it was given up.
        """
        if len(self._going) >= self.most:
            self._give_up(next(iter(self._going)), 0)
        async with asyncio.timeout(None) as one:
            self._going[one] = asyncio.get_running_loop().time() + self.whole
            self.goes_on(one)
            try:
                yield one
            finally:
                self._going.pop(one, None)

    def goes_on(self, one: asyncio.Timeout) -> None:
        """It has made progress."""
        end = self._going.pop(one, None)
        if end is None:  # given up
            return
        self._going[one] = end
        now = asyncio.get_running_loop().time()
        ends = [end, *([now + self.idle] if self.idle else []), *([] if self._stop is None else [self._stop])]
        one.reschedule(min(ends))

    def stop(self, after: float) -> None:
        """Give all up that has not ended some seconds from now, and what begins later."""
        self._stop = asyncio.get_running_loop().time() + after
        for one in list(self._going):
            self._give_up(one, self._stop)

    def _give_up(self, one: asyncio.Timeout, when: float) -> None:
        self._going.pop(one)
        if not one.expired():
            one.reschedule(when)
