"""Who is calling: one key table behind three headers, and tokens of one issuer."""

from collections.abc import Iterable

from starlette.requests import HTTPConnection, Request
from starlette.websockets import WebSocket

from gristmill.api import tokens
from gristmill.api.parts import Parts, parts
from gristmill.domain.errors import Forbidden, TooMany, Unauthenticated
from gristmill.store.acts import Actor
from gristmill.store.keys import Key

_MAX_KEY_BYTES = 512
_NO_KEY = "send an API key as x-api-key, as Authorization: Bearer, or as X-Auth-Token"


async def caller(request: Request, *scopes: str) -> Key:
    """The key, or the holder of the token, that the request came with. Raises Unauthenticated, Forbidden if it lacks
    one of the scopes, TooMany if its tenant has sent too much.

    Every route calls this before it looks at anything else of the request.
    """
    return await _admitted(request, *_offered(request), scopes)


async def listener(socket: WebSocket, scope: str) -> Key:
    """As `caller`, for who opens a WebSocket: browsers can set no headers there, so `?token=` is taken, too."""
    tokens_given = socket.query_params.getlist("token")
    offered = _offered(socket) if not tokens_given else (tokens_given[0].encode(), True)
    return await _admitted(socket, *offered, (scope,))


async def _admitted(request: HTTPConnection, offered: bytes, as_bearer: bool, scopes: Iterable[str]) -> Key:
    of = parts(request)
    key = await _found(of, offered, as_bearer)
    _count(of, request, key)
    for scope in scopes:
        check(key, scope)
    return key


def check(key: Key, scope: str) -> None:
    """Raises Forbidden. For routes that learn what they are about from the request: `caller` would count it twice."""
    if not key.allows(scope):
        what = "token" if key.kind == "jwt" else "API key"
        raise Forbidden(f"the {what} lacks the scope {scope}", code="missing_scope")


def _count(of: Parts, request: HTTPConnection, key: Key) -> None:
    rate = of.rates.take(key.tenant_id)
    if rate is None:
        return
    request.scope["rate"] = rate  # for the headers of the answer, whatever it will be (api/front.py)
    if not rate.allowed:
        detail = f"more than {rate.quota:,} requests a minute"
        raise TooMany(detail, retry_after_seconds=rate.retry_after_seconds)


def actor(request: Request, key: Key) -> Actor:
    """Who, for the log of administrative acts."""
    identifier = key.name if key.kind == "jwt" else str(key.id)
    address = request.client.host if request.client else None
    return Actor(key.kind, identifier, key.name, address, request.scope.get("request_id"))


async def _found(of: Parts, offered: bytes, as_bearer: bool) -> Key:
    if of.tokens is not None and as_bearer and _is_token(offered):
        return await of.tokens.holder(_text(offered, tokens.MAX_BYTES))
    key = await of.keys.find(_text(offered, _MAX_KEY_BYTES))
    if key is None:
        raise Unauthenticated("the API key is not valid", code="invalid_key")
    return key


def _is_token(offered: bytes) -> bool:
    """Three parts, the first of which is a JSON object in base64url."""
    return offered.startswith(b"ey") and offered.count(b".") == 2


def _offered(request: HTTPConnection) -> tuple[bytes, bool]:
    """What came in one or more of the headers, and whether as a bearer's."""
    offered, bearers = set(), set()
    for name, value in request.scope["headers"]:
        if name in (b"x-api-key", b"x-auth-token"):
            offered.add(value.strip())
        elif name == b"authorization" and value[:7].lower() == b"bearer ":
            bearers.add(value[7:].strip())
    both = offered | bearers
    if not both:
        raise Unauthenticated(_NO_KEY)
    if len(both) > 1:
        raise Unauthenticated("the request carries different API keys", code="ambiguous_credentials")
    return both.pop(), bool(bearers)


def _text(key: bytes, max_bytes: int) -> str:
    try:
        text = key.decode()
    except UnicodeDecodeError:
        text = ""
    if not text or len(key) > max_bytes:
        raise Unauthenticated("the credentials are not valid", code="invalid_key")
    return text
