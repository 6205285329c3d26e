"""One of everything that has an id, for tests that go to every route."""

from uuid import UUID

import factories
from gristmill.db import Database
from gristmill.domain.outcomes import Turn
from gristmill.store.new_batches import NewWebhook
from service import Caller, new_key


class Belongings:
    """Of one tenant; what is deleted is made again when it is asked for."""

    def __init__(self, owner: Caller, database: Database) -> None:
        self._owner = owner
        self._database = database
        self._ids: dict[str, str] = {}
        self._worker: int | None = None

    async def ids(self) -> dict[str, str]:
        """By the names that paths have for them."""
        if "batch_id" not in self._ids:
            await self._batch()
        if "agent_id" not in self._ids:
            self._ids["agent_id"] = await self._owner.agent()
        if "configuration_id" not in self._ids:
            self._ids["configuration_id"] = await self._owner.configuration()
        if "file_id" not in self._ids:
            self._ids["file_id"] = await self._owner.upload(b"text")
        if "directory_id" not in self._ids:
            self._ids["directory_id"] = await self._owner.directory(self._ids["file_id"])
        if "key_id" not in self._ids:
            self._ids["key_id"] = await self._key()
        return {"kind": "processor", "name": "noop", "token": "of-no-link", **self._ids}

    def gone(self, path: str) -> None:
        """That was deleted. A file may be in a directory, which is made anew with it."""
        last = path.rstrip("}").rpartition("{")[2]
        self._ids.pop(last, None)

    async def _batch(self) -> None:
        """Ended, with a chat and a delivery."""
        database, tenant_id = self._database, self._owner.tenant_id
        self._worker = self._worker or await factories.make_worker(database)
        webhook = NewWebhook("https://a.example.com/", ("completed",))
        batch_id = await factories.make_batch(database, 1, tenant_id=tenant_id, webhook=webhook)
        await self._end(batch_id)
        [result] = await self._owner.data(f"/api/v1/batches/{batch_id}/results")
        [delivery] = await self._owner.data(f"/api/v1/batches/{batch_id}/deliveries")
        self._ids |= {
            "batch_id": str(batch_id),
            "custom_id": "item-0",
            "task_id": f"{batch_id}-0",
            "history_id": str(result["history_id"]),
            "delivery_id": delivery["id"],
        }

    async def _end(self, batch_id: UUID) -> None:
        """With what comes before it."""
        assert self._worker is not None
        ended: set[UUID] = set()
        while batch_id not in ended:
            for lease in await factories.claim(self._database, self._worker, 100):
                results = [
                    factories.success(lease, item.ordinal, turn=Turn("hello", "hi", None))
                    for item in lease.items
                ]
                flush = factories.Flush({lease.id: 0}, results)
                await factories.record(self._database, self._worker, flush, alone=True)
                ended.add(lease.batch_id)

    async def _key(self) -> str:
        """Not the owner's own."""
        await new_key(self._owner.service, self._owner.tenant_id, ["files:read"])
        keys = await self._owner.data("/api/v1/api-keys")
        return str(
            next(one["id"] for one in keys if one["scopes"] == ["files:read"] and not one["revoked_at"])
        )
