"""Bars as an SVG, without a library: for docs/peers.svg."""

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from html import escape

from benchmarks.drain import Drained

WIDTH, ROW, LEFT, BAR, TOP = 860, 26, 300, 440, 54
TEXT = 'font-family="system-ui, sans-serif" font-size="13" fill="#333"'


def of_queues(measured: Sequence[Sequence[Drained]]) -> str:
    """Jobs drained a second, and CPU for each, on logarithmic scales: bars are medians, the lines on them reach from the least
    to the most."""
    groups = (
        ("Jobs a second, one worker process: more is better", lambda one: one.drained_per_second),
        ("CPU for each job in all processes, µs: less is better", lambda one: one.microseconds),
    )
    each = TOP + ROW * len(measured) + 12
    body = []
    for index, (title, figure) in enumerate(groups):
        inner = "\n".join(_group(title, measured, figure))
        body.append(f'<g transform="translate(0 {index * each})">\n{inner}\n</g>')
    size = f'width="{WIDTH}" height="{each * len(groups)}" viewBox="0 0 {WIDTH} {each * len(groups)}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size}>',
            '<rect width="100%" height="100%" fill="#fff"/>',
            *body,
            "</svg>\n",
        ]
    )


def _group(
    title: str, measured: Sequence[Sequence[Drained]], figure: Callable[[Drained], float]
) -> Iterator[str]:
    values = [[figure(one) for one in rounds] for rounds in measured]
    low = math.floor(math.log10(min(map(min, values))))
    high = math.log10(max(map(max, values)))

    def across(value: float) -> float:
        return LEFT + BAR * (math.log10(value) - low) / max(high - low, 1e-9)

    yield f'<text x="{LEFT}" y="22" {TEXT} font-weight="600">{escape(title)}</text>'
    bottom = TOP + ROW * len(measured)
    for power in range(low, math.floor(high) + 1):
        x = across(10**power)
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 8}" y2="{bottom}" stroke="#ddd"/>'
        yield f'<text x="{x:.1f}" y="{TOP - 10}" text-anchor="middle" {TEXT}>{10**power:,}</text>'
    for row, (rounds, found) in enumerate(zip(measured, values, strict=True)):
        y = TOP + ROW * row
        middle = statistics.median(found)
        colour = "#2b6cb0" if row == 0 else "#a0aec0"
        yield f'<text x="{LEFT - 8}" y="{y + 16}" text-anchor="end" {TEXT}>{escape(rounds[0].name)}</text>'
        yield f'<rect x="{LEFT}" y="{y + 4}" width="{across(middle) - LEFT:.1f}" height="{ROW - 10}" fill="{colour}"/>'
        yield (
            f'<line x1="{across(min(found)):.1f}" x2="{across(max(found)):.1f}" y1="{y + 12}" y2="{y + 12}" stroke="#1a202c"/>'
        )
        yield f'<text x="{across(max(found)) + 6:.1f}" y="{y + 16}" {TEXT}>{middle:,.0f}</text>'
