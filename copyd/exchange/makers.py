"""The market makers of the simulated exchange: how each market is quoted. The flow itself is compiled (``_fast/sim_makers``).

Several maker accounts keep ``levels`` price levels on each side of a seeded random walk. Every step withdraws all their
quotes and places new ones, at one instant: nobody sees the book between. What they send depends on the seed, the step
number and the operator's shifts only, never on fills or time, so two runs with the same seed send the same orders:
``flow_hash()`` says so. A quote does take a resting order of someone else when the walk reaches it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from copyd._fast.sim_engine import Engine
from copyd._fast.sim_makers import Makers
from copyd.exchange.model import E8

STEP_MS = 100  # the pace these profiles are meant for: ten steps a second


class MakerProfile(msgspec.Struct, frozen=True):
    """How one symbol is quoted. Prices in ticks, ratios in parts per million of the price."""

    symbol: str
    half_spread: int  # ticks from the middle to the nearest quote
    gap: int  # ticks between levels; a quote lies anywhere within its gap
    levels: int = 25
    depth_e8: int = 12_000_000 * E8  # value on each side, all makers together
    walk_ppm: int = 80  # largest move of one step
    pull_ppm: int = 20  # share of the way back to the start, each step
    mark_every: int = 10  # steps between mark prices: one a second
    print_every: int = 5  # steps between small trades on the tape


# 25 levels reach about 0.2 % from the middle, with 12 million USDT on each side: ten thousand followers' orders of 500
# USDT each, all at once, walk less than half of it, and the next step fills it up again.
PROFILES: tuple[MakerProfile, ...] = (
    MakerProfile("BTCUSDT", half_spread=5, gap=50),
    MakerProfile("ETHUSDT", half_spread=3, gap=25),
    MakerProfile("SOLUSDT", half_spread=1, gap=1, levels=30),
)


def start_makers(
    engine: Engine, seed: int, profiles: Sequence[MakerProfile] = PROFILES, makers: int = 4, depth_factor: int = 1
) -> Makers:
    """Makers for the profiles whose symbol the engine has; ``depth_factor`` multiplies every depth."""
    known = {spec.symbol for spec in engine.specs}
    chosen = [
        msgspec.structs.replace(profile, depth_e8=profile.depth_e8 * depth_factor)
        for profile in profiles
        if profile.symbol in known
    ]
    return Makers(engine, seed, chosen, makers)
