"""The listening socket, and uvicorn without its signal handling."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from gristmill.cli.refusal import Refusal

_BACKLOG = 2048


def bind(host: str, port: int) -> socket.socket:
    """Before anything else is started: a port in use is then told at once. Port 0: the system chooses one."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        raise Refusal(
            f"cannot listen on {host}:{port}: {error.strerror}; set GRISTMILL_HOST and GRISTMILL_PORT"
        ) from None


class Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Left to `Stop`: uvicorn raises them again after its own end, and the exit status would not be 0."""
        yield
