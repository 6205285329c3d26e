"""`Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header-07): a create that is sent again makes nothing new."""

import re
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from gristmill.api import openapi
from gristmill.api.parts import Parts
from gristmill.db import Transaction
from gristmill.domain.errors import InFlight, Invalid, KeyReused, Problem
from gristmill.store import idempotency
from gristmill.store.idempotency import Kept, Name

MAX_CHARACTERS = 255
_FIELD = "Idempotency-Key"
# A string of RFC 8941, or the characters of its tokens: those may begin with a digit here, as UUIDs do.
_STRING = re.compile(rb'"((?:[ !#-\[\]-~]|\\["\\])*)"')
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z:/]+")

HEADER = openapi.header(
    _FIELD,
    {
        "type": "string",
        "minLength": 1,
        "maxLength": MAX_CHARACTERS + 2,
        "pattern": f"^({_STRING.pattern.decode()}|{_TOKEN.pattern.decode()})$",
    },
    "A name of your choice for this request, such as a UUID, bare or in double quotes. Sent again under it, by any key of "
    "the tenant, the same body gets the first answer again, with `Idempotency-Replayed: true`, and makes no second "
    "batch; another body is a 422. While the first is at work, the second is a 409 with `Retry-After`. A refused "
    "create leaves the name free. It is remembered for 24 hours unless configured otherwise, even if the batch is "
    "deleted.",
)


class Once:
    """One create and the key it came with; without one, nothing here does anything. Raises Invalid for a bad key."""

    def __init__(self, of: Parts, request: Request, tenant_id: UUID) -> None:
        self._of = of
        key = _key(request)
        self._name = None if key is None else Name(tenant_id, request.scope["path"], key)
        self._fingerprint = b""

    def fingerprint(self, body: bytes) -> None:
        if self._name is not None:
            self._fingerprint = self._of.vault.fingerprint(body)

    async def before(self) -> Response | None:
        """The answer that this create has had. Looked for before the body is checked: what it names may be gone by now."""
        if self._name is None:
            return None
        async with self._of.database.connection() as connection:
            return self._again(await idempotency.find(connection, self._name))

    async def begin(self, tx: Transaction) -> Response | None:
        """As `before`, and from now to the end of the transaction no other process makes it. Raises InFlight."""
        if self._name is None:
            return None
        if not await idempotency.take(tx, self._name):
            raise InFlight("a request with this Idempotency-Key is at work; ask again soon")
        return self._again(await idempotency.find(tx, self._name))

    async def keep(self, tx: Transaction, made: Response) -> None:
        if self._name is None:
            return
        kept = Kept(self._fingerprint, made.status_code, made.headers["location"], bytes(made.body))
        await idempotency.keep(tx, self._name, kept, self._of.settings.idempotency_seconds)

    def _again(self, kept: Kept | None) -> Response | None:
        if kept is None:
            return None
        if kept.fingerprint != self._fingerprint:
            raise KeyReused("this Idempotency-Key came before with another body")
        headers = {"Location": kept.location, "Idempotency-Replayed": "true"}
        return Response(kept.body, kept.status, headers, media_type="application/json")


def _key(request: Request) -> str | None:
    values = [value for name, value in request.scope["headers"] if name == b"idempotency-key"]
    if not values:
        return None
    key = _parsed(values[0].strip(b" \t")) if len(values) == 1 else ""
    if not 1 <= len(key) <= MAX_CHARACTERS:
        detail = (
            f"one key of 1 to {MAX_CHARACTERS} characters: a string in double quotes, as RFC 8941 has it, or "
            "letters, digits and !#$%&'*+-.^_`|~:/"
        )
        raise Invalid([Problem(_FIELD, "invalid_idempotency_key", detail)])
    return key


def _parsed(value: bytes) -> str:
    """The text of the key, the same whether it came bare or quoted; empty if it is neither."""
    if quoted := _STRING.fullmatch(value):
        return re.sub(rb'\\(["\\])', rb"\1", quoted[1]).decode("ascii")
    return value.decode("ascii") if _TOKEN.fullmatch(value) else ""
