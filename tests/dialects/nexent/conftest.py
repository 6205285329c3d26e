from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import orjson
import pytest

from databases import Server
from fakes.receiver import Received, Receiver
from fakes.s3 import KEY_ID, SECRET, Bucket, S3Server
from served import Served, serving
from stranger import Stranger, arrive, until


@pytest.fixture(scope="session")
def objects(s3: S3Server) -> Bucket:
    """What callers may name as `minio`."""
    return s3.bucket()


@pytest.fixture(scope="session")
async def mill(
    server: Server, tmp_path_factory: pytest.TempPathFactory, objects: Bucket
) -> AsyncIterator[Served]:
    settings = {
        "s3_endpoint_url": objects.url,
        "s3_access_key_id": KEY_ID,
        "s3_secret_access_key": SECRET,
        "s3_root": f"s3://{objects.name}/nexent",
    }
    async with serving(server, tmp_path_factory.mktemp("nexent"), **settings) as mill:
        yield mill


@pytest.fixture
async def sink() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


@dataclass(frozen=True)
class Nexent:
    """Nexent's back end as a client of the data process: what it sends, and how it makes sense of the rows."""

    stranger: Stranger
    index: str

    async def send(self, method: str, path: str, **more: Any) -> Any:
        headers = {"Authorization": f"Bearer {self.stranger.key}"}
        return await self.stranger.service.client.request(method, f"/tasks{path}", headers=headers, **more)

    def source(self, path: str, source_type: str = "local", **more: Any) -> dict[str, Any]:
        return {
            "source": path, "source_type": source_type, "chunking_strategy": "basic", "index_name": self.index,
            "original_filename": path.rpartition("/")[2], "embedding_model_id": 3, "tenant_id": "their-tenant",
            "telemetry_context": {"traceparent": "00-1-2-01"},
        } | more  # fmt: skip

    async def submit(self, *sources: dict[str, Any]) -> list[str]:
        answer = await self.send("POST", "/batch", json={"sources": list(sources)})
        assert answer.status_code == 201, answer.text
        ids: list[str] = answer.json()["task_ids"]
        assert len(ids) == len(sources)
        return ids

    async def rows(self) -> list[dict[str, Any]]:
        answer = await self.send("GET", f"/indices/{self.index}")
        assert answer.status_code == 200, answer.text
        rows: list[dict[str, Any]] = answer.json()
        return rows

    async def states(self) -> dict[str, str]:
        """By path, from the newest row of each stage, as the back end does it: it asks for the state of the two."""
        newest: dict[tuple[str, str], tuple[float, str]] = {}
        for row in await self.rows():
            at = (row["path_or_url"], row["task_name"])
            if row["created_at"] > newest.get(at, (0, ""))[0]:
                newest[at] = (row["created_at"], row["status"])
        states = {}
        for path, _ in newest:
            asked = {f"{name}_state": newest.get((path, name), (0, ""))[1] for name in ("process", "forward")}
            states[path] = (await self.send("POST", "/convert_state", json=asked)).json()["state"]
        return states

    async def until(self, **wanted: str) -> dict[str, str]:
        """The states, once all of them are as wanted; dots in paths are written as `__`."""
        expected = {path.replace("__", "."): state for path, state in wanted.items()}

        async def look() -> dict[str, Any] | None:
            found = await self.states()
            return found if found == expected else None

        return await until(look)

    async def details(self, task_id: str) -> dict[str, Any]:
        answer = await self.send("GET", f"/{task_id}/details")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def ended(self, *task_ids: str) -> list[dict[str, Any]]:
        async def look() -> dict[str, Any] | None:
            found = [await self.details(one) for one in task_ids]
            return {"all": found} if {one["status"] for one in found} <= {"SUCCESS", "FAILURE"} else None

        found: list[dict[str, Any]] = (await until(look))["all"]
        return found

    async def use(self, sink: Receiver, name: str = "nexent", **more: Any) -> None:
        """Store where chunks go."""
        config = {"sink": {"url": sink.url, "headers": {"Authorization": "Bearer of-the-sink"}} | more}
        made = await self.stranger.post(
            "/api/v1/configurations", {"name": name, "processor": "pipeline", "config": config}
        )
        assert made.status_code == 201, made.text


@pytest.fixture
async def stranger(mill: Served) -> Stranger:
    return await arrive(mill)


@pytest.fixture
async def bare(stranger: Stranger) -> Nexent:
    """Without a sink."""
    return Nexent(stranger, f"index-{uuid4().hex[:12]}")


@pytest.fixture
async def nexent(bare: Nexent, sink: Receiver) -> Nexent:
    await bare.use(sink)
    return bare


def chunks(posts: Sequence[Received]) -> list[dict[str, Any]]:
    return [chunk for post in posts for chunk in orjson.loads(post.body)["chunks"]]
