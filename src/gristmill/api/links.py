"""Links to files: whoever has one may download that file without a key, until its time is over."""

import base64
import binascii
import time
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from gristmill.api import body, content, pages
from gristmill.api.auth import caller
from gristmill.api.envelope import answer
from gristmill.api.files import id_of
from gristmill.api.openapi import CHANGE, documented, enveloped, json_body, ref, responses
from gristmill.api.parts import parts
from gristmill.api.query import Query
from gristmill.api.schemas import Strict
from gristmill.domain.errors import NotFound
from gristmill.intake import problems
from gristmill.storage.base import file_key
from gristmill.store import files
from gristmill.vault import SIGNATURE_BYTES

DEFAULT_SECONDS = 3600
MAX_SECONDS = 7 * 86_400
_BYTES = SIGNATURE_BYTES + 16 + 16 + 8  # signature, tenant, file, second of its end

router = APIRouter(tags=["Files"])


class LinkOptions(Strict):
    expires_seconds: int = Field(
        DEFAULT_SECONDS, ge=1, le=MAX_SECONDS, description="How long it opens the file"
    )


@router.post(
    "/api/v1/files/{file_id}/link",
    status_code=201,
    summary="Make a link to a file",
    responses=responses(*CHANGE),
    openapi_extra=documented(
        body=json_body("LinkOptions", required=False), answer=enveloped(ref("LinkAnswer")), status=201
    ),
)
async def link_file(request: Request, file_id: str) -> Response:
    """For a download without a key, by a browser or another service. It cannot be taken back; deleting the file ends it."""
    key = await caller(request, "files:read")
    Query(request, ()).check()
    options = problems.checked(LinkOptions, await body.read_optional(request))
    async with parts(request).database.engine.connect() as connection:
        file = await files.get(connection, key.tenant_id, id_of(file_id))
    return answer(made(request, key.tenant_id, file.id, options.expires_seconds), 201)


def made(request: Request, tenant_id: UUID, file_id: UUID, seconds: int) -> dict[str, Any]:
    """`url` and `expires_at`. Nothing is stored: the link itself says what it opens, signed."""
    until = int(time.time()) + seconds
    payload = tenant_id.bytes + file_id.bytes + until.to_bytes(8)
    signature = parts(request).vault.sign(_signed(payload))
    token = base64.urlsafe_b64encode(signature + payload).decode().rstrip("=")
    url = f"{pages.base_url(request)}/downloads/{token}"
    return {"url": url, "expires_at": datetime.fromtimestamp(until, UTC)}


def _signed(payload: bytes) -> bytes:
    return b"link:" + payload


@router.get(
    "/downloads/{token}",
    summary="Download by a link",
    responses={**responses(400, 404, 503), 200: {"content": {"application/octet-stream": {}}}},
)
async def download(request: Request, token: str) -> Response:
    """The file that the link is for. No key is needed."""
    Query(request, ()).check()
    tenant_id, file_id = _opened(request, token)
    async with parts(request).database.engine.connect() as connection:
        file = await files.get(connection, tenant_id, file_id)
    return await content.content(request, file_key(tenant_id, file.id), file)


def _opened(request: Request, token: str) -> tuple[UUID, UUID]:
    """Raises NotFound for a link that was not made here, and for one whose time is over."""
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    payload = raw[SIGNATURE_BYTES:]
    known = len(raw) == _BYTES and parts(request).vault.verify(_signed(payload), raw[:SIGNATURE_BYTES])
    if not known or int.from_bytes(payload[32:]) < time.time():
        raise NotFound("no such link, or its time is over")
    return UUID(bytes=payload[:16]), UUID(bytes=payload[16:32])
