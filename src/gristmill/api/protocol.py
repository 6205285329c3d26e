"""The deadlines that uvicorn lacks: for the head of a request, and for who reads an answer. The pace of a request's
body: `body.py`."""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADER_SECONDS = (
    9.0  # from the first byte of a request, or the connect, to the end of its headers: closed within 10
)
MAX_HEADER_BYTES = 64 * 1024
STALL_SECONDS = 60.0  # in which a reader takes nothing of an answer


class DeadlineProtocol(HttpToolsProtocol):
    """Closes connections whose request head does not come, drips, or never ends (uvicorn issue 157), and those whose
    answer nobody reads: each would keep a part of it in memory for ever."""

    _deadline: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _stall: asyncio.TimerHandle | None = None
    _unread = 0  # of an answer, when the timer was set

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arm()

    def data_received(self, data: bytes) -> None:
        # Outside of a request: a head, or the rest of a body that was answered early. Either has to end.
        outside = self.cycle is None or self.cycle.response_complete
        if outside:
            self._arm()
        super().data_received(data)
        if outside and self._deadline is not None and not self._reading_on():
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEADER_BYTES:
                self.transport.close()

    def _reading_on(self) -> bool:
        return self.cycle is not None and self.cycle.more_body

    def on_headers_complete(self) -> None:
        self._disarm()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._disarm()
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._readable()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        self._readable()
        super().resume_writing()

    def _watch_reader(self) -> None:
        self._unread = self.transport.get_write_buffer_size()
        self._stall = self.loop.call_later(STALL_SECONDS, self._look_at_reader)

    def _look_at_reader(self) -> None:
        if self.transport.get_write_buffer_size() < self._unread:
            self._watch_reader()
        else:
            self.transport.abort()  # closing would wait for the reader

    def _readable(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _arm(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(HEADER_SECONDS, self._close)

    def _disarm(self) -> None:
        self._head_bytes = 0
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _close(self) -> None:
        self._deadline = None
        self.transport.close()
