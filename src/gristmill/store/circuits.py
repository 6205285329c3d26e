"""Circuits that are open: a row exists exactly as long as nothing but probes may call (upstream/circuit.py).

`until` is when the next probe may start. The claim that takes it moves it on (store/claims.py), so that of all processes one
probes at a time, and a probe that hangs or dies with its worker is followed by another. Lock order: taken by itself here; by a
claim after the schedule and before the span.
"""

from uuid import UUID

from gristmill.db import Transaction

FIRST_PAUSE_SECONDS = 1.0  # before the first probe; each that follows waits twice as long, up to the longest
_JITTER = 0.2
_OPEN = f"""
INSERT INTO circuit (tenant_id, name, reason, until, pause_seconds, longest_seconds, confirmed)
VALUES (
    $1, $2, $3, now() + make_interval(secs => coalesce($4::float8, $5 * (1 + {_JITTER} * random()))), least(2 * $5, $6), $6,
    $4::float8 IS NOT NULL
)
ON CONFLICT (tenant_id, name) DO UPDATE SET
    until = greatest(circuit.until, excluded.until), reason = excluded.reason, longest_seconds = excluded.longest_seconds,
    confirmed = circuit.confirmed OR excluded.confirmed
"""


async def open_(
    tx: Transaction,
    tenant_id: UUID,
    name: str,
    *,
    reason: str,
    seconds: float | None,
    longest_seconds: float,
) -> None:
    """No probe for so many seconds; None: a first pause. One that is open already stays so for as long as it would."""
    first = min(FIRST_PAUSE_SECONDS, longest_seconds)
    await tx.execute(_OPEN, tenant_id, name, reason, seconds, first, longest_seconds)


async def close(tx: Transaction, tenant_id: UUID, name: str) -> None:
    await tx.execute("DELETE FROM circuit WHERE tenant_id = $1 AND name = $2", tenant_id, name)


# As it was before the claim of the probe (store/claims.py), or sooner.
_UNPROBED = "UPDATE circuit SET until = now(), pause_seconds = pause_seconds / 2"


async def confirm(tx: Transaction, tenant_id: UUID, name: str) -> None:
    """A probe has failed, too: it is an outage."""
    await tx.execute(
        "UPDATE circuit SET confirmed = true WHERE tenant_id = $1 AND name = $2", tenant_id, name
    )


async def let_probe(tx: Transaction, tenant_id: UUID, name: str) -> None:
    """The last probe came to an end without a call: the next may start now."""
    await tx.execute(f"{_UNPROBED} WHERE tenant_id = $1 AND name = $2 AND until > now()", tenant_id, name)


async def give_probe_back(tx: Transaction, batch_id: UUID) -> None:
    """Nothing that may run was left of what was claimed as a probe, in the caller's transaction, of this batch."""
    of_batch = (
        "FROM batch_schedule s WHERE s.batch_id = $1 AND circuit.tenant_id = s.tenant_id AND name = s.circuit"
    )
    await tx.execute(f"{_UNPROBED} {of_batch}", batch_id)


async def open_ones(connection: Transaction) -> dict[tuple[UUID, str], bool]:
    """Those that are open, and whether it is an outage for certain."""
    rows = await connection.fetch("SELECT tenant_id, name, confirmed FROM circuit")
    return {(row["tenant_id"], row["name"]): row["confirmed"] for row in rows}


async def forget(tx: Transaction) -> None:
    """Remove those that nothing has wanted to probe for a day: their batches have ended."""
    await tx.execute("DELETE FROM circuit WHERE until < now() - interval '1 day'")
