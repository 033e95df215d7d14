"""A plot of latencies as SVG, by own few lines: who waits how long, first follower to last, one curve per program."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 900, 520
LEFT, RIGHT, TOP, BOTTOM = 80, 200, 50, 60
COLOURS = ("#1b6ca8", "#c0392b", "#2e8b57", "#8e44ad", "#d68910", "#34495e")
POINTS_MAX = 600


def skew_svg(title: str, curves: Mapping[str, Sequence[int]]) -> str:
    """``curves``: name to latencies in ns. Each is sorted: the n-th order to arrive is at n; the axis of times is logarithmic."""
    drawn = {name: sorted(values) for name, values in curves.items() if values}
    low = math.floor(math.log10(max(1, min((values[0] for values in drawn.values()), default=1_000))))
    high = max(low + 1, math.ceil(math.log10(max(1, max((values[-1] for values in drawn.values()), default=10_000)))))
    longest = max((len(values) for values in drawn.values()), default=1)
    across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(rank: float) -> float:
        return LEFT + across * rank / max(1, longest - 1)

    def y(ns: int) -> float:
        return TOP + down * (1 - (math.log10(max(1, ns)) - low) / (high - low))

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="{TOP - 20}" font-size="16">{escape(title)}</text>',
    ]
    for power in range(low, high + 1):
        at = y(10**power)
        parts.append(f'<line x1="{LEFT}" x2="{LEFT + across}" y1="{at:.1f}" y2="{at:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{_time(10**power)}</text>')
    for quarter in range(5):
        rank = round((longest - 1) * quarter / 4)
        parts.append(f'<text x="{x(rank):.1f}" y="{TOP + down + 20}" text-anchor="middle">{rank + 1:,}</text>')
    parts.append(f'<text x="{LEFT + across / 2}" y="{HEIGHT - 15}" text-anchor="middle">order, by arrival at the peer</text>')
    for at, (name, values) in enumerate(drawn.items()):
        colour = COLOURS[at % len(COLOURS)]
        step = max(1, len(values) // POINTS_MAX)
        ranks = [*range(0, len(values) - 1, step), len(values) - 1]
        points = " ".join(f"{x(rank):.1f},{y(values[rank]):.1f}" for rank in ranks)
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.6" points="{points}"/>')
        label = TOP + 18 * at + 8
        parts.append(f'<rect x="{LEFT + across + 14}" y="{label - 9}" width="12" height="3" fill="{colour}"/>')
        parts.append(f'<text x="{LEFT + across + 32}" y="{label - 3}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _time(ns: int) -> str:
    for unit, size in (("s", 10**9), ("ms", 10**6), ("us", 10**3)):
        if ns >= size:
            return f"{ns // size:,} {unit}"
    return f"{ns} ns"
