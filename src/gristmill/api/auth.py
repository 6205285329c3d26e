"""Who is calling: one key table behind three headers."""

from starlette.requests import Request

from gristmill.api.parts import parts
from gristmill.domain.errors import Forbidden, Unauthenticated
from gristmill.store.acts import Actor
from gristmill.store.keys import Key

_MAX_KEY_BYTES = 512
_NO_KEY = "send an API key as x-api-key, as Authorization: Bearer, or as X-Auth-Token"


async def caller(request: Request, scope: str | None = None) -> Key:
    """The key that the request came with. Raises Unauthenticated, or Forbidden if it lacks the scope.

    Every route calls this before it looks at anything else of the request.
    """
    key = await parts(request).keys.find(_offered(request))
    if key is None:
        raise Unauthenticated("the API key is not valid", code="invalid_key")
    if scope is not None and not key.allows(scope):
        raise Forbidden(f"the API key lacks the scope {scope}", code="missing_scope")
    return key


def actor(request: Request, key: Key) -> Actor:
    """Who, for the log of administrative acts."""
    identifier = key.name if key.kind == "jwt" else str(key.id)
    address = request.client.host if request.client else None
    return Actor(key.kind, identifier, key.name, address, request.scope.get("request_id"))


def _offered(request: Request) -> str:
    offered = set()
    for name, value in request.scope["headers"]:
        if name in (b"x-api-key", b"x-auth-token"):
            offered.add(value.strip())
        elif name == b"authorization" and value[:7].lower() == b"bearer ":
            offered.add(value[7:].strip())
    if not offered:
        raise Unauthenticated(_NO_KEY)
    if len(offered) > 1:
        raise Unauthenticated("the request carries different API keys", code="ambiguous_credentials")
    return _text(offered.pop())


def _text(key: bytes) -> str:
    try:
        text = key.decode()
    except UnicodeDecodeError:
        text = ""
    if not text or len(key) > _MAX_KEY_BYTES:
        raise Unauthenticated("the API key is not valid", code="invalid_key")
    return text
