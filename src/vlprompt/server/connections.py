"""Connections that would stay open for ever: uvicorn's own, with an end to headers that do not come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from socket import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

HEADER_TIME = 5.0
"""Seconds in which a connection must have begun a request."""
IDLE_TIME = 10.0
"""Seconds in which the next must have begun: clients keep their connections for 5, and must be the first to
close them, or a request meets one that is being closed."""


class Protocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """HTTP/1.1 that closes a connection on which no whole header comes."""

    cycle: Any
    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Wait for the first request."""
        super().connection_made(transport)
        self._looking = self.loop.call_later(HEADER_TIME, self._look, self.cycle)

    def on_response_complete(self) -> None:
        """Wait for the next, which may have come already."""
        self._looking.cancel()
        self._looking = self.loop.call_later(IDLE_TIME, self._look, self.cycle)
        super().on_response_complete()

    def _look(self, before: Any) -> None:
        """Close what has begun no request since."""
        if self.cycle is before:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Look no more."""
        self._looking.cancel()
        super().connection_lost(exc)


class Server(uvicorn.Server):
    """Says when it begins to stop, before it waits for what is under way."""

    def __init__(self, config: uvicorn.Config, stop: Callable[[], None]):
        super().__init__(config)
        self._stop = stop

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Stop."""
        self._stop()
        await super().shutdown(sockets)
