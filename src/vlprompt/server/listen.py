"""What the commands that open a port share: their extra, the port, starting and stopping."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from vlprompt.errors import UserError


def need_extra(extra: str, *modules: str) -> None:
    """Check that an optional part is installed.

    Raises:
        UserError: a module of it is missing.
    """
    for module in modules:
        if find_spec(module) is None:
            raise UserError(
                f"'vlprompt {extra}' needs the package {module}: run pip install 'vlprompt[{extra}]'"
            )


def open_port(host: str, port: int) -> socket.socket:
    """A socket that is bound, but not listening yet; port 0 takes any free one.

    Raises:
        UserError: the port is in use or not allowed, or the host is not this machine's.
    """
    if not host.strip():
        raise UserError("--host is empty, which would be every network: give 127.0.0.1, or 0.0.0.0 for all")
    opened = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((host, port))
    except (OSError, OverflowError) as error:
        opened.close()
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"port {port} of '{host}' cannot be opened ({reason}): give another --port or --host"
        ) from error
    return opened


def run(
    app: Any, opened: socket.socket, what: str, grace: int, stop: Callable[[], None] = lambda: None
) -> None:
    """Serve an ASGI application until SIGTERM or Ctrl-C.

    Args:
        opened: where to listen; see :func:`open_port`.
        what: printed with the address when all is ready.
        grace: seconds in which requests in progress may end.
        stop: called when it begins to stop.
    """
    import uvicorn

    from vlprompt.server.connections import IDLE_TIME, Protocol, Server

    config = uvicorn.Config(
        app,
        http=Protocol,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=int(IDLE_TIME),
        timeout_graceful_shutdown=grace,
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        # uvicorn stops by itself and then raises the signal again, which would end us with an error
        signal.signal(number, lambda *_: None)
    opened.listen(config.backlog)
    host, port = opened.getsockname()[:2]
    print(f"{what} on http://{f'[{host}]' if ':' in host else host}:{port} (Ctrl-C stops it)", flush=True)
    Server(config, stop).run(sockets=[opened])
