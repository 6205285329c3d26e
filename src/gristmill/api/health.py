"""For probes and scrapers: no credentials, no envelope."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from gristmill import metrics
from gristmill.api.envelope import as_json
from gristmill.api.parts import Parts, parts
from gristmill.store import schema

router = APIRouter(tags=["Operation"])


@router.get("/healthz", summary="Is the process alive?")
async def healthz() -> Response:
    """Asks nothing of the database."""
    return as_json({"status": "ok"})


@router.get("/readyz", summary="Can it take requests?", responses={503: {"description": "Not now"}})
async def readyz(request: Request) -> Response:
    """503 while Postgres is away, while its schema is not this version's, or while the process drains."""
    of = parts(request)
    checks = {"draining": of.draining.is_set(), **await _database(of)}
    ready = not checks["draining"] and checks["database"] and checks["schema"]
    return as_json({"status": "ready" if ready else "not ready", **checks}, 200 if ready else 503)


async def _database(of: Parts) -> dict[str, bool]:
    try:
        return {"database": True, "schema": await schema.at_head(of.database)}
    except Exception:  # whatever keeps it from answering, the process is not ready
        return {"database": False, "schema": False}


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def scrape(request: Request) -> Response:
    """Of this process; those that begin with `gristmill_queue_` are of the whole service, and the same in each process."""
    await parts(request).depth.measure()
    text, media_type = metrics.render()
    return Response(text, media_type=media_type)
