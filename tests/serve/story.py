"""A history written by hand: days, prices and lots as a trader would note them, in the tables the statistics read.

Money is in whole units of the quote asset, one lot at a price of 1 is worth 1; every note is made at a time of day.
"""

from __future__ import annotations

from pathlib import Path

from copyd.serve.ledger import Position, book
from copyd.serve.series import DAY_NS, E8
from copyd.serve.tables import TABLES, Manifest, append

FIRST = 20_700
"""The day the stories begin."""


class Story:
    """Notes in the order they are made; ``day`` counts from 0, ``hour`` within it."""

    def __init__(self) -> None:
        self.rows: dict[str, list[tuple]] = {table: [] for table in TABLES}
        self.seq = self.ts = 0
        self.books: dict[tuple, Position] = {}
        self.plans: dict[tuple[str, str], int] = {}

    def at(self, day: int, hour: float = 12.0) -> Story:
        """Now it is this day and hour; never earlier than before."""
        now = (FIRST + day) * DAY_NS + round(hour * 3600) * 10**9
        assert now >= self.ts
        self.ts = now
        return self

    def _note(self, table: str, *values: object) -> Story:
        self.seq += 1
        self.rows[table].append((self.seq, self.ts, *values))
        return self

    def equity(self, amount: float, leader: str = "ann") -> Story:
        return self._note("equity", leader, round(amount * E8))

    def flow(self, amount: float, leader: str = "ann") -> Story:
        return self._note("flows", leader, round(amount * E8))

    def mark(self, px: int, instrument: str = "BTC") -> Story:
        return self._note("marks", instrument, px, px, px, E8, 1)

    def leader(self, lots: int, px: float, leader: str = "ann", instrument: str = "BTC", source: str = "fill") -> Story:
        """The leader buys (+) or sells (-)."""
        position = self.books.setdefault((leader, instrument), Position())
        leg = list(self.books).index((leader, instrument))
        for entry in book(position, lots, round(abs(lots) * px * E8)):
            self._note("leader_fills", leader, leg, instrument, self.ts, self.seq, True, entry.kind, source, *entry[1:])
        return self

    def plan(self, allocation: float, follower: str = "bob", leader: str = "ann", state: str = "active") -> Story:
        plan = self.plans.setdefault((follower, leader), len(self.plans))
        return self._note("plans", plan, leader, follower, round(allocation * E8), 1, state)

    def follower(
        self, lots: int, px: float, fee: float = 0, follower: str = "bob", leader: str = "ann", instrument: str = "BTC",
        leaders_px: float = 0,
    ) -> Story:
        """The follower's leg buys (+) or sells (-); ``leaders_px``: what the leader got."""
        plan = self.plans[follower, leader]
        position = self.books.setdefault((follower, leader, instrument), Position())
        leg = list(self.books).index((follower, leader, instrument))
        for entry in book(position, lots, round(abs(lots) * px * E8), round(fee * E8)):
            reference = round(entry.lots * leaders_px * E8)
            slippage = entry.side * (entry.value_e8 - reference) if leaders_px else 0
            self._note("follower_fills", plan, leader, follower, leg, instrument, self.ts, slippage, reference, entry.kind,
                       "fill", *entry[1:])
        return self

    def write(self, out: Path) -> Path:
        """As an extraction would have left it."""
        out.mkdir(parents=True, exist_ok=True)
        append(out, Manifest(1, 1, last_seq=max(1, self.seq), last_ts_ns=self.ts), b"", self.rows)
        return out
