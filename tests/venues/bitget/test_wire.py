"""Frames of both APIs to what copyd is told; what cannot be read is Malformed and never an exception."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copyd.core import leader_stream as ls
from copyd.venues.bitget import codec
from copyd.venues.bitget.contract import Endpoints
from copyd.venues.bitget.instruments import load_instruments
from copyd.venues.bitget.wire import CLASSIC, UNIFIED_HEDGE, UNIFIED_ONE_WAY, BitgetWire, Kind
from copyd.venues.common.facts import CANCELED, FILLED, NEW, PARTIALLY_FILLED, Malformed, Mark, Quote
from copyd.venues.common.instruments import Instruments
from copyd.venues.common.outcome import Outcome, Verdict
from copyd.venues.common.signing import Key
from copyd.venues.common.told import (
    Alive,
    Answered,
    Ending,
    LoggedIn,
    OrderTold,
    PositionTold,
    Subscribed,
    TradeTold,
    Unused,
    WalletTold,
)
from copyd.venues.common.venue import Order
from tests.venues.bitget.conftest import BTC, BTC_SPOT, ETH, bodies

MS_NS = 10**6
CID = bytes(range(16))
ORDER: dict[str, Any] = {
    "instId": "BTCUSDT", "orderId": "13333", "clientOid": CID.hex(), "price": "0", "size": "0.03", "posMode": "one_way_mode",
    "posSide": "net", "tradeSide": "sell_single", "side": "sell", "orderType": "market", "force": "gtc", "marginMode": "crossed",
    "marginCoin": "USDT", "leverage": "20", "reduceOnly": "yes", "fillPrice": "27000.5", "tradeId": "1111111111", "pnl": "-1.5",
    "baseVolume": "0.01", "fillTime": "1695718781146", "fillFee": "-0.162", "fillFeeCoin": "USDT", "tradeScope": "T",
    "accBaseVolume": "0.02", "priceAvg": "27000", "status": "partially_filled", "cTime": "1695718781129",
    "uTime": "1695718781200", "feeDetail": [{"feeCoin": "USDT", "fee": "-0.3"}],
}  # fmt: skip
HEDGE = {"posMode": "hedge_mode", "posSide": "long", "tradeSide": "open", "side": "buy", "reduceOnly": "no"}
FILL: dict[str, Any] = {
    "orderId": "13333", "tradeId": "222", "symbol": "BTCUSDT", "side": "buy", "orderType": "market", "posMode": "one_way_mode",
    "price": "51000.5", "baseVolume": "0.01", "quoteVolume": "510.005", "profit": "0", "tradeSide": "buy_single",
    "tradeScope": "maker", "cTime": "1703577336606", "uTime": "1703577336606", "clientOid": CID.hex(),
    "feeDetail": [{"feeCoin": "USDT", "deduction": "no", "totalDeductionFee": "0", "totalFee": "0.0255"}],
}  # fmt: skip
ORDER3: dict[str, Any] = {
    "category": "usdt-futures", "symbol": "BTCUSDT", "orderId": "4444", "clientOid": CID.hex(), "price": "", "qty": "0.03",
    "holdMode": "hedge_mode", "holdSide": "long", "tradeSide": "close", "orderType": "market", "side": "sell", "reduceOnly": "no",
    "cumExecQty": "0.02", "cumExecValue": "1662.63", "avgPrice": "83131.5", "orderStatus": "partially_filled", "leverage": "20",
    "createdTime": "1742367838101", "updatedTime": "1742367838115",
}  # fmt: skip
FILL3: dict[str, Any] = {
    "symbol": "BTCUSDT", "orderType": "market", "updatedTime": "1736378720623", "side": "sell", "orderId": "4444", "execPnl": "2",
    "feeDetail": [{"feeCoin": "USDT", "fee": "0.569958"}], "execTime": "1736378720623", "tradeScope": "taker",
    "tradeSide": "close", "execId": "1288888888888888888", "execPrice": "94993", "holdSide": "long", "execValue": "949.93",
    "category": "usdt-futures", "execQty": "0.01", "clientOid": CID.hex(),
}  # fmt: skip


@pytest.fixture
def venue(instruments: Instruments) -> BitgetWire:
    made = BitgetWire()
    made.bind(instruments)
    return made


def push(channel: str, data: Any, market: str = "USDT-FUTURES", ts: Any = 1695718781206) -> bytes:
    arg = {"instType": market, "topic" if market == "UTA" else "channel": channel, "instId": "default"}
    return json.dumps({"action": "snapshot", "arg": arg, "data": data, "ts": ts}).encode()


def one(venue: BitgetWire, payload: bytes, channel: str = CLASSIC) -> Any:
    (told,) = venue.read(channel, payload, 99)
    return told


# --- orders and executions of v2 --------------------------------------------------------------------------------------
def test_an_order_with_its_execution(venue: BitgetWire) -> None:
    """A push of an order bears its last execution, commission and all, and the order's state behind it."""
    payload = push("orders", [ORDER])
    state = OrderTold(CID, CID.hex(), 3, 13333, PARTIALLY_FILLED, 20, 54_000_000_000, -1, 0, 30, True, 1695718781200 * MS_NS)
    assert one(venue, payload) == TradeTold(
        CID,
        ls.Execution(3, 0, 1111111111, 13333, -1, 10, 270005, 30, 20, True, True, False, True, CID.hex(), "",
                     1695718781146 * MS_NS, 99, payload),
        "0.162", "USDT", state,
    )  # fmt: skip


@pytest.mark.parametrize(("status", "state"), [
    ("live", NEW), ("canceled", CANCELED), ("cancelled", CANCELED), ("filled", FILLED),
])  # fmt: skip
def test_an_order_without_an_execution(venue: BitgetWire, status: str, state: int) -> None:
    """New and ended orders are states; an id that is not ours is kept as the text it is."""
    told = one(venue, push("orders", [{**ORDER, "status": status, "tradeId": "", "fillPrice": "", "baseVolume": "0",
                                       "clientOid": "manual", "leverage": 20}]))  # fmt: skip
    assert isinstance(told, OrderTold) and (told.status, told.cid, told.client_order_id) == (state, None, "manual")


@pytest.mark.parametrize(("pos_side", "trade_side", "side", "direction", "held", "cause"), [
    ("long", "open", "buy", 1, 1, ""), ("long", "close", "buy", -1, 1, ""), ("short", "open", "sell", -1, 2, ""),
    ("short", "close", "sell", 1, 2, ""), ("", "open", "sell", -1, 2, ""), ("", "close", "buy", -1, 1, ""),
    ("long", "burst_close_long", "sell", -1, 1, "liquidation"), ("", "reduce_close_short", "buy", 1, 2, "liquidation"),
    ("short", "dte_sys_adl_close_short", "buy", 1, 2, "adl"), ("", "delivery_close_long", "sell", -1, 1, "settlement"),
    ("", "offset_close_long", "sell", -1, 1, "liquidation"),
])  # fmt: skip
def test_directions_of_a_two_sided_account(
    venue: BitgetWire, pos_side: str, trade_side: str, side: str, direction: int, held: int, cause: str
) -> None:
    """What is done follows from the position and whether it is opened or closed; ``side`` names the position."""
    row = {**ORDER, **HEDGE, "posSide": pos_side, "tradeSide": trade_side, "side": side}
    told = one(venue, push("orders", [row]))
    assert (told.execution.side, told.execution.position_side, told.execution.cause) == (direction, held, cause)
    assert (told.order.side, told.order.position_side) == (direction, held)


@pytest.mark.parametrize(("trade_side", "cause"), [
    ("buy_single", ""), ("burst_buy_single", "liquidation"), ("reduce_buy_single", "liquidation"),
    ("dte_sys_adl_buy_in_single_side_mode", "adl"), ("delivery_buy_single", "settlement"), ("", ""), ("open", ""),
])  # fmt: skip
def test_directions_of_a_one_sided_account(venue: BitgetWire, trade_side: str, cause: str) -> None:
    """``side`` is what was done, whatever else is said."""
    told = one(venue, push("orders", [{**ORDER, "side": "buy", "tradeSide": trade_side}]))
    assert (told.execution.side, told.execution.position_side, told.execution.cause) == (1, 0, cause)


def test_a_fill_of_a_one_sided_account(venue: BitgetWire) -> None:
    """The fill channel bears the same execution without the size of its order, so it is a fast copy of what ``orders`` says;
    above zero its commission is a rebate."""
    payload = push("fill", [FILL])
    assert one(venue, payload) == TradeTold(
        CID,
        ls.Execution(3, 0, 222, 13333, 1, 10, 510005, maker=True, client_order_id=CID.hex(), ts_event=1703577336606 * MS_NS,
                     ts_recv=99, raw=payload),
        "-0.0255", "USDT", thin=True,
    )  # fmt: skip


def test_a_closing_fill_counts_with_its_order(venue: BitgetWire) -> None:
    """Whether "sell" closes a long or a short here is believed only of an order that was seen; else the orders channel tells."""
    closing = {**FILL, "posMode": "hedge_mode", "tradeSide": "close", "side": "sell"}
    assert isinstance(one(venue, push("fill", [closing])), Unused)
    venue.read(CLASSIC, push("orders", [{**ORDER, **HEDGE, "tradeSide": "close"}]), 99)
    for side in ("sell", "buy"):  # as the fill channel is documented, and as the lists write it
        told = one(venue, push("fill", [{**closing, "side": side}]))
        assert (told.execution.side, told.execution.position_side) == (-1, 1)


def test_an_opening_fill_needs_no_order(venue: BitgetWire) -> None:
    """Opening, both ways of writing agree."""
    told = one(venue, push("fill", [{**FILL, "posMode": "hedge_mode", "tradeSide": "open", "side": "sell"}]))
    assert (told.execution.side, told.execution.position_side) == (-1, 2)


#: A push of spot's orders: a market order that buys for 10, filled in part.
SPOT_ORDER: dict[str, Any] = {
    "instId": "BTCUSDT", "orderId": "1", "clientOid": CID.hex(), "size": "10.0000", "newSize": "10.0000", "notional": "10.000000",
    "orderType": "market", "force": "gtc", "side": "buy", "fillPrice": "26256.0", "tradeId": "1", "baseVolume": "0.0003",
    "fillTime": "1695797773286", "fillFee": "-0.00000018", "fillFeeCoin": "BTC", "tradeScope": "T", "accBaseVolume": "0.0003",
    "priceAvg": "26256.0", "status": "partially_filled", "cTime": "1695797773257", "uTime": "1695797773326",
    "feeDetail": [{"feeCoin": "BTC", "fee": "-0.00000018"}], "enterPointSource": "API",
}  # fmt: skip


def test_spot(venue: BitgetWire) -> None:
    """Base quantities, fees in what is received."""
    told = one(venue, push("orders", [SPOT_ORDER], "SPOT"))
    assert (told.execution.instrument, told.execution.qty, told.execution.px, told.fee, told.fee_asset) == (
        7, 300, 2625600, "0.00000018", "BTC")  # fmt: skip
    assert (told.order.cum_qty, told.order.side, told.execution.realised) == (300, 1, False)
    sold = {**SPOT_ORDER, "side": "sell", "newSize": "0.0003", "status": "filled"}
    told = one(venue, push("orders", [sold], "SPOT"))
    assert (told.order.order_qty, told.order.side, told.execution.realised) == (300, -1, True)
    fill = {"orderId": "1", "tradeId": "2", "symbol": "BTCUSDT", "side": "buy", "priceAvg": "42740.41", "size": "0.0006",
            "tradeScope": "maker", "feeDetail": [{"feeCoin": "BTC", "totalFee": "0.0153"}], "cTime": "1703577336606"}  # fmt: skip
    told = one(venue, push("fill", [{**fill, "clientOid": CID.hex()}], "SPOT"))
    assert (told.execution.qty, told.execution.px, told.execution.side) == (600, 4274041, 1)
    assert (told.fee, told.fee_asset) == ("0.0153", "BTC")


@pytest.mark.parametrize(("fields", "asked"), [
    ({"orderType": "limit", "size": "5.6752", "newSize": "0.0007", "notional": "5.675250", "price": "8107.5"}, 700),
    ({"orderType": "limit", "size": "5.675250", "newSize": "0.0007", "side": "sell"}, 700),
    ({}, 380),  # 10 at 26,256
    ({"accBaseVolume": "0.0005"}, 501),  # more than it has filled, as long as it has not ended
    ({"status": "filled"}, 300), ({"status": "cancelled"}, 300),
    ({"status": "live", "accBaseVolume": "0", "fillPrice": "", "priceAvg": "0", "tradeId": "", "baseVolume": ""}, 0),
])  # fmt: skip
def test_what_an_order_of_spot_asks_for(venue: BitgetWire, fields: dict[str, Any], asked: int) -> None:
    """``size`` of a push is what a limit order is worth, ``newSize`` its quantity; a market order that buys is sized in the
    quote asset, and asks for what that buys. A fixed amount is copied by this number."""
    told = one(venue, push("orders", [{**SPOT_ORDER, **fields}], "SPOT"))
    order = told.order if isinstance(told, TradeTold) else told
    assert order.order_qty == asked
    assert not isinstance(told, TradeTold) or told.execution.order_qty == asked


def test_a_fill_of_spot_is_its_orders(venue: BitgetWire) -> None:
    """Fills of spot name no client order id: that of their order, once it was heard of, and what it asked for."""
    fill = {"orderId": "1", "tradeId": "1", "symbol": "BTCUSDT", "side": "buy", "priceAvg": "26256", "size": "0.0003",
            "tradeScope": "taker", "feeDetail": [{"feeCoin": "BTC", "totalFee": "0.0000003"}], "cTime": "1"}  # fmt: skip
    assert isinstance(one(venue, push("fill", [fill], "SPOT")), Unused)
    venue.read(CLASSIC, push("orders", [SPOT_ORDER], "SPOT"), 99)
    told = one(venue, push("fill", [fill], "SPOT"))
    assert (told.cid, told.thin, told.execution.order_qty, told.execution.exec_id) == (CID, True, 380, 1)


def test_coins_of_spot(venue: BitgetWire) -> None:
    """Of the quote asset the wallet, of a base asset whole lots of its market, locked ones too; others are nobody's."""
    balance = {"coin": "USDT", "available": "100", "frozen": "5.5", "locked": "1", "uTime": "1695713887792"}
    at = 1695713887792 * MS_NS
    assert one(venue, push("account", [balance], "SPOT")) == WalletTold("USDT", 10_650_000_000, ts_event=at)
    payload = push("account", [{**balance, "coin": "BTC", "available": "0.0100009"}], "SPOT")
    assert one(venue, payload) == PositionTold(ls.Position(7, 0, 6_510_000, at, 99, "push", 1, True, payload))
    assert isinstance(one(venue, push("account", [{**balance, "coin": "DOGE"}], "SPOT")), Unused)


# --- v3 -----------------------------------------------------------------------------------------------------------------
def test_an_order_of_v3(venue: BitgetWire) -> None:
    """``side`` is what was done, ``holdSide`` the position it was done to."""
    assert one(venue, push("order", [ORDER3], "UTA"), UNIFIED_HEDGE) == OrderTold(
        CID, CID.hex(), 3, 4444, PARTIALLY_FILLED, 20, 166_263_000_000, -1, 1, 30, False, 1742367838115 * MS_NS)
    one_way = {**ORDER3, "holdMode": "one_way_mode", "reduceOnly": "yes"}
    told = one(venue, push("order", [one_way], "UTA"), UNIFIED_ONE_WAY)
    assert (told.side, told.position_side, told.reduce_only) == (-1, 0, True)


@pytest.mark.parametrize(("channel", "seen", "held"), [
    (UNIFIED_HEDGE, None, 1), (UNIFIED_ONE_WAY, None, 0), ("elsewhere", None, ls.UNKNOWN_SIDE),
    (UNIFIED_ONE_WAY, "hedge_mode", 1), (UNIFIED_HEDGE, "one_way_mode", 0),
])  # fmt: skip
def test_a_fill_of_v3(venue: BitgetWire, channel: str, seen: str | None, held: int) -> None:
    """It does not say how positions are kept: its order does, else the connection; else it goes without a position side."""
    size = 0
    if seen:
        size = venue.read(channel, push("order", [{**ORDER3, "holdMode": seen}], "UTA"), 1)[-1].order_qty
    payload = push("fill", [FILL3], "UTA")
    assert one(venue, payload, channel) == TradeTold(
        CID,
        ls.Execution(3, held, 1288888888888888888, 4444, -1, 10, 949930, order_qty=size, realised=True,
                     client_order_id=CID.hex(), ts_event=1736378720623 * MS_NS, ts_recv=99, raw=payload),
        "0.569958", "USDT", thin=seen is None,
    )  # fmt: skip


def test_a_fill_of_v3_heard_before_its_order_is_told_whole_with_it(venue: BitgetWire) -> None:
    """Without what its order asked for a fixed amount would be taken in full for each fill: thin, then whole, with the order."""
    first = one(venue, push("fill", [FILL3], "UTA"), UNIFIED_ONE_WAY)
    assert (first.thin, first.execution.order_qty) == (True, 0)
    whole, order = venue.read(UNIFIED_ONE_WAY, push("order", [ORDER3], "UTA"), 99)
    assert (whole.thin, whole.execution.order_qty, whole.fee) == (False, order.order_qty, "0.569958")
    assert whole.execution.exec_id == first.execution.exec_id and order.order_qty > 0
    assert len(venue.read(UNIFIED_ONE_WAY, push("order", [ORDER3], "UTA"), 99)) == 1, "once"


def test_a_fast_fill_is_thin(venue: BitgetWire) -> None:
    """One object instead of a list, the same id, no commission: the full one follows."""
    fast = {name: value for name, value in FILL3.items() if name not in ("feeDetail", "tradeSide", "execPnl")}
    told = one(venue, push("fast-fill", fast, "UTA"), UNIFIED_HEDGE)
    assert (told.thin, told.fee, told.execution.exec_id, told.execution.position_side) == (True, "0", 1288888888888888888, 1)


def test_spot_of_v3(venue: BitgetWire) -> None:
    """Spot is named by its category; margin and other products are not ours."""
    told = one(venue, push("fill", [{**FILL3, "category": "spot"}], "UTA"), UNIFIED_HEDGE)
    assert (told.execution.instrument, told.execution.position_side, told.thin) == (7, 0, True)
    assert isinstance(one(venue, push("fill", [{**FILL3, "category": "margin"}], "UTA")), Unused)


def test_a_market_order_of_v3_that_buys_spot(venue: BitgetWire) -> None:
    """Sized in the quote asset: its fills wait until it is told what that buys, so that a fixed amount is not taken for each."""
    order = {**ORDER3, "category": "spot", "side": "buy", "qty": "0", "amount": "1000", "holdMode": "", "holdSide": "",
             "tradeSide": ""}  # fmt: skip
    new = {**order, "orderStatus": "live", "cumExecQty": "0", "cumExecValue": "0", "avgPrice": "0"}
    fill = {**FILL3, "category": "spot", "side": "buy", "execQty": "0.002"}
    assert one(venue, push("order", [new], "UTA"), UNIFIED_ONE_WAY).order_qty == 0
    assert one(venue, push("fill", [fill], "UTA"), UNIFIED_ONE_WAY).thin
    part = {**order, "cumExecQty": "0.002", "avgPrice": "80000"}
    whole, told = venue.read(UNIFIED_ONE_WAY, push("order", [part], "UTA"), 1)
    assert (whole.execution.order_qty, told.order_qty, whole.thin) == (12_500, 12_500, False)  # 0.0125
    [done] = venue.read(UNIFIED_ONE_WAY, push("order", [{**part, "orderStatus": "filled"}], "UTA"), 1)
    assert done.order_qty == done.cum_qty == 2_000


# --- positions, balances -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("mode", "hold", "held", "qty"), [
    ("hedge_mode", "short", 2, -100), ("hedge_mode", "long", 1, 100), ("one_way_mode", "short", 0, -100),
    ("one_way_mode", "long", 0, 100),
])  # fmt: skip
def test_positions(venue: BitgetWire, mode: str, hold: str, held: int, qty: int) -> None:
    """Sizes bear no sign on the wire: the side they are held on gives it."""
    row = {"posId": "1", "instId": "BTCUSDT", "marginCoin": "USDT", "marginMode": "isolated", "holdSide": hold, "posMode": mode,
           "total": "0.1", "openPriceAvg": "1900", "leverage": 20, "uTime": "1695711602568"}  # fmt: skip
    payload = push("positions", [row])
    wanted = PositionTold(ls.Position(3, held, qty, 1695711602568 * MS_NS, 99, "push", 20, True, payload))
    assert one(venue, payload) == wanted
    row3 = {"symbol": "BTCUSDT", "leverage": "20", "marginMode": "isolated", "posSide": hold, "holdMode": mode, "size": "0.1",
            "updatedTime": "1695711602568", "avgPrice": "0"}  # fmt: skip
    payload = push("position", [row3], "UTA")
    assert one(venue, payload).position == ls.Position(3, held, qty, 1695711602568 * MS_NS, 99, "push", 20, True, payload)


def test_balances(venue: BitgetWire) -> None:
    """The wallet is what is there without open profit; where that cannot be told apart, nothing is told."""
    row = {"marginCoin": "USDT", "available": "11490.1", "equity": "11489.9", "unrealizedPL": "-10.1"}
    assert one(venue, push("account", [row])) == WalletTold("USDT", 1_150_000_000_000, ts_event=1695718781206 * MS_NS)
    del row["unrealizedPL"]
    assert isinstance(one(venue, push("account", [row])), Unused)
    coins = [{"coin": "BTC", "balance": "52.00819"}, {"coin": "USDT", "balance": "354411.45536458"}]
    payload = push("account", [{"unrealisedPnL": "0", "coin": coins}], "UTA")
    position, wallet = venue.read(UNIFIED_HEDGE, payload, 1)  # a coin of spot is a position
    assert (position.position.instrument, position.position.qty, wallet.wallet_e8) == (7, 52_008_190, 35_441_145_536_458)
    venue.bind(load_instruments(bodies([BTC]), [(0, "BTCUSDT")]))
    told = venue.read(UNIFIED_HEDGE, payload, 1)
    assert [(one.asset, one.wallet_e8) for one in told] == [("BTC", 5_200_819_000), ("USDT", 35_441_145_536_458)]


def test_rows_of_other_instruments_are_passed_over(venue: BitgetWire) -> None:
    """An account trades more than copyd does; each row stands for itself."""
    told = venue.read(CLASSIC, push("orders", [{**ORDER, "instId": "XRPUSDT"}, ORDER]), 1)
    assert [type(one) for one in told] == [Unused, TradeTold]


# --- answers ----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("text", "told"), [
    ('{"event":"login","code":0,"connId":"06"}', LoggedIn(True)), ('{"event":"login","code":"0","msg":""}', LoggedIn(True)),
    ('{"event":"login","code":"00000"}', LoggedIn(True)),
    ('{"event":"error","code":30015,"msg":"Invalid sign"}', LoggedIn(False, "signature", 30015, "Invalid sign")),
    ('{"event":"error","code":"30012","msg":"x"}', LoggedIn(False, "passphrase", 30012, "x")),
    ('{"event":"error","code":30007,"msg":"x"}', Ending("refused for its rate: 30007")),
    ('{"event":"subscribe","arg":{"instType":"USDT-FUTURES","channel":"orders","instId":"default"}}', Subscribed("orders", True)),
    ('{"event":"subscribe","arg":{"instType":"SPOT","channel":"account","coin":"default"}}', Subscribed("spot.account", True)),
    ('{"event":"subscribe","arg":{"instType":"UTA","topic":"fast-fill"}}', Subscribed("fast-fill", True)),
    ('{"event":"error","arg":{"instType":"UTA","topic":"fill"},"code":30001,"msg":"no"}', Subscribed("fill", False, "30001 no")),
    ("pong", Alive()),
])  # fmt: skip
def test_answers(venue: BitgetWire, text: str, told: Any) -> None:
    """Logins, subscriptions, signs of life, and what goes wrong with them; a code may be a number or a text."""
    assert one(venue, text.encode()) == told


@pytest.mark.parametrize(("frame", "verdict", "order_id"), [
    ({"event": "trade", "code": 0, "msg": "Success"}, Verdict(Outcome.ACCEPTED, ""), 77),
    ({"event": "error", "code": 43027, "msg": "x"}, Verdict(Outcome.DEFINITE_REJECT, "min_notional", 43027), 0),
    ({"event": "error", "code": 40725, "msg": "x"}, Verdict(Outcome.IN_DOUBT, "unknown_error", 40725), 0),
    ({"event": "error", "code": 99999, "msg": "x"}, Verdict(Outcome.IN_DOUBT, "unknown_code", 99999), 0),
])  # fmt: skip
def test_answers_to_placements(venue: BitgetWire, frame: dict[str, Any], verdict: Verdict, order_id: int) -> None:
    """The order sockets of both APIs name the order they answer; the verdict is the table's."""
    arg = {"id": CID.hex(), "instType": "USDT-FUTURES", "channel": "place-order", "instId": "BTCUSDT",
           "params": {"orderId": "77", "clientOid": CID.hex()}}  # fmt: skip
    wanted = Answered(CID, verdict, order_id, NEW if order_id else 0, message=frame["msg"])
    assert one(venue, json.dumps({**frame, "arg": [arg]}).encode()) == wanted
    v3 = {**frame, "code": str(frame["code"]), "id": CID.hex(), "topic": "place-order", "args": [{"orderId": "77"}]}
    assert one(venue, json.dumps(v3).encode()) == wanted


# --- what goes out -----------------------------------------------------------------------------------------------------------
def test_channels(key: Key, instruments: Instruments) -> None:
    """Which private connection an account needs follows from what was learnt of its key; nothing learnt: classic."""
    kinds = {key.api_key: Kind(True, True)}
    venue = BitgetWire(kinds.get)
    venue.bind(instruments)
    at = Endpoints()
    (channel,) = venue.channels(at, key)
    assert (channel.name, channel.url) == (UNIFIED_HEDGE, at.private_v3)
    assert [name for name, _ in channel.subscriptions] == ["order", "fast-fill", "fill", "position", "account"]
    assert channel.subscriptions[0][1] == b'{"op":"subscribe","args":[{"instType":"UTA","topic":"order"}]}'
    kinds[key.api_key] = Kind(True, False)
    assert venue.channels(at, key)[0].name == UNIFIED_ONE_WAY
    for some in (venue.channels(at), BitgetWire().channels(at, key)):
        assert (some[0].name, some[0].url) == (CLASSIC, at.private)
    names = [name for name, _ in venue.channels(at)[0].subscriptions]
    assert names == ["orders", "fill", "positions", "account", "spot.orders", "spot.fill", "spot.account"]
    venue.bind(load_instruments(bodies([], [BTC_SPOT]), [(0, "BTCUSDT_SPBL")]))
    names = [name for name, _ in venue.channels(at)[0].subscriptions]  # the balance of futures would be taken for its own
    assert names == ["spot.orders", "spot.fill", "spot.account"]
    perpetuals = load_instruments(bodies([BTC]), [(0, "BTCUSDT")])
    venue.bind(perpetuals)
    assert venue.channels(at)[0].subscriptions[-1] == (
        "account", b'{"op":"subscribe","args":[{"instType":"USDT-FUTURES","channel":"account","coin":"default"}]}')


def test_a_placement_as_a_message(venue: BitgetWire, instruments: Instruments) -> None:
    """The order socket's words: the id is the client order id, so that the answer names the order."""
    text = venue.place(Order(1, instruments[3], CID, 10, 500_000, 1, 0, False), 0)
    assert json.loads(text) == {"op": "trade", "args": [{
        "id": CID.hex(), "instType": "USDT-FUTURES", "instId": "BTCUSDT", "channel": "place-order",
        "params": {"marginMode": "isolated", "marginCoin": "USDT", "size": "0.01", "price": "50000", "side": "buy",
                   "orderType": "limit", "force": "ioc", "clientOid": CID.hex()},
    }]}  # fmt: skip


def test_market_channels(venue: BitgetWire, instruments: Instruments) -> None:
    """Forty instruments to a message and to a connection; spot under its own product."""
    (channel,) = venue.market(Endpoints())
    (name, message), = channel.subscriptions
    assert name == "ticker" and json.loads(message)["args"][2] == {"instType": "SPOT", "channel": "ticker", "instId": "BTCUSDT"}
    many = [{**ETH, "symbol": f"A{n}USDT"} for n in range(95)]
    venue.bind(load_instruments(bodies(many), [(n, row["symbol"]) for n, row in enumerate(many)]))
    assert [len(json.loads(c.subscriptions[0][1])["args"]) for c in venue.market(Endpoints())] == [40, 40, 15]


def test_tickers(venue: BitgetWire) -> None:
    """Quote and mark in one frame, of spot the last price as the mark; one side missing: no quote."""
    row = {"instId": "BTCUSDT", "lastPr": "43480.4", "bidPr": "43476.3", "askPr": "43476.8", "bidSz": "0.1", "askSz": "3.055",
           "fundingRate": "0.000096", "markPrice": "43476.41", "ts": "1701843962811"}  # fmt: skip
    at = 1701843962811 * MS_NS
    quote, mark = Quote(3, 434763, 100, 434768, 3055, at, 5), Mark(3, 434764, 96, at, 5)
    assert venue.read_market(push("ticker", [row]), 5) == [quote, mark]
    assert venue.read_market(push("ticker", [{**row, "askPr": ""}]), 5) == [mark]
    spot = {**row, "bidPr": "43476.30", "askPr": "43476.81", "markPrice": ""}
    assert venue.read_market(push("ticker", [spot], "SPOT"), 5) == [
        Quote(7, 4347630, 100_000, 4347681, 3_055_000, at, 5), Mark(7, 4348040, 0, at, 5)]
    assert venue.read_market(b'{"event":"subscribe","arg":{"channel":"ticker"}}', 5) == (Unused("subscribe"),)
    assert isinstance(venue.read_market(b'{"event":"error","code":30001,"msg":"x"}', 5)[0], Malformed)
    assert venue.read_market(push("ticker", [{**row, "instId": "XRPUSDT"}]), 5) == []


def test_a_wire_for_whoever_needs_no_account() -> None:
    """It speaks v2 without having been told anything."""
    assert BitgetWire().channels(Endpoints())[0].name == CLASSIC


# --- what cannot be read ---------------------------------------------------------------------------------------------------
SAMPLES = [
    (CLASSIC, push("orders", [ORDER])), (CLASSIC, push("fill", [FILL])), (UNIFIED_HEDGE, push("order", [ORDER3], "UTA")),
    (UNIFIED_HEDGE, push("fill", [FILL3], "UTA")), (UNIFIED_HEDGE, push("fast-fill", FILL3, "UTA")),
    (CLASSIC, b'{"event":"login","code":0}'), (CLASSIC, b'{"event":"error","code":30015,"msg":"x","arg":{"channel":"orders"}}'),
]  # fmt: skip


@pytest.mark.parametrize("fields", [
    {"orderId": "x1"}, {"orderId": "0"}, {"orderId": str(1 << 63)}, {"orderId": 5}, {"tradeId": "-1"}, {"tradeId": "9" * 40},
    {"side": "both"}, {"status": "odd"}, {"size": "0.0305"}, {"size": "1e9"}, {"fillPrice": "27000.55"}, {"fillPrice": "nan"},
    {"baseVolume": "0.0001"}, {"accBaseVolume": 0.02}, {"posMode": "hedge_mode", "tradeSide": "odd"},
    {"posMode": "hedge_mode", "posSide": "up", "tradeSide": "open"}, {"fillTime": "soon"}, {"fillTime": "9" * 15},
    {"uTime": -1}, {"priceAvg": "1,5"}, {"instId": None}, {"size": "9" * 30},
])  # fmt: skip
def test_a_field_that_cannot_be_is_malformed(venue: BitgetWire, fields: dict[str, Any]) -> None:
    """Every unreadable number, side, state and time makes the frame Malformed, its beginning kept for the log."""
    payload = push("orders", [{**ORDER, **fields}])
    told = one(venue, payload)
    assert isinstance(told, Malformed) and told.size == len(payload) and payload.startswith(told.head)


@pytest.mark.parametrize("payload", [
    b"", b"{", b"null", b"[]", b"1", b'"pong"', b"\xff\xfe", b'{"event":7}', b'{"action":"snapshot"}{', b'{"event":""}',
    b'{"action":"snapshot","arg":[],"data":[]}', push("orders", {}), push("orders", None), push("orders", [1]),
    push("orders", [ORDER], ts="now"), push("orders", [{"side": "buy"}]), b"[" * 5_000, b'{"a":' * 5_000,
    b'{"event":"trade","code":0,"arg":[{"channel":"place-order","params":{"clientOid":"%s"}}]}' % CID.hex().encode(),
])  # fmt: skip
def test_a_frame_that_is_none_is_malformed(venue: BitgetWire, payload: bytes) -> None:
    """Not JSON, not an object, of the wrong shape, nested beyond measure: Malformed, and nothing raised on either connection."""
    told = venue.read(CLASSIC, payload, 1)
    assert [type(x) for x in told] == [Malformed]
    venue.read_market(payload, 1)


@pytest.mark.parametrize(("channel", "payload"), SAMPLES)
def test_a_truncated_frame_is_malformed(venue: BitgetWire, channel: str, payload: bytes) -> None:
    """Cut anywhere, a frame is never half believed."""
    for end in range(len(payload)):
        assert [type(told) for told in venue.read(channel, payload[:end], 1)] == [Malformed]


def _venue() -> BitgetWire:
    made = BitgetWire()
    made.bind(load_instruments(bodies([BTC, ETH], [BTC_SPOT]), [(3, "BTCUSDT"), (4, "ETHUSDT"), (7, "BTCUSDT_SPBL")]))
    return made


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12)
    | st.sampled_from(["buy", "sell", "hedge_mode", "open", "close", "long", "BTCUSDT", "1", "0.01", "-1", "live"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=6,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(sample=st.sampled_from([ORDER, FILL, ORDER3, FILL3]), name=st.integers(0, 60), value=JSON,
       channel=st.sampled_from(["orders", "fill", "positions", "account", "order", "fast-fill", "position"]),
       market=st.sampled_from(["USDT-FUTURES", "SPOT", "UTA"]))  # fmt: skip
def test_no_field_of_any_type_raises(sample: dict[str, Any], name: int, value: Any, channel: str, market: str) -> None:
    """Any field of any row may come as anything: it is told, passed over or Malformed, never raised."""
    row = {**sample, list(sample)[name % len(sample)]: value}
    for data in ([row], row, value):
        for told in _venue().read(UNIFIED_HEDGE, push(channel, data, market), 1):
            assert told is not None


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_raise(payload: bytes) -> None:
    """Whatever bytes come, they are told of."""
    venue = _venue()
    venue.read(CLASSIC, payload, 1)
    venue.read_market(payload, 1)


@given(st.lists(st.sampled_from(range(4)), max_size=12))
def test_repeated_and_reordered_frames_tell_the_same_executions(order: list[int]) -> None:
    """Twice or in another order, an execution has one number, one direction and one position, or waits for its order."""
    frames = [
        push("orders", [{**ORDER, **HEDGE, "tradeSide": "close", "tradeId": "222"}]),
        push("fill", [{**FILL, "posMode": "hedge_mode", "tradeSide": "close", "side": "sell"}]),
        push("orders", [{**ORDER, **HEDGE, "tradeSide": "close", "tradeId": "223", "status": "filled"}]),
        push("fill", [{**FILL, "posMode": "hedge_mode", "tradeSide": "close", "side": "sell", "tradeId": "223"}]),
    ]  # fmt: skip
    venue = _venue()
    told = [x for n in order for x in venue.read(CLASSIC, frames[n], 1) if isinstance(x, TradeTold)]
    assert {(x.execution.side, x.execution.position_side) for x in told} <= {(-1, 1)}
    assert {x.execution.exec_id for x in told} <= {222, 223}


def test_the_table_of_orders_seen_is_bounded(venue: BitgetWire, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest is forgotten, and what it was needed for is told another way."""
    monkeypatch.setattr("copyd.venues.bitget.wire.ORDERS_SEEN_MAX", 2)
    for n in (1, 2, 3):
        venue.read(CLASSIC, push("orders", [{**ORDER, **HEDGE, "orderId": str(n)}]), 1)
    closing = {**FILL, "posMode": "hedge_mode", "tradeSide": "close"}
    kinds = [type(one(venue, push("fill", [{**closing, "orderId": str(n)}]))) for n in (1, 2, 3)]
    assert kinds == [Unused, TradeTold, TradeTold]


# --- money ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("kind", "amount", "flow", "funding"), [
    ("trans_to_contract", "-5", -500_000_000, None), ("contract_settle_fee", "-0.004992", None, -499_200),
    ("open_long", "1", None, None), ("TRANSFER_IN", "5", 500_000_000, None), ("TRANSFER_OUT", "5", -500_000_000, None),
    ("CONTRACT_MAIN_SETTLE_FEE_USER_OUT", "0.5", None, -50_000_000),
    ("CONTRACT_MAIN_SETTLE_FEE_USER_IN", "0.5", None, 50_000_000),
    ("ORDER_DEALT_IN", "1", None, None),
])  # fmt: skip
def test_movements_of_money(
    instruments: Instruments, kind: str, amount: str, flow: int | None, funding: int | None
) -> None:
    """What was paid in or out and what funding cost, by the names of both APIs; the name gives the sign of a flow."""
    v3 = kind.isupper()
    row = codec.Bill(amount=amount, id="9", symbol="BTCUSDT", type=kind, ts="7") if v3 else codec.Bill(
        amount=amount, billId="9", symbol="BTCUSDT", businessType=kind, cTime="7")  # fmt: skip
    assert codec.flow_of(row) == ((flow, 7 * MS_NS) if flow is not None else None)
    told = codec.funding_of(row, instruments)
    assert (told.amount_e8 if told is not None else None) == funding
    assert told is None or (told.instrument, told.id, told.ts_event) == (3, 9, 7 * MS_NS)


@pytest.mark.parametrize(("group", "kind", "size", "flow"), [
    ("transfer", "transfer_in", "5", 500_000_000), ("transfer", "transfer_out", "-5", -500_000_000),
    ("transfer", "TRANSFER_OUT", "5", -500_000_000), ("deposit", "deposit", "-5", 500_000_000),
    ("withdraw", "withdraw", "5", -500_000_000), ("transfer", "inner", "-5", -500_000_000),
    ("transaction", "buy", "5", None), ("transfer", "transfer_in", "0", None),
])  # fmt: skip
def test_bills_of_spot(group: str, kind: str, size: str, flow: int | None) -> None:
    """The name gives the direction where it says one, else the sign does; what was traded is no flow."""
    row = codec.Bill(size=size, groupType=group, businessType=kind, billId="9", cTime="7")
    assert codec.flow_of(row) == ((flow, 7 * MS_NS) if flow is not None else None)


@pytest.mark.parametrize("market", ["USDT-FUTURES", "SPOT"])
def test_a_fill_that_names_no_client_order_id_is_nobodys(venue: BitgetWire, market: str) -> None:
    """The channel of fills does not always say whose order it was; ours would be taken for the follower's own hand. The
    orders channel tells the same execution with its id."""
    row = {name: value for name, value in FILL.items() if name != "clientOid"} | {"size": "0.01", "priceAvg": "51000.5"}
    [one] = venue.read("private", push("fill", [row], market), 1)
    assert isinstance(one, Unused)
