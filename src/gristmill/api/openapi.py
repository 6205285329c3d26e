"""Words for the OpenAPI document: what routes that read the request themselves take and answer."""

from collections.abc import Mapping
from typing import Any

Schema = dict[str, Any]

_ERRORS = {
    400: "The request is not valid; `errors` lists everything that is wrong",
    401: "No or bad API key",
    403: "The API key lacks the scope",
    404: "Unknown, or another tenant's",
    410: "No longer kept; `error.batch` has its counts",
    408: "The body did not arrive in time",
    409: "Not possible in the present state, which the message names",
    413: "The body is too large",
    415: "The body is not of the right media type",
    422: "The `Idempotency-Key` came before with another body",
    503: "The database cannot be reached; try again after `Retry-After` seconds",
}
_ERROR_CONTENT = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}}

ALWAYS = (401, 403, 503)
READ = (*ALWAYS, 400, 404)
LIST = (*ALWAYS, 400)
WRITE = (*ALWAYS, 400, 408, 413, 415)
CHANGE = (*WRITE, 404)


def responses(*errors: int) -> dict[int | str, dict[str, Any]]:
    """The documented refusals of a route."""
    return {
        status: {"description": _ERRORS[status], "content": _ERROR_CONTENT} for status in sorted(set(errors))
    }


def documented(
    *parameters: Schema,
    body: Schema | None = None,
    answer: Schema | None = None,
    status: int = 200,
    example: Any = None,
    other_content: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """`openapi_extra` of a route: its query parameters, its body, what it answers."""
    extra: dict[str, Any] = {"security": [{"ApiKey": []}, {"Bearer": []}, {"AuthToken": []}]}
    if parameters:
        extra["parameters"] = list(parameters)
    if body is not None:
        extra["requestBody"] = body
    if answer is not None:
        content: dict[str, Any] = {"schema": answer}
        if example is not None:
            content["example"] = example
        extra["responses"] = {
            str(status): {"content": {"application/json": content, **(other_content or {})}}
        }
    return extra


def json_body(model: str, examples: Mapping[str, Any] | None = None, *, required: bool = True) -> Schema:
    content: dict[str, Any] = {"schema": ref(model)}
    if examples:
        content["examples"] = dict(examples)
    return {"required": required, "content": {"application/json": content}}


def ref(model: str) -> Schema:
    return {"$ref": f"#/components/schemas/{model}"}


def enveloped(data: Schema) -> Schema:
    return _envelope({"data": data})


def paged(record: Schema) -> Schema:
    return _envelope({"data": {"type": "array", "items": record}, "pagination": ref("Pagination")})


def _envelope(members: Mapping[str, Schema]) -> Schema:
    return {
        "type": "object",
        "required": [*members, "message", "error_code"],
        "properties": {**members, "message": {"type": "null"}, "error_code": {"const": 0}},
    }


def parameter(name: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": description}


def header(name: str, schema: Schema, description: str) -> Schema:
    return {**parameter(name, schema, description), "in": "header"}


PAGE = (
    parameter("limit", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 50}, "Records per page"),
    parameter("offset", {"type": "integer", "minimum": 0, "default": 0}, "Records to skip"),
    parameter(
        "cursor",
        {"type": "string"},
        "`next_cursor` of the page before, in place of offset: flat at any depth",
    ),
)
