"""Sends what is due: claim (transaction) → POST (none) → record (transaction).

At least once: a sender that dies before it has recorded leaves a lease that runs out, and the delivery is sent again
with the same id and the same bytes.
"""

import asyncio
import logging
import time
from uuid import UUID

import orjson

from gristmill import metrics
from gristmill.db import Database, unavailable
from gristmill.domain.deliveries import ENDPOINT_DELETED, Attempt, Dead, Delivered, RetryIn, Verdict, after
from gristmill.domain.errors import NotFound
from gristmill.domain.webhooks import Secrets, binding
from gristmill.net.session import HttpSession
from gristmill.settings import Settings
from gristmill.store import deliveries, webhook_endpoints
from gristmill.store.deliveries import DeliveryToSend
from gristmill.vault import Vault, VaultError
from gristmill.webhooks.sender import Post, send

MAX_IN_FLIGHT = 256  # per process; what one receiver or one tenant may have of them is in store/deliveries.py
RECORD_SECONDS = 30.0  # how long a lease outlives the deadline of its POST
LOOK_SECONDS = 0.5  # between looks for what has become due, while POSTs are in flight

_OUTCOMES = {Delivered: "delivered", RetryIn: "retry", Dead: "dead"}

log = logging.getLogger(__name__)


class Deliveries:
    """`step()` is to be called again at once while it answers more than 0, else after a while."""

    def __init__(self, database: Database, http: HttpSession, vault: Vault, settings: Settings) -> None:
        self._database = database
        self._http = http
        self._vault = vault
        self._timeout_seconds = settings.webhook_timeout_seconds
        self._in_flight: set[asyncio.Task[None]] = set()
        self._draining = False

    async def step(self) -> int:
        """Start what is due, then wait until one POST has ended, at most half a second: a slow receiver holds up
        nothing but its own share. Answers how many are in flight; 0 means that nothing is due.
        """
        if self._draining:
            return 0
        for delivery in await self._claim(MAX_IN_FLIGHT - len(self._in_flight)):
            self._start(delivery)
        in_flight = len(self._in_flight)
        if in_flight:
            await asyncio.wait(self._in_flight, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        return in_flight

    async def drain(self, grace_seconds: float) -> None:
        """Start nothing more, and give what is in flight so long to end. What is cut off is sent again later."""
        self._draining = True
        if self._in_flight:
            _, left = await asyncio.wait(self._in_flight, timeout=grace_seconds)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _claim(self, limit: int) -> list[DeliveryToSend]:
        if limit == 0:
            return []
        async with self._database.connection() as connection:
            if not await deliveries.some_are_due(connection):
                return []
        async with self._database.transaction(durable=False) as tx:
            return await deliveries.claim(tx, limit, self._timeout_seconds + RECORD_SECONDS)

    def _start(self, delivery: DeliveryToSend) -> None:
        task = asyncio.create_task(self._deliver(delivery))
        self._in_flight.add(task)
        task.add_done_callback(self._in_flight.discard)

    async def _deliver(self, delivery: DeliveryToSend) -> None:
        try:
            attempt = await self._attempt(delivery)
            verdict = after(attempt, delivery.position)
            async with self._database.transaction() as tx:
                kept = await deliveries.record(tx, delivery, attempt, verdict)
            _tell(delivery, attempt, verdict, kept)
        except Exception as error:
            fields = {"delivery": str(delivery.id), "error": type(error).__name__}
            if unavailable(error):
                log.warning("delivery not recorded, will be sent again", extra=fields)
            else:
                log.exception("delivery broke, will be sent again", extra=fields)

    async def _attempt(self, delivery: DeliveryToSend) -> Attempt:
        try:
            url, secrets = await self._addressed(delivery)
        except NotFound:
            return Attempt(duration_ms=0, error=ENDPOINT_DELETED)
        except VaultError as error:
            # Sent unsigned, it would be refused or, worse, believed. The operator may bring the key back.
            log.error("webhook secret unreadable", extra={"delivery": str(delivery.id), "reason": str(error)})
            return Attempt(duration_ms=0, error="secret_unreadable")
        post = Post(delivery.event_id, delivery.body, url, secrets, delivery.signatures)
        return await send(self._http, post, self._timeout_seconds)

    async def _addressed(self, delivery: DeliveryToSend) -> tuple[str, Secrets]:
        """Where to, and what it is signed and sent with. Raises NotFound for a kept endpoint that was deleted, VaultError."""
        if delivery.secret is None:
            return delivery.url, Secrets()
        opened = self._vault.decrypt(delivery.secret, binding(delivery.batch_id, delivery.hook))
        if delivery.hook is None:
            return delivery.url, Secrets(opened.decode())
        found = orjson.loads(opened)
        if "endpoint" not in found:
            return delivery.url, Secrets.of(found, time.time())
        return await self._kept(delivery.tenant_id, UUID(found["endpoint"]))

    async def _kept(self, tenant_id: UUID, endpoint_id: UUID) -> tuple[str, Secrets]:
        """As they are now: a secret may have been rotated since the batch was made."""
        async with self._database.engine.connect() as connection:
            kept = await webhook_endpoints.get(connection, tenant_id, endpoint_id)
        if kept.sealed is None:
            return kept.url, Secrets()
        opened = self._vault.decrypt(kept.sealed, webhook_endpoints.binding(endpoint_id))
        return kept.url, Secrets.of(orjson.loads(opened), time.time())


def _tell(delivery: DeliveryToSend, attempt: Attempt, verdict: Verdict, kept: bool) -> None:
    outcome = _OUTCOMES[type(verdict)]
    if kept:
        metrics.webhook_attempted(outcome)
    log.info(
        "webhook sent",
        extra={
            "delivery": str(delivery.id),
            "event": delivery.event_id,
            "batch_id": str(delivery.batch_id),
            "status": attempt.status_code,
            "error": attempt.error,
            "duration_ms": attempt.duration_ms,
            "outcome": outcome if kept else "lease lost",
        },
    )
