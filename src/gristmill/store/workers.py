"""Worker processes: announced, heard of by their heartbeat, declared dead when silent. The database's clock alone judges."""

from collections.abc import Sequence

from gristmill.db import Transaction


async def join(tx: Transaction, *, name: str, processors: Sequence[str], concurrency: int) -> int:
    """Announce a worker process; answers with its identity, which is never used again."""
    worker_id: int = await tx.fetchval(
        "INSERT INTO worker (name, processors, concurrency) VALUES ($1, $2, $3) RETURNING id",
        name,
        list(processors),
        concurrency,
    )
    return worker_id


async def beat(tx: Transaction, worker_id: int) -> bool:
    """False: this worker has been declared dead, its items are others' now, and it must take a new identity."""
    return (
        await tx.fetchval(
            "UPDATE worker SET beat_at = now() WHERE id = $1 AND NOT dead RETURNING true", worker_id
        )
        is True
    )


async def leave(tx: Transaction, worker_id: int) -> None:
    """The process ends. Leases it still has are returned by the next reaper, at once."""
    await tx.execute("UPDATE worker SET dead = true WHERE id = $1", worker_id)


async def declare_dead(tx: Transaction, *, silent_seconds: float) -> int:
    """Declare dead those without a heartbeat for that long; answers with how many."""
    done: str = await tx.execute(
        "UPDATE worker SET dead = true WHERE NOT dead AND beat_at < now() - make_interval(secs => $1)",
        silent_seconds,
    )
    return int(done.split()[-1])


async def forget(tx: Transaction) -> None:
    """Remove the rows of dead workers that have no leases left, a day after their last sign."""
    await tx.execute(
        """
        DELETE FROM worker WHERE dead AND beat_at < now() - interval '1 day'
            AND NOT EXISTS (SELECT FROM lease WHERE lease.worker_id = worker.id)
        """
    )
