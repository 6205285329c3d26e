"""What to expect of many hosts: `.venv/bin/python -m benchmarks.simulate`. A model, not a measurement.

The costs are those of docs/performance.md, and benchmarks/model.py is what is made of them. First it repeats the runs they were
measured in, and says how far off it is; nothing beyond them should be believed if that is far.
"""

import argparse
import math
from dataclasses import dataclass, replace

from benchmarks.model import POST_ITEMS, Costs, Mill, Plan

WITHIN = 0.15


def ingest(plan: Plan) -> float:
    """Seconds for POSTs of 1,000, one after the other: nothing of them overlaps."""
    costs = plan.costs
    each = POST_ITEMS * (costs.post_client + costs.post_python + costs.post_postgres)
    return math.ceil(plan.items / POST_ITEMS) * (each + 6 * costs.trip + costs.disk) / 1e6


def compared() -> list[tuple[str, float, float]]:
    """What was measured, in items a second, and what the model makes of it."""
    apart = Plan(400_000)
    # Both kinds of work in one process were measured to cost more for each item than either alone: 14.4 us of it and 13.6 of
    # Postgres, divided here as those of the runs apart are.
    more = replace(Costs(), post_python=7.5, post_postgres=7.3, python=6.9, postgres=6.3)
    both = Plan(400_000, posted=True, costs=more)
    return [
        ("POSTs of 1,000 to a server alone", 91_977, apart.items / ingest(apart)),
        ("drain, one worker process beside", 166_976, apart.items / Mill(apart).drain()),
        ("one process that takes POSTs and works at once", 52_043, both.items / Mill(both).drain()),
    ]


ASSUMED = """
Taken for granted, and not shown:
* An item costs at 10^9 what it costs at 10^5: partitions by week, and nothing that grows with what has ended.
* The cores of Postgres do not get into each other's way, save at the rows of tenants (claims) and of counters (flushes), and
  each is as fast as the measured one.
* Its disk takes 500 MB/s of log, 1.4 KB for each item, and keeps 8 kB in 74 us whatever else it does. Checkpoints and vacuum
  cost nothing beside.
* Workers are on hosts of their own, 0.2 ms away. Nobody reads, nothing fails. The items are there: putting them in is not part.
* Ten tenants in each cell, batches of 100,000. The model's endpoint takes any number of calls, of 1 to 3 seconds each;
  their CPU is not part.
* Cells (a Postgres and its workers, for some of the tenants) share nothing: one is modelled, the others are like it."""


@dataclass(frozen=True)
class Fleet:
    """`modelled`: so many items of one cell are gone through; the rest goes on at their rate."""

    name: str
    cells: int
    modelled: int
    plan: Plan

    def line(self, items: int) -> str:
        mill = Mill(replace(self.plan, items=min(self.modelled, items // self.cells)))
        seconds = mill.drain()
        rate = mill.plan.items / seconds
        busy = rate * self.plan.wait_seconds / (self.plan.workers * self.plan.slots)
        return (
            f"| {self.name} | {self.cells} | {self.plan.workers} | {rate * self.cells:,.0f} | "
            f"{items / rate / self.cells / 3600:,.2f} | {mill.postgres.used / seconds:.1f} of {self.plan.postgres_cores} | "
            f"{rate * 1.4e-3:,.0f} | {f'{busy:.0%}' if busy else ''} |"
        )


def fleets() -> list[Fleet]:
    """Of hosts apart. Batches of 100,000, so that many are under way at once."""
    apart = Plan(
        1,
        together=False,
        postgres_cores=16,
        batch_items=100_000,
        tenants=10,
        costs=replace(Costs(), trip=200.0, claim_trip=560.0),  # assumed: as measured, and the way
    )
    calls = replace(apart, wait_seconds=2.0)
    return [
        Fleet("no work", 1, 20_000_000, replace(apart, workers=4)),
        Fleet("no work", 1, 20_000_000, replace(apart, workers=16)),
        Fleet("no work", 10, 100_000_000, replace(apart, workers=16)),
        Fleet("calls of 1 to 3 s", 1, 200_000, replace(calls, workers=16)),
        Fleet("calls of 1 to 3 s", 10, 400_000, replace(calls, workers=64)),
        Fleet("calls of 1 to 3 s, 1,000 slots", 10, 800_000, replace(calls, workers=64, slots=1000)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulate", description=__doc__)
    parser.add_argument("--items", type=float, default=1e9)
    items = int(parser.parse_args().items)
    print(
        "| run | measured: items/s | the model | off by | within 15 % |\n| --- | ---: | ---: | ---: | --- |"
    )
    for what, measured, modelled in compared():
        off = modelled / measured - 1
        print(
            f"| {what} | {measured:,.0f} | {modelled:,.0f} | {off:+.0%} | {'yes' if abs(off) <= WITHIN else 'NO'} |"
        )
    print(f"\n{items:,} items:\n")
    print(
        "| items | cells | workers each | items/s | hours | cores of each Postgres | log, MB/s each | slots busy |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for fleet in fleets():
        print(fleet.line(items), flush=True)
    print(ASSUMED)


if __name__ == "__main__":
    main()
