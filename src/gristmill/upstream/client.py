"""The one way to the model: any OpenAI-compatible endpoint of the operator's choice.

It has an HTTP session of its own and not the guarded one of `net`: the endpoint comes from the operator's
settings, not from a caller, so a private address is fine. The worker decides how many calls run at once.
"""

import asyncio
import time
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from typing import Any, Self

import aiohttp
import orjson
from yarl import URL

from gristmill import metrics
from gristmill.net.loss import told_of_loss
from gristmill.net.session import USER_AGENT
from gristmill.settings import Settings
from gristmill.upstream import answers, errors, usage
from gristmill.upstream.circuit import Call, Circuit, HeldOff, Reason
from gristmill.upstream.errors import UpstreamError
from gristmill.upstream.large import LARGE_BYTES, LargeAnswer, LargeAnswers
from gristmill.upstream.outage import Outage
from gristmill.upstream.permits import Crowded, Permit

MESSAGES = "/messages"
MAX_ANSWER_BYTES = 16 * 1024 * 1024  # after decompression
LARGE_ANSWERS = 4  # read at a time
_EXCERPT_BYTES = 64 * 1024  # of the body of an error
_EXCERPT_SECONDS = 5.0
_CONNECT_SECONDS = 10.0
_SILENCE_SECONDS = (
    30.0  # between two pieces of a body; before its first byte a model may think as long as the deadline
)
_KEEP_ALIVE_SECONDS = 15.0  # shorter than what servers grant: a POST into a closing connection is lost


@dataclass(frozen=True, slots=True)
class UpstreamAnswer:
    """A 2xx answer: a JSON object without an error in it, and no character that Postgres cannot keep."""

    status: int
    body: dict[str, Any]


class Upstream:
    """Calls to the endpoint of GRISTMILL_LLM_BASE_URL, within `async with`; for all tasks of one loop."""

    def __init__(self, settings: Settings) -> None:
        """Raises ValueError, which never quotes the URL, if it is missing or unusable."""
        self._base = _base_url(settings.llm_base_url)
        self._secret = settings.llm_api_key.get_secret_value() if settings.llm_api_key else None
        self._of_a_batch = False  # the secret is a caller's
        self._timeout_seconds = settings.llm_timeout_seconds
        self._prices = (settings.llm_price_prompt, settings.llm_price_completion)
        self._outage = Outage()
        self._large = LargeAnswers(LARGE_ANSWERS)
        self._circuit: Circuit | None = None
        self._urls: dict[str, URL] = {}
        self._session: aiohttp.ClientSession
        self.model = settings.llm_model
        self.speaks_messages = settings.llm_messages

    async def __aenter__(self) -> Self:
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "User-Agent": USER_AGENT,
        }
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_SECONDS),
            timeout=aiohttp.ClientTimeout(
                total=self._timeout_seconds, sock_connect=min(_CONNECT_SECONDS, self._timeout_seconds / 2)
            ),
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),  # nothing may pass from one tenant's call to another's
            trust_env=False,
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._session.close()

    async def post(self, path: str, body: dict[str, Any], *, request_id: str | None = None) -> UpstreamAnswer:
        """Sends `body` to a path such as `/chat/completions`, once a limit of the service leaves room for it. Raises
        UpstreamError, also while the circuit is open.

        `request_id` goes along as X-Client-Request-Id, which providers log to find calls by.
        """
        permits = None if self._circuit is None else self._circuit.permits
        try:
            call = Call(self._circuit)
            call.check()
            async with Permit(permits, lambda: usage.expected(body)) as permit:
                with call:
                    answer = await self._post(call, path, orjson.dumps(body), request_id)
                permit.used(lambda: sum(usage.tokens(body, answer.body)))
                return answer
        except HeldOff:
            raise errors.held_off() from None
        except Crowded as crowded:
            raise errors.crowded(crowded.delay_seconds) from None

    async def _post(self, call: Call, path: str, body: bytes, request_id: str | None) -> UpstreamAnswer:
        started = time.monotonic()
        try:
            answer = await self._exchange(path, body, request_id)
        except UpstreamError as error:
            status = error.error.upstream_status or error.error.type
            metrics.upstream_called(str(status), time.monotonic() - started)
            self._failed(call, error)
            raise
        metrics.upstream_called(str(answer.status), time.monotonic() - started)
        self._outage.over()
        call.answered()
        return answer

    def _failed(self, call: Call, error: UpstreamError) -> None:
        if error.outage:
            throttled = error.error.upstream_status == 429
            hold = error.delay_seconds if error.waiting else None
            reason: Reason = "throttled" if throttled or hold is not None else "down"
            call.failed(reason, hold, waits=error.waiting)
        else:  # whatever it was, the endpoint is there
            call.answered()
        if self._of_a_batch:
            errors.tell_of_own_key(error)
        if error.waiting:
            planned = self._outage.delay(time.monotonic())
            error.delay_seconds = planned if error.delay_seconds is None else error.delay_seconds

    def with_own(self, api_key: str | None, model: str | None) -> Self:
        """The same endpoint with a batch's own key and model; None: the operator's. It shares the session: a caller's key
        goes along with each call and is kept nowhere else.
        """
        other = copy(self)
        if api_key is not None:
            other._secret, other._of_a_batch = api_key, True
        if model is not None and model != self.model:
            other.model = model
            other._prices = (None, None)  # those of the settings are for another model
        return other

    def on(self, circuit: Circuit | None) -> Self:
        """The same, with calls that go through this circuit."""
        other = copy(self)
        other._circuit = circuit
        return other

    @property
    def endpoint(self) -> str:
        """Which one it is; holds no credentials."""
        return str(self._base)

    def cost(self, prompt_tokens: int, completion_tokens: int) -> int | None:
        """Millionths of a US dollar by the configured prices; None without any."""
        prompt, completion = self._prices
        if prompt is None and completion is None:
            return None
        return round(prompt_tokens * (prompt or 0) + completion_tokens * (completion or 0))

    async def _exchange(self, path: str, body: bytes, request_id: str | None) -> UpstreamAnswer:
        if path not in self._urls:
            self._urls[path] = self._base.with_path(self._base.path.rstrip("/") + path, keep_query=True)
        headers = {"Authorization": f"Bearer {self._secret}"} if self._secret else {}
        if path == MESSAGES:  # as Anthropic's own endpoint wants them
            headers |= {"anthropic-version": "2023-06-01"} | (
                {"x-api-key": self._secret} if self._secret else {}
            )
        if request_id:
            headers["X-Client-Request-Id"] = request_id
        try:
            async with self._session.post(
                self._urls[path], data=body, headers=headers, allow_redirects=False
            ) as response:
                return await self._read(response)
        except aiohttp.ConnectionTimeoutError:
            raise errors.unreachable("it does not answer to connecting") from None
        except aiohttp.ClientConnectorDNSError:
            raise errors.unreachable("its name is not known") from None
        except aiohttp.ClientSSLError:
            raise errors.unreachable("its TLS certificate or version is refused") from None
        except aiohttp.ClientConnectorError:
            raise errors.unreachable("the connection is refused") from None
        except TimeoutError:
            raise errors.timed_out(self._timeout_seconds) from None
        except (aiohttp.ClientError, ConnectionError):
            raise errors.connection_lost() from None

    async def _read(self, response: aiohttp.ClientResponse) -> UpstreamAnswer:
        now = time.time()
        if not 200 <= response.status < 300:
            told = await _excerpt(response)
            raise errors.of_status(response.status, response.headers, told, now=now, secret=self._secret)
        content = response.content
        if content.is_eof() and content.total_bytes <= LARGE_BYTES:
            # As with most: all of it came with the head. There is nothing to watch, and no place to wait for.
            return self._answered(response, content.read_nowait(), now)
        async with self._large.one() as answer:
            with told_of_loss(response):
                whole = await _whole(response, MAX_ANSWER_BYTES, answer)
            return self._answered(response, whole, now)

    def _answered(self, response: aiohttp.ClientResponse, raw: bytes, now: float) -> UpstreamAnswer:
        found = answers.read(response.status, response.content_type, raw, now=now, secret=self._secret)
        return UpstreamAnswer(response.status, found)


def _base_url(text: str | None) -> URL:
    try:
        url = URL(text or "")
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(
            "GRISTMILL_LLM_BASE_URL must be an http or https URL, such as https://api.openai.com/v1"
        )
    if url.user or url.password:
        raise ValueError(
            "GRISTMILL_LLM_BASE_URL must hold no credentials: they go into GRISTMILL_LLM_API_KEY"
        )
    return url


async def _whole(response: aiohttp.ClientResponse, max_bytes: int, answer: LargeAnswer) -> bytes:
    """The body. Raises UpstreamError as soon as it is larger than `max_bytes`, or silent for too long."""
    try:
        async with asyncio.timeout(_SILENCE_SECONDS) as silence:
            return await _pieces(response, max_bytes, answer, silence)
    except TimeoutError:
        if silence.expired():
            raise errors.timed_out(_SILENCE_SECONDS, "did not send the next piece of its answer") from None
        raise


async def _pieces(
    response: aiohttp.ClientResponse, max_bytes: int, answer: LargeAnswer, silence: asyncio.Timeout
) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while piece := await response.content.readany():
        size += len(piece)
        if size > max_bytes:
            raise errors.too_large(max_bytes)
        pieces.append(piece)
        silence.reschedule(None)  # to wait for a place is no silence
        await answer.grown_to(size)
        silence.reschedule(asyncio.get_running_loop().time() + _SILENCE_SECONDS)
    return b"".join(pieces)


async def _excerpt(response: aiohttp.ClientResponse) -> bytes:
    """The start of an error's body. The status alone decides, so whatever goes wrong here is no news."""
    told = b""
    with suppress(aiohttp.ClientError, TimeoutError, ConnectionError), told_of_loss(response):
        async with asyncio.timeout(_EXCERPT_SECONDS):
            while len(told) < _EXCERPT_BYTES and (piece := await response.content.readany()):
                told += piece
    return told[:_EXCERPT_BYTES]
