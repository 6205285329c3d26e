"""The keys that this process has seen lately, so that not every request asks the database."""

import time
from dataclasses import dataclass
from uuid import UUID

from gristmill.db import Database
from gristmill.store import keys
from gristmill.store.keys import Key
from gristmill.vault import Vault

LIFE_SECONDS = 4.0  # a revoked key opens nothing after at most 5 s
_MAX_KEYS = 10_000


@dataclass(frozen=True, slots=True)
class _Seen:
    key: Key
    until: float


class KeyRing:
    """Remembers keys by their digest, never by their text; bad keys are not remembered."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault
        self._seen: dict[bytes, _Seen] = {}

    async def find(self, plain: str) -> Key | None:
        digest = self._vault.digest(plain)
        seen = self._seen.get(digest)
        if seen is not None and seen.until > time.monotonic():
            return seen.key
        async with self._database.engine.connect() as connection:
            key = await keys.find(connection, digest)
        self._remember(digest, key)
        return key

    def forget(self, key_id: UUID) -> None:
        """In this process at once; the others come to know within LIFE_SECONDS."""
        self._seen = {digest: seen for digest, seen in self._seen.items() if seen.key.id != key_id}

    def _remember(self, digest: bytes, key: Key | None) -> None:
        if key is None:
            self._seen.pop(digest, None)
            return
        if len(self._seen) >= _MAX_KEYS:
            self._seen.clear()
        self._seen[digest] = _Seen(key, time.monotonic() + LIFE_SECONDS)
