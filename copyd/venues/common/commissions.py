"""What a commission was worth: venues take some in another asset than the margin's (BNB, for its discount)."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from math import ceil
from typing import NamedTuple

from copyd.venues.common.facts import money_e8
from copyd.venues.common.instruments import Instrument, Instruments


class Commission(NamedTuple):
    """What one execution cost: 1e-8 of the margin asset; where ``base``, Q32 lots kept back of what was bought."""

    amount: int
    base: bool = False


#: An amount as venues and ccxt write it. Nothing longer: an exponent of a billion would be worked out digit by digit.
_AMOUNT = re.compile(r"-?\d{1,20}(\.\d{1,30})?([eE][+-]?\d{1,2})?", re.ASCII)


class Commissions:
    """Puts commissions into the margin asset, at the mark of the instrument that trades the one for the other.

    ``mark_of`` gives ticks by instrument, 0 where none is believed. Where no such instrument is configured the commission
    counts as 0: ``unknown`` counts them, and ``on_unknown`` hears of each asset once.
    """

    def __init__(
        self, instruments: Instruments, mark_of: Callable[[int], int], on_unknown: Callable[[str, str], None] = lambda *_: None
    ) -> None:
        self.instruments, self.mark_of, self.on_unknown = instruments, mark_of, on_unknown
        self.converted = self.unknown = 0
        self._said: set[str] = set()

    def of(self, amount: str, asset: str, instrument: Instrument) -> Commission | None:
        """What an execution cost, rounded up. None: the mark to convert by is not known yet.

        On spot a commission in the asset that was bought is taken out of it: as much less is there to be sold. ``ValueError``:
        it is no amount, or none that books can hold.
        """
        if instrument.spot and asset == instrument.base_asset:
            if _AMOUNT.fullmatch(amount) is None:
                raise ValueError(f"a commission of {amount[:40]!r}")
            kept = Fraction(amount) * 10**instrument.qty_decimals / instrument.lot
            if abs(kept) >= 1 << 30:
                raise ValueError(f"a commission of {amount[:40]} {asset}")
            return Commission(ceil(kept * (1 << 32)), True)
        e8 = self.e8(amount, asset, instrument)
        return None if e8 is None else Commission(e8)

    def e8(self, amount: str, asset: str, instrument: Instrument) -> int | None:
        """1e-8 of the instrument's margin asset, rounded up: a cost is never understated. None: its mark is not known yet."""
        if asset == instrument.margin_asset:
            return money_e8(amount)
        if not amount.strip("-0."):
            return 0
        symbol = asset + instrument.margin_asset
        rate = self.instruments.find(symbol) or self._of_assets(asset, instrument.margin_asset)
        if rate is None:
            self.unknown += 1
            if asset not in self._said:
                self._said.add(asset)
                self.on_unknown(asset, symbol)
            return 0
        mark = self.mark_of(rate.index)
        if mark <= 0:
            return None
        self.converted += 1
        return int(-(-money_e8(amount) * mark * rate.tick // 10**rate.price_decimals))

    def _of_assets(self, base: str, quote: str) -> Instrument | None:
        """Where the venue writes the pair otherwise: an instrument whose quantity is the one, and its price the other."""
        return next(
            (item for item in self.instruments if item.base_asset == base and item.quote_asset == quote
             and item.contract_mul == item.contract_div), None)
