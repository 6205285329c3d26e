"""The circuits of this worker: made when the first item needs one, told to Postgres when they change, and heard of from there.

Also those verdicts that wait a moment: an item that fails as in an outage is not judged before it is clear whether it is one.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import NamedTuple
from uuid import UUID
from weakref import WeakValueDictionary

from gristmill import metrics
from gristmill.db import Database
from gristmill.domain.circuits import MODEL
from gristmill.settings import Settings
from gristmill.store import circuits
from gristmill.upstream.circuit import Circuit, Key, Opening
from gristmill.upstream.limit import AdaptiveLimit
from gristmill.upstream.permits import Permits

KEPT = 1000  # circuits that are remembered though no batch in hand needs them
# How long a verdict waits for a storm: as many items as make one have failed by then, or somebody has been answered.
DOUBT_SECONDS = 1.0


class _Doubtful(NamedTuple):
    until: float
    circuit: Circuit
    began: float
    waits: bool  # as the processor says, so that it is excused by any time at which the circuit is open
    settle: Callable[[bool], None]  # told whether the item is excused


class Circuits:
    def __init__(
        self,
        database: Database,
        settings: Settings,
        *,
        changed: Callable[[], None],
        permits: Callable[[str], Permits] = Permits,
    ) -> None:
        self.news = asyncio.Event()  # for the loop that takes the steps
        self._database = database
        self._settings = settings
        self._permits = permits  # of the endpoint that a circuit leads to
        self._changed = changed  # called when items may start that could not before
        self._known: WeakValueDictionary[Key, Circuit] = WeakValueDictionary()
        self._recent: deque[Circuit] = deque(maxlen=KEPT)
        self._doubtful: deque[_Doubtful] = deque()

    def of(self, tenant_id: UUID, name: str) -> Circuit:
        key = (tenant_id, name)
        if (known := self._known.get(key)) is not None:
            return known
        settings = self._settings
        of_model = name.partition(":")[0] == MODEL
        most = settings.llm_concurrency if of_model else settings.concurrency
        made = Circuit(
            key,
            faults=settings.breaker_faults,
            patience_seconds=settings.breaker_patience_seconds,
            limit=AdaptiveLimit(most, adaptive=settings.adaptive_concurrency),
            changed=self.news.set,
            permits=self._permits(name),
        )
        self._known[key] = made
        self._recent.append(made)
        return made

    def held(self, ready: Iterable[Circuit | None] = ()) -> list[tuple[UUID, str, int]]:
        """For the claim: where it may not take as many as there are slots. `ready`: the circuits of what has been claimed and
        has not begun."""
        known = list(self._known.values())
        fresh = (
            Counter(one.permits for one in ready if one)
            if any(one.permits.limits.some for one in known)
            else {}
        )
        return [
            (*one.key, one.slots if room is None else min(one.slots, room))
            for one in known
            if (room := one.permits.room(fresh.get(one.permits, 0))) is not None
            or isinstance(one.news, Opening)
            or (self._settings.adaptive_concurrency and (one.in_hand or one.limit.reduced))
        ]

    # --- what Postgres is told, and tells ---

    async def step(self) -> int:
        """Tell what has changed, and look at what others have found out."""
        for circuit in [one for one in list(self._known.values()) if one.news is not None]:
            await self._tell(circuit)
        await self._look()
        self._measure()
        return 0

    async def _tell(self, circuit: Circuit) -> None:
        news = circuit.news
        assert news is not None
        async with self._database.transaction(durable=False) as tx:
            match news:
                case Opening(reason, until):
                    await circuits.open_(
                        tx,
                        *circuit.key,
                        reason=reason,
                        seconds=None if until is None else until - circuit.clock(),
                        longest_seconds=self._settings.breaker_probe_seconds,
                    )
                case "closed":
                    await circuits.close(tx, *circuit.key)
                case "confirmed":
                    await circuits.confirm(tx, *circuit.key)
                case "unprobed":
                    await circuits.let_probe(tx, *circuit.key)
        if circuit.news is news:
            circuit.news = None
        else:  # it has changed again meanwhile
            self.news.set()
        self._changed()

    async def _look(self) -> None:
        """So that what runs here stops calling, too, and begins again."""
        concerned = [one for one in list(self._known.values()) if one.in_hand or one.is_open]
        if not concerned:
            return
        looked_at = concerned[0].clock()
        async with self._database.connection() as connection:
            found = await circuits.open_ones(connection)
        for one in concerned:
            if one.news is not None or max(one.opened_at, one.closed_at) > looked_at:
                continue
            if one.key in found:
                one.opened_elsewhere(confirmed=found[one.key])
            else:
                one.closed_elsewhere()

    def _measure(self) -> None:
        for one in list(self._known.values()):
            one.limit.turn(one.clock())
        for kind, most in ((MODEL, self._settings.llm_concurrency), ("url", self._settings.concurrency)):
            ones = [one for one in list(self._known.values()) if one.kind == kind]
            metrics.circuits(
                kind,
                sum(one.is_open for one in ones),
                sum(one.limit.reduced for one in ones),
                min((one.limit.now for one in ones), default=most),
            )

    # --- verdicts that wait ---

    @property
    def judging(self) -> bool:
        """Whether there are any."""
        return bool(self._doubtful)

    def doubt(self, circuit: Circuit, began: float, settle: Callable[[bool], None], *, waits: bool) -> None:
        self._doubtful.append(_Doubtful(circuit.clock() + DOUBT_SECONDS, circuit, began, waits, settle))

    def review(self, *, all_of_them: bool = False) -> None:
        """Settle those of which it is clear by now, or which have waited long enough. `all_of_them`: this worker ends, and it is
        left to another to find out."""
        waiting: deque[_Doubtful] = deque()
        for one in self._doubtful:
            circuit = one.circuit
            excused = all_of_them or circuit.excuses(one.began, waits=one.waits)
            in_doubt = circuit.in_doubt and (circuit.clock() < one.until or circuit.is_new)
            if excused or not in_doubt:
                one.settle(excused)
            else:
                waiting.append(one)
        self._doubtful = waiting
