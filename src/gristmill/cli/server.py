"""The listening socket, and uvicorn with deadlines and without its signal handling."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from gristmill.api.protocol import DeadlineProtocol
from gristmill.cli.refusal import Refusal

_IDLE_SECONDS = 30  # between two requests of a connection
_BACKLOG = 2048
_MESSAGE_BYTES = 64 * 1024  # of a WebSocket: nothing that we listen to is longer


def bind(host: str, port: int) -> socket.socket:
    """Before anything else is started: a port in use is then told at once. Port 0: the system chooses one."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except socket.gaierror:
        raise Refusal(f"cannot listen on {host}: no such address; set GRISTMILL_HOST") from None
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise Refusal(
            f"cannot listen on {host}:{port}: {reason}; set GRISTMILL_HOST and GRISTMILL_PORT"
        ) from None


class Server(uvicorn.Server):
    def __init__(self, app: FastAPI, *, drain_seconds: float) -> None:
        config = uvicorn.Config(
            app,
            http=DeadlineProtocol,
            ws="wsproto",
            ws_max_size=_MESSAGE_BYTES,
            ws_per_message_deflate=False,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_IDLE_SECONDS,
            timeout_graceful_shutdown=max(1, round(drain_seconds)),
        )
        super().__init__(config)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Left to `Stop`: uvicorn raises them again after its own end, and the exit status would not be 0."""
        yield
