"""What is asked of an account again and again, as channels and frames: the same shape as a venue that pushes.

A frame is what a poll (``poll.py``) found, as JSON: ``{"orders": [...]}``, ``{"trades": [...], "orders_of": {...}}``,
``{"market": [...], "funding": [...]}`` with structures of ccxt, or the word on a login. Orders go over the process alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from copyd.venues.ccxt import codec
from copyd.venues.ccxt.rest import Rest
from copyd.venues.ccxt.signing import account_of
from copyd.venues.common import told
from copyd.venues.common.facts import Malformed, Mark, Quote, malformed
from copyd.venues.common.instruments import Instrument, Instruments
from copyd.venues.common.signing import Key
from copyd.venues.common.venue import Channel, Order

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, ValueError, KeyError, OverflowError)


class Login(msgspec.Struct):
    ok: bool
    reason: str = ""
    text: str = ""


class Frame(msgspec.Struct):
    """One poll's news."""

    login: Login | None = None
    orders: list[codec.Order] = []
    trades: list[codec.Trade] = []
    orders_of: dict[str, codec.Order] = {}
    market: list[codec.Ticker] = []
    funding: list[codec.Funding] = []
    gap: str = ""


_frame = msgspec.json.Decoder(Frame)


class CcxtWire:
    """See the module and ``copyd.venues.common.venue.Wire``. ``link``: what keeps a channel up instead of a connection."""

    def __init__(self, rest: Rest, link: Callable[..., Any]) -> None:
        self.rest, self.link = rest, link
        self.instruments = Instruments(())

    def bind(self, instruments: Instruments) -> None:
        """The instruments in use."""
        self.instruments = instruments

    def channels(self, endpoints: Any, key: Key | None = None) -> tuple[Channel, ...]:
        """One, which is no connection: the account is asked over the process."""
        return (Channel(name="account", url="", orders=False, events=True),)

    def login(self, channel: Channel, key: Key, now_ms: int) -> bytes:
        """Names the account to the poll; its key does not appear."""
        self.rest.remember(key)
        return msgspec.json.encode({"account": account_of(key)})

    def place(self, order: Order, now_ms: int) -> bytes:
        """No text: orders go over the process alone."""
        raise ValueError("orders behind ccxt are not sent over a connection")

    def market(self, endpoints: Any) -> tuple[Channel, ...]:
        """One, which is no connection."""
        return (Channel(name="market", url="", orders=False, events=True, subscriptions=(("market", b'{"market":true}'),)),)

    def read(self, channel: str, payload: bytes, ts_recv: int) -> Sequence[told.Told]:
        """What a poll found, executions before the ends of their orders."""
        try:
            frame = _frame.decode(payload)
            if frame.login is not None:
                said = frame.login
                return (told.LoggedIn(said.ok, said.reason, 0, said.text),)
            found: list[told.Told] = [self._trade(row, frame, ts_recv, payload) for row in frame.trades]
            found += [codec.order_told(row, self._item(row.symbol), self.rest.names) for row in frame.orders]
            if frame.gap:
                found.append(told.Ending(frame.gap))
        except UNREADABLE as problem:
            return (malformed(problem, payload),)
        return found

    def _trade(self, row: codec.Trade, frame: Frame, ts_recv: int, payload: bytes) -> told.TradeTold:
        order = frame.orders_of.get(row.order or "")
        return codec.trade_told(row, self._item(row.symbol), self.rest.names, ts_recv, live=True, order=order, raw=payload)

    def _item(self, symbol: str | None) -> Instrument:
        item = self.rest.item_of(symbol or "")
        if item is None:
            raise ValueError(f"{symbol}: not an instrument of ours")
        return item

    def read_market(self, payload: bytes, ts_recv: int, channel: str = "") -> Sequence[Quote | Mark | told.Unused | Malformed]:
        """Quotes and marks. Where the exchange tells no mark of an instrument, the middle of its book stands for it."""
        try:
            frame = _frame.decode(payload)
            funding = {row.symbol: row for row in frame.funding}
            found: list[Quote | Mark | told.Unused | Malformed] = []
            for row in frame.market:
                found += self._market(row, funding.get(row.symbol), ts_recv)
        except UNREADABLE as problem:
            return (malformed(problem, payload),)
        return found

    def _market(self, row: codec.Ticker, funding: codec.Funding | None, ts_recv: int) -> list[Quote | Mark]:
        item = self.rest.item_of(row.symbol or "")
        if item is None:
            return []
        quote = codec.quote(row, item, ts_recv)
        rate = funding.fundingRate if funding is not None else None
        price = row.markPrice or (funding.markPrice if funding is not None else None)
        mark = codec.mark(price, rate, item, ts_recv)
        if mark is None and quote is not None:
            mark = Mark(item.index, (quote.bid + quote.ask) // 2, 0, ts_recv, ts_recv)
        return [one for one in (quote, mark) if one is not None]
