"""Creates that are sent again: what the first of them answered, by the key that its caller chose."""

from dataclasses import dataclass
from hashlib import sha256
from uuid import UUID

from gristmill.db import Transaction


@dataclass(frozen=True, slots=True)
class Name:
    """Whose key it is, and for what."""

    tenant_id: UUID
    path: str
    key: str

    @property
    def lock(self) -> int:
        """64 bits. Two keys with the same would at worst be told to wait for each other."""
        text = self.tenant_id.bytes + self.path.encode() + b"\0" + self.key.encode()
        return int.from_bytes(sha256(text).digest()[:8], signed=True)


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer, and the fingerprint of the body that it was given to."""

    fingerprint: bytes
    status: int
    location: str
    body: bytes


async def take(tx: Transaction, name: Name) -> bool:
    """Whether nobody else has it; until this transaction has ended, nobody else gets it.

    Postgres lets go of it after the commit is visible: who takes it next sees what `keep` has written.
    """
    return bool(await tx.fetchval("SELECT pg_try_advisory_xact_lock($1)", name.lock))


async def find(tx: Transaction, name: Name) -> Kept | None:
    row = await tx.fetchrow(
        """
        SELECT fingerprint, status, location, body FROM idempotency_key
        WHERE tenant_id = $1 AND path = $2 AND key = $3 AND expires_at > now()
        """,
        name.tenant_id,
        name.path,
        name.key,
    )
    return None if row is None else Kept(**row)


async def keep(tx: Transaction, name: Name, kept: Kept, seconds: int) -> None:
    """For so long from now. Call it after `take`, in the transaction that makes the answer true."""
    await tx.execute(
        """
        INSERT INTO idempotency_key (tenant_id, path, key, fingerprint, status, location, body, expires_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, now() + make_interval(secs => $8))
        ON CONFLICT (tenant_id, path, key) DO UPDATE SET
            fingerprint = excluded.fingerprint, status = excluded.status, location = excluded.location,
            body = excluded.body, expires_at = excluded.expires_at
        WHERE idempotency_key.expires_at <= now()
        """,
        name.tenant_id,
        name.path,
        name.key,
        kept.fingerprint,
        kept.status,
        kept.location,
        kept.body,
        seconds,
    )


async def forget(tx: Transaction) -> int:
    """Remove those whose time is over. Answers with how many."""
    done = await tx.execute("DELETE FROM idempotency_key WHERE expires_at <= now()")
    return int(done.split()[-1])
