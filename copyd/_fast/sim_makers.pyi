"""Seeded market makers: the compiled part of `copyd.exchange.makers`, which says what they do."""

from collections.abc import Sequence
from typing import Protocol

from typing_extensions import disjoint_base

from copyd._fast.sim_engine import Engine

class _MarketSpec(Protocol):
    """How one symbol is quoted (`copyd.exchange.makers.MakerProfile` has it)."""

    @property
    def symbol(self) -> str: ...
    @property
    def levels(self) -> int: ...
    @property
    def half_spread(self) -> int: ...
    @property
    def gap(self) -> int: ...
    @property
    def depth_e8(self) -> int: ...
    @property
    def walk_ppm(self) -> int: ...
    @property
    def pull_ppm(self) -> int: ...
    @property
    def mark_every(self) -> int: ...
    @property
    def print_every(self) -> int: ...

@disjoint_base
class Makers:
    engine: Engine
    step_no: int

    def __new__(cls, engine: Engine, seed: int, markets: Sequence[_MarketSpec], makers: int = 4) -> Makers:
        """Opens `makers` + 1 accounts on the engine: the quoting ones and one that prints small trades."""

    def step(self, ts_ns: int) -> None:
        """One step of every market: walk, withdraw all quotes, quote anew, mark price, a small trade now and then. What it
        caused for others is in `engine.event_list()`."""

    def shift(self, symbol: int, ppm: int) -> None:
        """Move the walk, its anchor and the mark by ppm of the price, with the next step."""

    def move_to(self, symbol: int, px_ticks: int) -> None:
        """Put the walk, its anchor and the mark at a price, with the next step."""

    def hold(self, symbol: int, walk_ppm: int) -> None:
        """Change how far the walk goes in a step; 0 keeps the price still."""

    def mid(self, symbol: int) -> int:
        """Middle of the quotes of the last step, ticks."""

    def flow_hash(self) -> int:
        """Hash over all that was sent so far: (step, symbol, account, side, price, size) of every quote and print, marks."""
