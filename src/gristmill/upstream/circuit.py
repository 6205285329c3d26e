"""Whether somebody whom a tenant's items call is there, as one process sees it: a breaker, and how many may call at once.

A circuit is one tenant's way to one endpoint: the model's with the operator's key, the model's with a key of the tenant's own,
or a URL that a configuration names. It is *closed* while calls may go through. It *opens*

* when the endpoint asks to be left alone (429 or 503 with Retry-After): until then, and
* by a storm: one call after the other fails as in an outage, of as many different items as the rules say and of at least as
  many as still could succeed.

While it is open nothing calls but a probe, one item at a time, which the claim hands out to one of all processes
(`store/claims.py`). The probe's answer closes it. That the circuit is open is kept in Postgres (`store/circuits.py`), for the
claims of all processes and for whoever looks at the batch; how it came to that is counted here (docs/decisions/0013).

A storm may also be of items that are to blame themselves. The first probe tells: if it is answered, they were.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self
from uuid import UUID

from gristmill import metrics
from gristmill.upstream.caller import CALLER as CALLER
from gristmill.upstream.caller import Caller as Caller
from gristmill.upstream.limit import AdaptiveLimit
from gristmill.upstream.line import NotCalled
from gristmill.upstream.permits import Permits

Reason = Literal["throttled", "down"]
Key = tuple[UUID, str]  # the tenant, and the circuit's name (domain/circuits.py)


# An open circuit is an outage once a probe has failed, too, or has not been answered for so long.
CONFIRMED_SECONDS = 5.0


class HeldOff(NotCalled):
    """The circuit is open."""


@dataclass(frozen=True, slots=True)
class Opening:
    """To be told to all processes. `until`, by the circuit's clock, is when the first probe may start; None: soon."""

    reason: Reason
    until: float | None


# confirmed: a probe has failed, too; unprobed: the probe ended without a call, so the next may come at once
News = Opening | Literal["closed", "confirmed", "unprobed"]


class Circuit:
    """For the tasks of one loop. `faults`: items in a row that make a storm; 0: none do. `patience_seconds`: how long an
    outage may last before what fails in it is held against the items again."""

    def __init__(
        self,
        key: Key,
        *,
        faults: int,
        patience_seconds: float,
        limit: AdaptiveLimit,
        changed: Callable[[], None],
        permits: Permits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.key = key
        self.permits = permits or Permits(key[1])
        self.limit = limit
        self.clock = clock
        self.in_hand = 0  # items claimed by this process and without a verdict
        self.is_open = False
        self.opened_at = self.closed_at = float("-inf")
        self.news: News | None = None  # not yet told to Postgres
        self._outage = False  # it is open, and a probe has failed or somebody has asked to be left alone
        self._outage_ended_at = float("-inf")
        self._patience_seconds = patience_seconds
        self._faults = faults
        self._changed = changed
        self._calling = 0
        self._failed: set[object] = set()  # items that did since the last answer

    @property
    def kind(self) -> str:
        """For metrics: `model` or `url`."""
        return self.key[1].partition(":")[0]

    @property
    def slots(self) -> int:
        """How many more items may come. None may while Postgres has not been told that it is open."""
        return 0 if isinstance(self.news, Opening) else self.limit.now - self.in_hand

    @property
    def in_doubt(self) -> bool:
        """Something has failed as in an outage, and it is not clear yet whether it is one."""
        return self.is_open or bool(self._failed)

    def excuses(self, began: float, *, waits: bool) -> bool:
        """Whether there was an outage at some time since `began`: what failed then was no fault of the item. `waits`: it
        never could have been its fault, so that any time at which the circuit was open will do."""
        if waits:
            return self.is_open or self.closed_at > began
        return self._outage_ended_at > began or (self._is_outage() and not self._is_out_of_patience())

    @property
    def is_new(self) -> bool:
        """It is open, and no probe has told yet whether there is an outage."""
        return self.is_open and not self._is_outage()

    def _is_outage(self) -> bool:
        return self.is_open and (self._outage or self.clock() - self.opened_at > CONFIRMED_SECONDS)

    def _is_out_of_patience(self) -> bool:
        return self.clock() - self.opened_at > self._patience_seconds

    def admits(self, probing: bool, claimed_at: float) -> bool:
        """Whether items may run that a claim brought which was begun at `claimed_at`. The claim has seen the truth, unless
        the circuit was opened meanwhile."""
        if probing:
            metrics.circuit_changed(self.kind, "probed")
            self.opened_elsewhere()
            return True
        if self.is_open and self.news is None and claimed_at > self.opened_at:
            self.closed_elsewhere()
        return not self.is_open

    def call(self) -> "Call":
        return Call(self)

    # --- what calls have come to ---

    def begin(self, caller: Caller | None) -> float:
        """Raises HeldOff. Every call that is begun is ended."""
        self.check(caller)
        self._calling += 1
        return self.clock()

    def check(self, caller: Caller | None) -> None:
        """Raises HeldOff."""
        if self.is_open and not (caller and caller.probing):
            raise HeldOff

    def end(self) -> None:
        self._calling -= 1

    def answered(self, began: float) -> None:
        """The endpoint is there, whatever it said."""
        self.limit.ended(self.clock(), error=False, used=self.in_hand)
        self._failed.clear()
        if self.is_open and began > self.opened_at:
            self._close()
            self._tell("closed")

    def failed(
        self,
        began: float,
        caller: Caller | None,
        reason: Reason,
        hold_seconds: float | None = None,
        *,
        waits: bool = False,
    ) -> None:
        """As in an outage. `hold_seconds`: how long the endpoint asks to be left alone. `waits`: it can be no fault of the
        item."""
        self.limit.ended(self.clock(), error=True, used=self.in_hand)
        if hold_seconds is not None:
            self._open(Opening(reason, self.clock() + hold_seconds))
            self._outage = True
        elif self.is_open:
            if began > self.opened_at and not self._outage:
                self._outage = True
                if self.news is None:
                    self._tell("confirmed")
        elif self._faults and began > self.closed_at and (waits or not (caller and caller.again)):
            # Else it says how things were and not how they are, or how the item is.
            self._failed.add(caller.item if caller else object())
            if len(self._failed) >= max(self._faults, self._calling):
                self._open(Opening(reason, None))

    def probe_ended(self, caller: Caller) -> None:
        if self.is_open and not caller.called and self.news is None:
            self._tell("unprobed")

    # --- the two states ---

    def _open(self, opening: Opening) -> None:
        if not self.is_open:
            metrics.circuit_changed(self.kind, "throttled" if opening.reason == "throttled" else "opened")
            self._set_open()
        told = self.news.until if isinstance(self.news, Opening) else None
        if told is None or told < (opening.until or 0.0):
            self._tell(opening)

    def _set_open(self) -> None:
        self.is_open, self.opened_at = True, self.clock()
        self._outage = False
        self._failed.clear()

    def _close(self) -> None:
        metrics.circuit_changed(self.kind, "closed")
        self._set_closed()

    def _set_closed(self) -> None:
        if self._is_outage() and not self._is_out_of_patience():
            self._outage_ended_at = self.clock()
        self.is_open, self.closed_at = False, self.clock()

    def opened_elsewhere(self, *, confirmed: bool = False) -> None:
        """`confirmed`: another process knows that it is an outage."""
        if not self.is_open:
            self._set_open()
        self._outage |= confirmed

    def closed_elsewhere(self) -> None:
        if self.is_open:
            self._set_closed()

    def _tell(self, news: News) -> None:
        self.news = news
        self._changed()


class Call:
    """One call, as `with`: it raises HeldOff if none may be made now."""

    def __init__(self, circuit: Circuit | None) -> None:
        self._circuit = circuit
        self._caller = CALLER.get()

    def check(self) -> None:
        """Before it waits for a permit: raises HeldOff."""
        if self._circuit is not None:
            self._circuit.check(self._caller)

    def __enter__(self) -> Self:
        if self._circuit is not None:
            self._began = self._circuit.begin(self._caller)
            if self._caller is not None:
                self._caller.called = True
        return self

    def answered(self) -> None:
        if self._circuit is not None:
            self._circuit.answered(self._began)

    def failed(self, reason: Reason, hold_seconds: float | None = None, *, waits: bool = False) -> None:
        if self._circuit is not None:
            self._circuit.failed(self._began, self._caller, reason, hold_seconds, waits=waits)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._circuit is None:
            return
        self._circuit.end()
        if isinstance(error, asyncio.CancelledError) and self._caller is not None:
            self._caller.cut_off = True
