"""The loss of a connection, told to the one who reads an answer from it.

aiohttp (3.14) closes the connection when a later piece of a body breaks the rules of chunks, and tells nobody: who
waits for the rest would wait until the deadline.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp


@contextmanager
def told_of_loss(response: aiohttp.ClientResponse) -> Iterator[None]:
    """Reading the body within raises ClientPayloadError as soon as no more of it can come."""
    connection = response.connection  # None: all of it is there
    protocol = None if connection is None else connection.protocol
    if protocol is None:
        yield
        return

    def tell(_: object) -> None:
        content = response.content
        if not content.is_eof() and content.exception() is None:
            content.set_exception(aiohttp.ClientPayloadError("The connection was lost within the body"))

    closed = protocol.closed
    if closed is None:  # it has been lost already
        tell(None)
        yield
        return
    closed.add_done_callback(tell)
    try:
        yield
    finally:
        closed.remove_done_callback(tell)
        closed.remove_done_callback(_hear)  # it is the connection's, and that serves many answers
        closed.add_done_callback(_hear)


def _hear(closed: "asyncio.Future[None]") -> None:
    """So that asyncio does not complain of an error that nobody asked for."""
    if not closed.cancelled():
        closed.exception()
