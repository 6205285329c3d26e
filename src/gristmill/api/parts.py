"""What the routes work with, made once per process by `create_app`."""

import asyncio
from dataclasses import dataclass, field

from starlette.requests import HTTPConnection

from gristmill.api.aside import Aside
from gristmill.api.births import Bear
from gristmill.api.keyring import KeyRing
from gristmill.api.queue_depth import QueueDepth
from gristmill.api.rates import Rates
from gristmill.api.reads import Reads
from gristmill.api.room import Room
from gristmill.api.tokens import Tokens
from gristmill.api.watch import Watch
from gristmill.db import Database
from gristmill.domain.news import Wake
from gristmill.net.session import HttpSession
from gristmill.settings import Settings
from gristmill.storage.base import Storage
from gristmill.store.quotas import Quotas
from gristmill.vault import Vault


@dataclass(frozen=True, slots=True)
class Parts:
    database: Database
    vault: Vault
    settings: Settings
    wake: Wake  # tells workers that there is work
    bear: Bear  # lets that worker have the first items of a batch at once
    http: HttpSession
    storage: Storage
    keys: KeyRing
    tokens: Tokens | None  # None: none are accepted
    watch: Watch
    reads: Reads
    rates: Rates
    room: Room
    depth: QueueDepth
    aside: Aside = field(default_factory=Aside)
    draining: asyncio.Event = field(
        default_factory=asyncio.Event
    )  # set at the end of the process: not ready any more, no long polls

    @property
    def quotas(self) -> Quotas:
        """Of each tenant."""
        return Quotas(self.settings.tenant_active_batches, self.settings.tenant_pending_requests)


def parts(request: HTTPConnection) -> Parts:
    found: Parts = request.app.state.parts
    return found
