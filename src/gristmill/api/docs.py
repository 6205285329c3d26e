"""The OpenAPI document and a page that shows it, without any foreign host."""

from functools import cache
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response

from gristmill.api import answers, batch_answers, item_answers
from gristmill.api.agent_options import AgentCreate, AgentPublish, AgentUpdate
from gristmill.api.configurations import ConfigurationCreate, ConfigurationUpdate
from gristmill.api.envelope import as_json
from gristmill.api.file_options import DirectoryCreate, DirectoryFiles, FileFromUrl
from gristmill.api.keys import KeyCreate, KeyRotate
from gristmill.api.limits import LimitPut
from gristmill.api.links import LinkOptions
from gristmill.api.retry import RetryOptions
from gristmill.api.schemas import BatchChange, BatchCreate
from gristmill.domain.errors import NotFound

DESCRIPTION = """\
Post a batch of requests for an agent or any other processor; it runs in the background. Watch it, pause, resume or
cancel it, read results while it runs, and have a signed webhook tell you when it has ended.

Every answer is `{"data", "message", "error_code"}`; lists add `pagination`. Refusals have `error` with every problem
and a JSON pointer to it. JSON is read strictly: unknown fields, wrong types, NaN, NUL and integers beyond 64 bits are
refused; of duplicate keys the last one wins.
"""

_TITLE = "Gristmill API"
_PAGE = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_TITLE}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="page"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START = """SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#page",
  deepLinking: true,
  persistAuthorization: false,
  presets: [SwaggerUIBundle.presets.apis, SwaggerUIBundle.SwaggerUIStandalonePreset],
  validatorUrl: null
});
"""
# Swagger UI sets style attributes while it draws.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_ASSETS = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}
_MODELS: tuple[type[BaseModel], ...] = (
    BatchCreate, BatchChange, RetryOptions, AgentCreate, AgentUpdate, AgentPublish, ConfigurationCreate, ConfigurationUpdate,
    KeyCreate, KeyRotate, LimitPut, FileFromUrl, LinkOptions, DirectoryCreate, DirectoryFiles,
    *answers.MODELS, *batch_answers.MODELS, *item_answers.MODELS,
)  # fmt: skip

router = APIRouter(include_in_schema=False)


def document(app: FastAPI) -> dict[str, Any]:
    """Built once: routes do not change while the process lives."""
    if app.openapi_schema is None:
        made = get_openapi(
            title=_TITLE, version=app.version, description=app.description, routes=app.routes, tags=_TAGS
        )
        _without_422(made)
        _, definitions = models_json_schema(
            [(model, "validation") for model in _MODELS], ref_template="#/components/schemas/{model}"
        )
        made["components"] = {"schemas": definitions["$defs"], "securitySchemes": _SECURITY}
        app.openapi_schema = made
    return app.openapi_schema


def _without_422(made: dict[str, Any]) -> None:
    """FastAPI documents what it would answer to a bad path parameter; here all validation is 400, and a 422 is our own."""
    for item in made["paths"].values():
        for operation in item.values():
            if "HTTPValidationError" in str(operation["responses"].get("422")):
                del operation["responses"]["422"]


_TAGS = [
    {"name": "Batches", "description": "Many requests for one processor"},
    {"name": "Results", "description": "What each request came to"},
    {"name": "Tasks", "description": "Requests of all batches as one list"},
    {"name": "Webhooks", "description": "Deliveries of a batch's events"},
    {"name": "Agents", "description": "Instructions, a model, tools"},
    {"name": "Configurations", "description": "Named settings of a processor, for many batches"},
    {"name": "Files", "description": "Attached to requests, gathered in directories"},
    {"name": "Directories", "description": "Named sets of files"},
    {"name": "Chats", "description": "What was said"},
    {"name": "Processors", "description": "The kinds of work installed here"},
    {"name": "Keys", "description": "Who may call, and who gave whom what"},
    {
        "name": "Limits",
        "description": "What a tenant, a processor or an endpoint may have, in all workers together",
    },
    {"name": "Operation", "description": "For probes and scrapers"},
]
_SECURITY = {
    "ApiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    "Bearer": {"type": "http", "scheme": "bearer"},
    "AuthToken": {"type": "apiKey", "in": "header", "name": "X-Auth-Token"},
}


@router.get("/openapi.json")
async def openapi(request: Request) -> Response:
    return as_json(document(request.app))


@router.get("/docs")
async def page() -> Response:
    return Response(_PAGE, media_type="text/html", headers={"Content-Security-Policy": _POLICY})


@router.get("/docs/start.js")
async def start() -> Response:
    return Response(_START, media_type="text/javascript")


@router.get("/docs/{name}")
async def asset(name: str) -> Response:
    if name not in _ASSETS:
        raise NotFound("no such page")
    headers = {"Cache-Control": "public, max-age=86400"}
    return Response(_asset(name), media_type=_ASSETS[name], headers=headers)


@cache
def _asset(name: str) -> bytes:
    return (files("fastapi_offline") / "static" / name).read_bytes()
