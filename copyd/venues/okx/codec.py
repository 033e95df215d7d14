"""Bytes of the venue to what was told. Pure: no socket, no clock, no state but the instruments.

Wire structs come first (field names are the venue's; its numbers are texts, "" for absent), then the functions from them to
``told`` and ``facts``. Every number becomes an exact scaled integer; what cannot be read becomes a ``Malformed`` value, which
the caller counts: no frame of a counterparty raises through the loop.

Execution ids are the venue's ``tradeId`` of the instrument. Liquidations and auto-deleveraging match nobody: the stream
gives them the id 0 and the list of fills a negative one. On the stream they get an id of their own above all others
(``forced_id``), so that they count at once; from the list they are left out, because an id of the one kind would put later
executions of the other behind a mark (the position says what they did).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, Final, TypeVar

import msgspec

from copyd._fast.decimals import cut_scaled
from copyd.core import leader_stream as ls
from copyd.venues.common import facts
from copyd.venues.common.facts import MS_NS, Malformed, Mark, Quote, malformed, money_e8, own_cid
from copyd.venues.common.instruments import Instrument, Instruments
from copyd.venues.common.outcome import Outcome
from copyd.venues.common.told import (
    Alive,
    Answered,
    Ending,
    FundingTold,
    LoggedIn,
    MarginCallTold,
    OrderTold,
    PositionTold,
    Subscribed,
    Told,
    TradeTold,
    Unused,
    WalletTold,
)  # fmt: skip
from copyd.venues.okx.errors import LOGIN_CODES, RATE_CODES, classify, number, reason_of, telling

Value = TypeVar("Value")

STATUS: Final = {
    "live": facts.NEW, "partially_filled": facts.PARTIALLY_FILLED, "filled": facts.FILLED, "canceled": facts.CANCELED,
    "mmp_canceled": facts.CANCELED,
}  # fmt: skip
SIDE: Final = {"buy": 1, "sell": -1}
POSITION_SIDE: Final = {"": 0, "net": 0, "long": 1, "short": 2}
#: Orders of the venue's own and what the rest of copyd calls their cause.
CAUSE: Final = {
    "full_liquidation": "liquidation", "partial_liquidation": "liquidation", "adl": "adl", "delivery": "settlement",
}  # fmt: skip
#: Funding paid and received; transfers in and out: types of a bill.
BILL_FUNDING, BILL_TRANSFER = "8", "1"
#: Ids of executions that match nobody begin here; the venue's own are far below.
FORCED_ID: Final = 1 << 62
#: Costs and commissions are booked in 63 bits, a commission in the base asset as lots with 32 fraction bits.
INT63_MAX: Final = (1 << 63) - 1
BASE_FEE_LOTS_MAX: Final = 1 << 31
PONG: Final = b"pong"
#: The notice that this connection is closed within a minute.
CLOSING: Final = 64008
#: Names of our subscriptions by the venue's channel.
SUBSCRIPTION: Final = {
    "orders": "orders", "positions": "positions", "account": "account", "balance_and_position": "changes",
    "liquidation-warning": "warnings",
}  # fmt: skip


# --- wire ---------------------------------------------------------------------------------------------------------------
class Arg(msgspec.Struct):
    """What a push or an acknowledgement is about."""

    channel: str = ""
    instId: str = ""


class Frame(msgspec.Struct):
    """Any message of a connection; ``data`` is read by what it turns out to be."""

    id: str | None = None
    op: str = ""
    event: str = ""
    code: str = ""
    msg: str = ""
    channel: str = ""
    arg: Arg | None = None
    data: msgspec.Raw = msgspec.Raw(b"[]")


class Placement(msgspec.Struct):
    """One order of an answer to a placement."""

    sCode: str
    ordId: str = ""
    clOrdId: str = ""
    sMsg: str = ""
    ts: str = ""


class Judged(msgspec.Struct):
    """A row of any answer: those about an order say in it how that went."""

    sCode: str = ""
    sMsg: str = ""


class OrderRow(msgspec.Struct):
    """An order as the channel pushes it (one push per execution) and as REST tells it (the last execution's fields)."""

    instId: str
    ordId: str
    state: str
    side: str
    sz: str
    clOrdId: str = ""
    posSide: str = ""
    ordType: str = ""
    tgtCcy: str = ""
    accFillSz: str = ""
    avgPx: str = ""
    fillPx: str = ""
    fillSz: str = ""
    fillTime: str = ""
    fillFee: str = ""
    fillFeeCcy: str = ""
    fillPnl: str = ""
    tradeId: str = ""
    execType: str = ""
    category: str = ""
    reduceOnly: str = ""
    uTime: str = ""
    cTime: str = ""


class FillRow(msgspec.Struct):
    """A row of ``trade/fills`` and of its history."""

    instId: str
    ordId: str
    tradeId: str
    side: str
    fillSz: str
    fillPx: str
    billId: str
    clOrdId: str = ""
    posSide: str = ""
    execType: str = ""
    fee: str = ""
    feeCcy: str = ""
    fillPnl: str = ""
    fillTime: str = ""
    ts: str = ""


class PositionRow(msgspec.Struct):
    """A position as the channel pushes it and as ``account/positions`` lists it."""

    instId: str
    pos: str
    posSide: str = ""
    mgnMode: str = ""
    avgPx: str = ""
    lever: str = ""
    uTime: str = ""
    pTime: str = ""


class BalanceDetail(msgspec.Struct):
    """One asset of the account. ``cashBal`` is without what isolated positions hold, ``eq`` is with everything."""

    ccy: str
    eq: str = ""
    eqUsd: str = ""
    cashBal: str = ""
    isoEq: str = ""
    isoUpl: str = ""
    availEq: str = ""
    availBal: str = ""
    uTime: str = ""


class Balance(msgspec.Struct):
    details: list[BalanceDetail] = []
    uTime: str = ""


class Change(msgspec.Struct):
    """A push of ``balance_and_position``, of which only the cause is used."""

    eventType: str = ""


class Warned(msgspec.Struct):
    """A push of ``liquidation-warning``."""

    pTime: str = ""


class BookRow(msgspec.Struct):
    """A push of ``bbo-tbt``: levels of (price, quantity, "0", orders)."""

    asks: list[list[str]]
    bids: list[list[str]]
    ts: str


class MarkRow(msgspec.Struct):
    """A push of ``mark-price``, or of ``tickers`` where there is no mark."""

    ts: str
    markPx: str = ""
    last: str = ""


class ConfigRow(msgspec.Struct):
    """``account/config``. ``acctLv``: 1 spot, 2 futures, 3 multi-currency margin, 4 portfolio margin."""

    acctLv: str
    posMode: str
    perm: str = ""


class LeverRow(msgspec.Struct):
    """A row of ``account/leverage-info``."""

    lever: str
    mgnMode: str = ""
    posSide: str = ""


class BillRow(msgspec.Struct):
    """A row of ``account/bills``."""

    billId: str
    ts: str
    ccy: str
    type: str = ""
    instId: str = ""
    balChg: str = ""
    pnl: str = ""


class TimeRow(msgspec.Struct):
    ts: str


class Body(msgspec.Struct):
    """The envelope of every REST answer."""

    code: str = ""
    msg: str = ""
    data: msgspec.Raw = msgspec.Raw(b"[]")


_frame = msgspec.json.Decoder(Frame)
_body = msgspec.json.Decoder(Body)
_placements = msgspec.json.Decoder(list[Placement])
_first = msgspec.json.Decoder(list[Judged])
_orders = msgspec.json.Decoder(list[OrderRow])
_positions = msgspec.json.Decoder(list[PositionRow])
_balances = msgspec.json.Decoder(list[Balance])
_changes = msgspec.json.Decoder(list[Change])
_warned = msgspec.json.Decoder(list[Warned])
_books = msgspec.json.Decoder(list[BookRow])
_marks = msgspec.json.Decoder(list[MarkRow])

#: What a frame or body that does not fit raises.
UNREADABLE = (msgspec.MsgspecError, ValueError, IndexError, OverflowError, RecursionError)


def rows(body: bytes, kind: Any) -> list[Any]:
    """The rows of a REST answer; ``ValueError`` when they do not fit."""
    try:
        return list(msgspec.json.decode(_body.decode(body).data, type=list[kind]))
    except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
        raise ValueError(f"unreadable answer: {problem}") from None


def answer_code(body: bytes) -> tuple[int, str]:
    """(telling code, message) of any answer; -1 where it has none. An answer that is a list of rows says it in the first."""
    try:
        envelope = _body.decode(body)
        outer = number(envelope.code)
        if outer not in (0, 1, 2):
            return outer, envelope.msg
        first = _first.decode(envelope.data)[:1]
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return -1, body[:100].decode("utf-8", "replace")
    if not first or not first[0].sCode:
        return outer, envelope.msg
    return telling(outer, number(first[0].sCode)), first[0].sMsg or envelope.msg


# --- texts to numbers -----------------------------------------------------------------------------------------------------
def time_ns(text: str) -> int:
    """A time of the venue, ms as text, in ns; anything else is an error."""
    if not (text.isascii() and text.isdigit() and len(text) <= 13):
        raise ValueError(f"{text!r} is no time")
    return int(text) * MS_NS


def order_id(text: str) -> int:
    """An order id of the venue: digits, below 2**63; "" is 0."""
    if not text:
        return 0
    value = int(text) if text.isascii() and text.isdigit() else -1
    if not 0 <= value < 1 << 63:
        raise ValueError(f"{text[:40]!r} is no order id")
    return value


def trade_id(text: str) -> int:
    """An execution id; 0 where there is none of the ordinary kind (absent, "0", negative: see the module)."""
    if not text or text.startswith("-"):
        return 0
    value = int(text) if text.isascii() and text.isdigit() else -1
    if not 0 <= value < FORCED_ID:
        raise ValueError(f"{text[:40]!r} is no execution id")
    return value


def forced_id(row: OrderRow) -> int:
    """The id of an execution of a liquidation: by the order and how far it has filled, so that a repeated push keeps it."""
    text = f"{row.instId} {row.ordId} {row.accFillSz}".encode()
    return FORCED_ID | int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 2


def word(table: Mapping[str, Value], text: str) -> Value:
    """What a word of the venue means; a word it is not documented to use is an error."""
    if text not in table:
        raise ValueError(f"{text[:40]!r} is none of {', '.join(repr(known) for known in table)}")
    return table[text]


def lots(instrument: Instrument, text: str) -> int:
    """A quantity in lots; "" is 0."""
    return instrument.lots(text) if text else 0


def cost_e8(instrument: Instrument, average: str, quantity_lots: int) -> int:
    """What so many lots cost at an average price, in 1e-8 of the quote asset, rounded down; 0 = not told."""
    if not average or quantity_lots <= 0:
        return 0
    units = cut_scaled(average, 12) * quantity_lots * instrument.lot * instrument.contract_mul * 10**8
    cost = units // (10 ** (12 + instrument.qty_decimals) * instrument.contract_div)
    if cost > INT63_MAX:
        raise ValueError(f"{quantity_lots} lots at {average[:40]} cost more than can be booked")
    return cost


def fee_paid(text: str) -> str:
    """The venue writes what was charged below 0 and rebates above; here what was paid is above 0. No number is an error."""
    if not text:
        return "0"
    money_e8(text)
    if not text.strip("-0."):
        return "0"
    return text[1:] if text.startswith("-") else f"-{text}"


def commission(text: str, asset: str, instrument: Instrument) -> str:
    """As ``fee_paid``, of an execution in the instrument. One kept back of what was bought that no books can hold is an error."""
    paid = fee_paid(text)
    kept_back = instrument.spot and asset == instrument.base_asset
    if kept_back and abs(money_e8(paid)) * 10**instrument.qty_decimals >= BASE_FEE_LOTS_MAX * instrument.lot * 10**8:
        raise ValueError(f"a commission of {text[:40]} {asset[:10]}")
    return paid


def leverage_of(text: str) -> int:
    """``"2.0"`` -> 2; "" -> 0 (not told). A part of a whole is cut."""
    return max(0, cut_scaled(text, 0)) if text else 0


# --- orders and executions --------------------------------------------------------------------------------------------------
def _in_quote(row: OrderRow, instrument: Instrument) -> bool:
    """Whether an order is sized in the quote asset, as market orders of spot may be; buys are unless told otherwise."""
    in_quote = row.ordType == "market" and row.tgtCcy != "base_ccy" and row.side == "buy"
    return instrument.spot and (in_quote or row.tgtCcy == "quote_ccy")


def _order_qty(row: OrderRow, instrument: Instrument) -> int:
    """Lots ordered; 0 = not told."""
    return 0 if _in_quote(row, instrument) else lots(instrument, row.sz)


def _lots_bought(row: OrderRow, instrument: Instrument, px: int) -> int:
    """Lots that an order sized in the quote asset comes to at a price in ticks; of these an execution there is its share."""
    if px <= 0 or not row.sz:
        return 0
    bought = money_e8(row.sz) * instrument.value_div // (px * instrument.value_mul)
    if bought > INT63_MAX:
        raise ValueError(f"{row.sz[:40]} buys more than can be counted")
    return bought


def order_told(row: OrderRow, instrument: Instrument) -> OrderTold:
    """An order's state. Where a position side says it, reduce-only is no property of the order."""
    position_side = word(POSITION_SIDE, row.posSide)
    cum_qty = lots(instrument, row.accFillSz)
    return OrderTold(
        cid=own_cid(row.clOrdId),
        client_order_id=row.clOrdId,
        instrument=instrument.index,
        venue_order_id=order_id(row.ordId),
        status=word(STATUS, row.state),
        cum_qty=cum_qty,
        cost_e8=cost_e8(instrument, row.avgPx, cum_qty),
        side=word(SIDE, row.side),
        position_side=position_side,
        order_qty=_order_qty(row, instrument),
        reduce_only=row.reduceOnly == "true" and not position_side,
        ts_event=time_ns(row.uTime or row.cTime),
    )


def _closes(side: int, position_side: int) -> bool:
    """Whether an order of this side makes the position side smaller, where there are two."""
    return (position_side == 1 and side < 0) or (position_side == 2 and side > 0)


def pushed(row: OrderRow, instrument: Instrument, ts_recv: int, raw: bytes = b"") -> OrderTold | TradeTold:
    """A push of the orders channel: an execution with the order behind it, or the order alone."""
    order = order_told(row, instrument)
    qty = lots(instrument, row.fillSz)
    exec_id = trade_id(row.tradeId)
    cause = CAUSE.get(row.category, "")
    if qty <= 0 or not (exec_id or cause):
        return order
    px = instrument.ticks_nearest(row.fillPx) if cause else instrument.ticks(row.fillPx)
    execution = ls.Execution(
        instrument=instrument.index,
        position_side=order.position_side,
        exec_id=exec_id or forced_id(row),
        order_id=order.venue_order_id,
        side=order.side,
        qty=qty,
        px=px,
        order_qty=_lots_bought(row, instrument, px) if _in_quote(row, instrument) else order.order_qty,
        cum_qty=order.cum_qty,
        reduce_only=order.reduce_only or _closes(order.side, order.position_side),
        realised=row.fillPnl.strip("-0.") != "",
        maker=row.execType == "M",
        live=True,
        client_order_id=row.clOrdId,
        cause=cause,
        ts_event=time_ns(row.fillTime or row.uTime),
        ts_recv=ts_recv,
        raw=raw,
    )
    return TradeTold(order.cid, execution, commission(row.fillFee, row.fillFeeCcy, instrument), row.fillFeeCcy, order)


def listed(row: FillRow, instrument: Instrument, ts_recv: int) -> TradeTold | None:
    """A row of the fills as an execution that was not live; None: it has no id of the ordinary kind."""
    exec_id = trade_id(row.tradeId)
    if not exec_id:
        return None
    side, position_side = word(SIDE, row.side), word(POSITION_SIDE, row.posSide)
    execution = ls.Execution(
        instrument=instrument.index,
        position_side=position_side,
        exec_id=exec_id,
        order_id=order_id(row.ordId),
        side=side,
        qty=lots(instrument, row.fillSz),
        px=instrument.ticks(row.fillPx),
        reduce_only=_closes(side, position_side),
        realised=row.fillPnl.strip("-0.") != "",
        maker=row.execType == "M",
        live=False,
        client_order_id=row.clOrdId,
        ts_event=time_ns(row.fillTime or row.ts),
        ts_recv=ts_recv,
    )
    return TradeTold(own_cid(row.clOrdId), execution, commission(row.fee, row.feeCcy, instrument), row.feeCcy)


# --- positions and balances ---------------------------------------------------------------------------------------------------
def _signed(row: PositionRow, instrument: Instrument) -> int:
    """Signed lots: one-way positions carry their sign, the short side of two is written without one."""
    qty = lots(instrument, row.pos)
    return -abs(qty) if row.posSide == "short" else qty


def position_of(row: PositionRow, instrument: Instrument, ts_recv: int, source: str, raw: bytes = b"") -> ls.Position:
    """A position of the venue."""
    return ls.Position(
        instrument.index, word(POSITION_SIDE, row.posSide), _signed(row, instrument), time_ns(row.uTime or row.pTime), ts_recv,
        source, leverage_of(row.lever), row.mgnMode == "isolated", raw,
    )  # fmt: skip


def merged(found: Iterator[tuple[ls.Position, int]]) -> list[tuple[ls.Position, int]]:
    """Positions with their entry price e8. An isolated and a cross position may stand side by side in one instrument: here they
    are one, with the entry, leverage and margin type of the larger, for the venue's executions do not say of which they are."""
    kept: dict[tuple[int, int], tuple[ls.Position, int]] = {}
    for position, entry in found:
        key = position.instrument, position.position_side
        before = kept.get(key)
        if before is None:
            kept[key] = position, entry
            continue
        first, second = before, (position, entry)
        larger, smaller = (second, first) if abs(position.qty) > abs(before[0].qty) else (first, second)
        larger[0].qty += smaller[0].qty
        larger[0].ts_event = max(larger[0].ts_event, smaller[0].ts_event)
        kept[key] = larger
    return list(kept.values())


def positions_told(
    listing: list[PositionRow], instruments: Instruments, ts_recv: int, source: str, raw: bytes = b""
) -> list[tuple[ls.Position, int]]:
    """(position, entry price e8) of the instruments that are ours."""
    return merged(
        (position_of(row, instrument, ts_recv, source, raw), money_e8(row.avgPx) if row.avgPx else 0)
        for row in listing
        if (instrument := instruments.find(row.instId)) is not None and not instrument.spot
    )


def wallet_e8(detail: BalanceDetail) -> int:
    """The wallet without unrealised profit: cash, and what isolated positions hold without theirs."""
    return sum(money_e8(text) for text in (detail.cashBal, detail.isoEq) if text) - (
        money_e8(detail.isoUpl) if detail.isoUpl else 0
    )


def held_lots(detail: BalanceDetail, instrument: Instrument) -> int:
    """Whole lots of what is owned of the base asset of a spot instrument, also what open orders lock."""
    return cut_scaled(detail.cashBal, instrument.qty_decimals) // instrument.lot if detail.cashBal else 0


def equity_e8(details: Sequence[BalanceDetail], asset: str, bases: Set[str]) -> int:
    """What the account owns of ``asset`` with everything, and of the assets ``bases``, in 1e-8 of the first, rounded down.

    The venue values each asset in dollars. ``ValueError``: one of them it does not.
    """
    mine = next((detail for detail in details if detail.ccy == asset), None) or BalanceDetail(asset)
    total = money_e8(mine.eq) if mine.eq else 0
    coins = [detail for detail in details if detail.ccy in bases and detail.ccy != asset and detail.eq.strip("-0.")]
    if coins:
        amount, dollars = _per_dollar(mine, asset)
        total += sum(_dollars_e8(detail) for detail in coins) * amount // dollars
    return total


def _dollars_e8(detail: BalanceDetail) -> int:
    if not detail.eqUsd:
        raise ValueError(f"the venue does not say what {detail.ccy} is worth")
    return money_e8(detail.eqUsd)


def _per_dollar(detail: BalanceDetail, asset: str) -> tuple[int, int]:
    """(amount, what it is worth in dollars) of an asset: as the venue values the account's own, where that is enough to tell."""
    dollars = money_e8(detail.eqUsd) if detail.eqUsd else 0
    if dollars >= 10**8:
        return money_e8(detail.eq), dollars
    if not asset.startswith("USD"):
        raise ValueError(f"the account holds no {asset} by which the venue would say what it is worth")
    return 1, 1


# --- frames -----------------------------------------------------------------------------------------------------------------
def read_private(payload: bytes, instruments: Instruments, ts_recv: int) -> list[Told]:
    """What a frame of the private connection says, in its order."""
    if payload == PONG:
        return [Alive()]
    try:
        frame = _frame.decode(payload)
        if frame.event:
            return [_event(frame)]
        if frame.op:
            return [_answer(frame)]
        if frame.arg is not None:
            return _push(frame.arg.channel, frame.data, instruments, ts_recv, payload)
        return [malformed("neither an event, an answer nor a push", payload)]
    except UNREADABLE as problem:
        return [malformed(problem, payload)]


def _event(frame: Frame) -> Told:
    code = number(frame.code) if frame.code else 0
    match frame.event:
        case "login":
            return LoggedIn(code == 0, reason_of(code) if code else "", code, frame.msg)
        case "subscribe":
            return Subscribed(_name(frame), True)
        case "notice" if code == CLOSING:
            return Ending(f"{frame.code} {frame.msg}"[:200])
        case "channel-conn-count-error":
            return Subscribed(SUBSCRIPTION.get(frame.channel, frame.channel), False, "too many connections on this channel")
        case "error" if frame.id or frame.arg is not None:
            return Subscribed(_name(frame), False, f"{frame.code} {frame.msg}"[:200])
        case "error" if code in LOGIN_CODES:
            return LoggedIn(False, reason_of(code), code, frame.msg)
        case "error":
            return Subscribed("", False, f"{frame.code} {frame.msg}"[:200])
        case _:
            return Unused(frame.event)


def _name(frame: Frame) -> str:
    if frame.id:
        return frame.id
    channel = frame.arg.channel if frame.arg is not None else ""
    return SUBSCRIPTION.get(channel, channel)


def _answer(frame: Frame) -> Told:
    if frame.op != "order":
        return Unused(frame.op)
    cid = own_cid(frame.id or "")
    if cid is None:
        return Unused("order of another's id")
    return answered(cid, 200, frame.code, frame.msg, _placements.decode(frame.data))


def answered(cid: bytes, status: int, outer_text: str, message: str, placed: list[Placement]) -> Answered:
    """The answer to one placement. Accepted is only what names the order it became."""
    outer = number(outer_text)
    first = placed[0] if placed else None
    inner = number(first.sCode) if first is not None else 0
    code = telling(outer, inner)
    verdict = classify(status, code)
    why = (first.sMsg if first is not None and first.sMsg else message)[:200]
    ts_event = time_ns(first.ts) if first is not None and first.ts else 0
    if verdict.outcome is Outcome.ACCEPTED:
        venue_order_id = order_id(first.ordId) if first is not None else 0
        if not venue_order_id:
            return Answered(cid, verdict._replace(outcome=Outcome.IN_DOUBT, reason="unexpected_response"), message=why)
        return Answered(cid, verdict, venue_order_id, facts.NEW, ts_event=ts_event)
    return Answered(cid, verdict, ts_event=ts_event, message=why, retry_ns=-1 if code in RATE_CODES else 0)


def rest_answered(cid: bytes, status: int, body: bytes) -> Answered:
    """The answer to a placement over REST; what cannot be read leaves it in doubt."""
    try:
        envelope = _body.decode(body)
        return answered(cid, status, envelope.code, envelope.msg, _placements.decode(envelope.data))
    except UNREADABLE:
        return Answered(cid, classify(status, 0 if status != 200 else -1), message=body[:100].decode("utf-8", "replace"))


def _push(channel: str, data: msgspec.Raw, instruments: Instruments, ts_recv: int, payload: bytes) -> list[Told]:
    match channel:
        case "orders":
            return _pushed_orders(data, instruments, ts_recv, payload)
        case "positions":
            told = positions_told(_positions.decode(data), instruments, ts_recv, "push", payload)
            return [PositionTold(position) for position, _ in told] or [Unused("positions of other instruments")]
        case "account":
            return _pushed_balances(data, instruments)
        case "balance_and_position":
            return [Unused(row.eventType or channel) for row in _changes.decode(data)]
        case "liquidation-warning":
            return [MarginCallTold(max((time_ns(row.pTime) for row in _warned.decode(data)), default=0))]
        case _:
            return [Unused(channel or "push")]


def _pushed_orders(data: msgspec.Raw, instruments: Instruments, ts_recv: int, payload: bytes) -> list[Told]:
    """Each row by itself: what one cannot say, the others still do."""
    told: list[Told] = []
    for row in _orders.decode(data):
        instrument = instruments.find(row.instId)
        if instrument is None:
            told.append(Unused("order in another instrument"))
            continue
        try:
            told.append(pushed(row, instrument, ts_recv, payload))
        except UNREADABLE as problem:
            told.append(malformed(problem, payload))
    return told


def _pushed_balances(data: msgspec.Raw, instruments: Instruments) -> list[Told]:
    """Of the assets that margin and purchases are paid in: others may be held in numbers beyond what is read exactly here."""
    assets = {item.margin_asset for item in instruments}
    told: list[Told] = []
    for balance in _balances.decode(data):
        told += [
            WalletTold(detail.ccy, wallet_e8(detail), ts_event=time_ns(detail.uTime or balance.uTime))
            for detail in balance.details if detail.cashBal and detail.ccy in assets
        ]  # fmt: skip
    return told or [Unused("account")]


def read_market(payload: bytes, instruments: Instruments, ts_recv: int) -> list[Quote | Mark | Unused | Malformed]:
    """What a frame of the public connection says."""
    if payload == PONG:
        return [Unused("pong")]
    try:
        frame = _frame.decode(payload)
        if frame.arg is None or frame.event:
            return [Unused(frame.event or frame.op or "message")]
        instrument = instruments.find(frame.arg.instId)
        if instrument is None:
            return [Unused("market of another instrument")]
        if frame.arg.channel == "bbo-tbt":
            return [_quote(row, instrument, ts_recv) for row in _books.decode(frame.data)]
        if frame.arg.channel in ("mark-price", "tickers"):
            return [_mark(row, instrument, ts_recv) for row in _marks.decode(frame.data)]
        return [Unused(frame.arg.channel)]
    except UNREADABLE as problem:
        return [malformed(problem, payload)]


def _quote(row: BookRow, instrument: Instrument, ts_recv: int) -> Quote:
    """Best bid and ask; 0 where a side is empty."""

    def best(levels: list[list[str]]) -> tuple[int, int]:
        return (instrument.ticks(levels[0][0]), instrument.lots(levels[0][1])) if levels else (0, 0)

    return Quote(instrument.index, *best(row.bids), *best(row.asks), time_ns(row.ts), ts_recv)


def _mark(row: MarkRow, instrument: Instrument, ts_recv: int) -> Mark:
    """The mark; the funding rate comes on a channel of its own and is not told here."""
    return Mark(instrument.index, instrument.ticks_nearest(row.markPx or row.last), 0, time_ns(row.ts), ts_recv)


def funding_told(row: BillRow, instruments: Instruments) -> FundingTold:
    """Funding of a bill: ``pnl`` is what was received (below 0: paid)."""
    instrument = instruments.find(row.instId)
    amount = money_e8(row.pnl or row.balChg)
    return FundingTold(instrument.index if instrument is not None else -1, amount, order_id(row.billId), time_ns(row.ts))
