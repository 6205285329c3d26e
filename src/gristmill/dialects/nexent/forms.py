"""The fields of a form, urlencoded or multipart, as browsers and HTTP libraries send them."""

from urllib.parse import parse_qsl

from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from gristmill.api import body
from gristmill.api.multipart import FilePart
from gristmill.api.parts import parts
from gristmill.dialects.nexent.words import invalid
from gristmill.domain.errors import Invalid, Problem, UnsupportedMediaType

URLENCODED, MULTIPART = b"application/x-www-form-urlencoded", b"multipart/form-data"
MAX_BYTES = 64 * 1024
_MAX_FIELDS = 50


async def read(request: Request, max_bytes: int = MAX_BYTES) -> dict[str, str]:
    """The first value of each. Raises UnsupportedMediaType, TooLarge, Invalid."""
    kind, _ = parse_options_header(request.headers.get("content-type"))
    body.check_not_encoded(request)
    if kind == MULTIPART:
        return await _parts(request, max_bytes)
    if kind != URLENCODED:
        raise UnsupportedMediaType("the body must be a form: application/x-www-form-urlencoded or multipart")
    raw = await body.read(request, max_bytes)
    async with parts(request).aside.turn(raw) as run:
        found: dict[str, str] = await run(_values, raw)
    return found


def _values(raw: bytes) -> dict[str, str]:
    values: dict[str, str] = {}
    try:
        for name, value in parse_qsl(
            raw.decode(), keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS
        ):
            values.setdefault(name, value)
    except ValueError:  # also for bytes that are no UTF-8
        raise Invalid([Problem("/", "invalid_form", "the form cannot be read")]) from None
    return values


async def _parts(request: Request, max_bytes: int) -> dict[str, str]:
    form = FilePart(lenient=True)
    try:
        async for _ in form.pieces(request.headers["content-type"], body.stream(request, max_bytes)):
            pass
    except Invalid as refused:
        if refused.code != "missing":  # a file that is not wanted here
            raise
    return form.texts


def required(values: dict[str, str], name: str) -> str:
    """Raises Invalid."""
    value = values.get(name)
    if not value:
        raise invalid(name, "Field required", "missing")
    return value


def seconds(values: dict[str, str], default: int, most: int) -> int:
    """The field `timeout`. Raises Invalid."""
    text = values.get("timeout") or str(default)
    if not (text.isascii() and text.isdecimal() and len(text) <= 9 and int(text) >= 1):
        raise invalid("timeout", "Input should be a valid integer", "int_parsing")
    return min(int(text), most)
