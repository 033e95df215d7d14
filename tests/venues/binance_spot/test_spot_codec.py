"""Frames and bodies of the venue to facts: exact, and never an exception."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from copyd.core.leader_stream import Execution
from copyd.venues.binance_spot import codec
from copyd.venues.binance_spot.wire import BinanceSpotWire
from copyd.venues.common import told as t
from copyd.venues.common.facts import CANCELED, EXPIRED, FILLED, MS_NS, NEW, Malformed, Mark, Quote
from copyd.venues.common.outcome import Outcome
from tests.venues.binance_spot.world import BTC, CID, instruments

INSTRUMENTS = instruments()
RECV = 1_700_000_000_500 * MS_NS
MINE = CID.hex()

RESULT = {
    "symbol": "BTCUSDT", "orderId": 28, "orderListId": -1, "clientOrderId": MINE, "transactTime": 1700000000010,
    "price": "0.00000000", "origQty": "0.01000000", "executedQty": "0.01000000", "origQuoteOrderQty": "0.000000",
    "cummulativeQuoteQty": "500.00000000", "status": "FILLED", "timeInForce": "GTC", "type": "MARKET", "side": "BUY",
    "workingTime": 1700000000010, "selfTradePreventionMode": "NONE",
}  # fmt: skip
REPORT = {
    "e": "executionReport", "E": 1700000000100, "s": "BTCUSDT", "c": MINE, "S": "BUY", "o": "LIMIT", "f": "GTC",
    "q": "0.01000000", "p": "50000.00000000", "P": "0.00000000", "F": "0.00000000", "g": -1, "C": "", "x": "TRADE",
    "X": "FILLED", "r": "NONE", "i": 4293153, "l": "0.01000000", "z": "0.01000000", "L": "50000.00000000",
    "n": "0.00001000", "N": "BTC", "T": 1700000000099, "t": 98765432, "I": 8641984, "w": False, "m": False, "M": False,
    "O": 1700000000000, "Z": "500.00000000", "Y": "500.00000000", "Q": "0.00000000", "W": 1700000000000, "V": "NONE",
}  # fmt: skip


def read(frame: Any, shared: bool = True) -> list[Any]:
    wire = BinanceSpotWire(shared)
    wire.bind(INSTRUMENTS)
    return list(wire.read("api", frame if isinstance(frame, bytes) else json.dumps(frame).encode(), RECV))


def event(body: dict[str, Any], number: int = 0) -> Any:
    """What an event of a subscription says, unwrapped."""
    (told,) = read({"subscriptionId": number, "event": body})
    assert type(told) is t.Of and told.subscription == number
    return told.told


# --- answers ----------------------------------------------------------------------------------------------------------------
def test_a_placement_that_filled() -> None:
    """State, lots, worth and time of an accepted order."""
    (told,) = read({"id": MINE, "status": 200, "result": RESULT})
    assert told == t.Answered(CID, codec.classify(200), 28, FILLED, 1_000, 500 * 10**8, 1700000000010 * MS_NS)
    assert told.verdict.outcome == Outcome.ACCEPTED


@pytest.mark.parametrize(("status", "state"), [
    ("NEW", NEW), ("PENDING_NEW", NEW), ("EXPIRED", EXPIRED), ("EXPIRED_IN_MATCH", EXPIRED), ("CANCELED", CANCELED),
])  # fmt: skip
def test_a_placement_that_found_nothing(status: str, state: int) -> None:
    """An IOC without liquidity is accepted and has expired: no refusal."""
    row = {**RESULT, "status": status, "executedQty": "0.00000000", "cummulativeQuoteQty": "0.00000000"}
    (told,) = read({"id": MINE, "status": 200, "result": row})
    assert (told.verdict.outcome, told.status, told.cum_qty, told.cost_e8) == (Outcome.ACCEPTED, state, 0, 0)


@pytest.mark.parametrize(("status", "error", "outcome", "reason", "retry"), [
    (400, {"code": -2010, "msg": "Account has insufficient balance for requested action."}, "DEFINITE_REJECT", "balance", 0),
    (400, {"code": -2010, "msg": "Duplicate order sent."}, "IN_DOUBT", "duplicate_client_order_id", 0),
    (400, {"code": -1013, "msg": "Filter failure: NOTIONAL"}, "DEFINITE_REJECT", "min_notional", 0),
    (503, {"code": -1007, "msg": "Timeout"}, "IN_DOUBT", "server_error", 0),
    (429, {"code": -1015, "msg": "Too many new orders."}, "DEFINITE_REJECT", "too_many_orders", -1),
    (429, {"code": -1003, "msg": "x", "data": {"serverTime": 1000, "retryAfter": 3500}}, "DEFINITE_REJECT", "too_many_requests",
     2500 * MS_NS),
    (418, {"code": -1003, "msg": "x", "data": {"serverTime": "1000", "retryAfter": None}}, "DEFINITE_REJECT",
     "too_many_requests", -1),
])  # fmt: skip
def test_refusals_and_doubts(status: int, error: dict[str, Any], outcome: str, reason: str, retry: int) -> None:
    """Error answers by the tables, with the wait where it is a refusal for our rate."""
    (told,) = read({"id": MINE, "status": status, "error": error})
    assert (told.cid, told.verdict.outcome.name, told.verdict.reason, told.retry_ns) == (CID, outcome, reason, retry)
    assert told.message == error["msg"] and told.status == 0


@pytest.mark.parametrize("change", [
    {"executedQty": "0.000001"}, {"executedQty": "x"}, {"status": "SOMETHING"}, {"side": "HOLD"}, {"symbol": "XRPUSDT"},
    {"clientOrderId": "0" * 32}, {"orderId": 1 << 63}, {"cummulativeQuoteQty": "9" * 40}, {"origQty": None},
])  # fmt: skip
def test_an_answer_that_is_not_about_the_order_or_unreadable_is_a_doubt(change: dict[str, Any]) -> None:
    """Accepted or not: nobody can say, so the venue is asked."""
    (told,) = read({"id": MINE, "status": 200, "result": {**RESULT, **change}})
    assert (told.cid, told.verdict.outcome, told.status) == (CID, Outcome.IN_DOUBT, 0)


def test_an_id_that_is_not_ours_is_no_placement() -> None:
    """Upper case, another length, a number: no order of ours."""
    for name in (MINE.upper(), MINE[:-1], "q-" + MINE, 7):
        (told,) = read({"id": name, "status": 200, "result": RESULT})
        assert type(told) is t.Unused


def test_subscriptions_and_login() -> None:
    """The number of a subscription; the login of a connection of one account; refusals of both with their reason."""
    assert read({"id": "s-7", "status": 200, "result": {"subscriptionId": 3}}) == [t.Subscribed("s-7", True, "", 3)]
    error = {"code": -2015, "msg": "Invalid API-key, IP, or permissions for action."}
    (told,) = read({"id": "s-7", "status": 401, "error": error})
    assert told == t.Subscribed("s-7", False, error["msg"], -1, "key_refused", -2015)
    assert read({"id": "login", "status": 200, "result": {"subscriptionId": 0}}) == [t.LoggedIn(True)]
    assert read({"id": "login", "status": 401, "error": error}) == [t.LoggedIn(False, "key_refused", -2015, error["msg"])]
    assert type(read({"id": "s-7", "status": 200, "result": {}})[0]) is Malformed


# --- events --------------------------------------------------------------------------------------------------------------------
def test_an_execution_with_its_commission_and_the_order_behind_it() -> None:
    """Price, lots, ids, commission as written, cumulative state; a sale realises."""
    told = event(REPORT)
    assert type(told) is t.TradeTold and told.cid == CID and (told.fee, told.fee_asset) == ("0.00001000", "BTC")
    e = told.execution
    assert type(e) is Execution
    assert (e.instrument, e.position_side, e.exec_id, e.order_id) == (4, 0, 98765432, 4293153)
    assert (e.side, e.qty, e.px, e.order_qty, e.cum_qty) == (1, 1000, 5_000_000, 1000, 1000)
    assert (e.realised, e.reduce_only, e.live, e.client_order_id) == (False, False, True, MINE)
    assert (e.ts_event, e.ts_recv) == (1700000000099 * MS_NS, RECV) and b"executionReport" in e.raw
    ts = 1700000000099 * MS_NS
    assert told.order == t.OrderTold(CID, MINE, 4, 4293153, FILLED, 1000, 500 * 10**8, 1, 0, 1000, False, ts)
    assert event({**REPORT, "S": "SELL"}).execution.realised is True


def test_a_cancelled_order_stands_under_its_first_id() -> None:
    """``c`` is the cancel's own id then, ``C`` the order's."""
    told = event({**REPORT, "x": "CANCELED", "X": "CANCELED", "c": "cancel-1", "C": MINE, "t": -1, "l": "0.00000000"})
    assert (told.cid, told.client_order_id, told.status) == (CID, MINE, CANCELED)
    other = event({**REPORT, "x": "NEW", "X": "NEW", "c": "web_1", "z": "0.00000000", "Z": "0.00000000", "t": -1})
    assert (other.cid, other.client_order_id, other.cum_qty, other.cost_e8) == (None, "web_1", 0, 0)


def test_balances_are_the_wallet_and_positions() -> None:
    """The quote asset, and base assets in use in whole lots; other assets are nobody's business."""
    body = {"e": "outboundAccountPosition", "E": 5, "u": 4, "B": [
        {"a": "USDT", "f": "100.50000000", "l": "0.25000000"}, {"a": "BTC", "f": "0.00999900", "l": "0.00000100"},
        {"a": "BNB", "f": "1.00000000", "l": "0.00000000"}]}  # fmt: skip
    wallet, position = (one.told for one in read({"subscriptionId": 1, "event": body}))
    assert wallet == t.WalletTold("USDT", 10_075_000_000, ts_event=4 * MS_NS)
    assert (position.position.instrument, position.position.qty, position.position.position_side) == (4, 1000, 0)
    assert (position.position.leverage, position.position.isolated, position.position.ts_event) == (1, True, 4 * MS_NS)
    assert type(event({**body, "B": body["B"][2:]})) is t.Unused


def test_a_flow_and_the_ends() -> None:
    """Money paid in or out; the end of one subscription is its own, that of the connection everybody's."""
    flow = {"e": "balanceUpdate", "E": 1, "a": "USDT", "d": "-3.50000000", "T": 2}
    assert event(flow) == t.FlowTold("USDT", -350_000_000, 2 * MS_NS)
    assert type(event({"e": "eventStreamTerminated", "E": 1}, 5)) is t.Ending
    assert type(read({"event": {"e": "serverShutdown", "E": 1}})[0]) is t.Ending
    assert type(event({"e": "externalLockUpdate", "E": 1})) is t.Unused
    assert event({"e": "listStatus"}) == t.Unused("listStatus")


def test_a_connection_of_one_account_wraps_nothing() -> None:
    """The same frames without the subscription's number."""
    (told,) = read({"subscriptionId": 0, "event": REPORT}, shared=False)
    assert type(told) is t.TradeTold


@pytest.mark.parametrize("change", [
    {"z": "0.000001"}, {"q": "-"}, {"X": "ODD"}, {"S": "LONG"}, {"t": -1}, {"l": "0.00000000"}, {"L": "0.00000000"},
    {"i": 1 << 64}, {"T": 10**15}, {"i": "7"}, {"Z": "1e9"}, {"L": "50000.001"}, {"c": None}, {"t": 1.5},
])  # fmt: skip
def test_an_event_that_cannot_be_read_is_malformed_and_still_its_accounts(change: dict[str, Any]) -> None:
    """The account whose event is lost must read its truth again: the number stays."""
    (told,) = read({"subscriptionId": 6, "event": {**REPORT, **change}})
    assert type(told) is t.Of and told.subscription == 6 and type(told.told) is Malformed


@pytest.mark.parametrize("frame", [
    b"", b"{", b"null", b"[]", b"\xff", b"{}", b'{"status":200}', b'{"event":{"e":"executionReport"}}', b'{"event":3}',
    b'{"id":{},"status":200}', b'{"id":"x","status":"200"}', json.dumps({"event": REPORT}).encode(), b'{"subscriptionId":0}',
])  # fmt: skip
def test_frames_that_are_none(frame: bytes) -> None:
    """Never an exception; what is not an answer and no event is malformed."""
    (told,) = read(frame)
    assert type(told) is Malformed


@given(st.integers(0, 600), st.integers(0, 255))
def test_any_single_wrong_byte_raises_nothing(at: int, byte: int) -> None:
    """A frame with one byte changed is read, unused or malformed."""
    frame = bytearray(json.dumps({"subscriptionId": 0, "event": REPORT}).encode())
    frame[at % len(frame)] = byte
    for told in read(bytes(frame)):
        assert isinstance(told, (t.Of, t.Unused, Malformed, t.Ending))


@given(st.integers(0, 700))
def test_a_truncated_frame_is_malformed(at: int) -> None:
    """However much of it came."""
    frame = json.dumps({"id": MINE, "status": 200, "result": RESULT}).encode()
    assert type(read(frame[: at % len(frame)])[0]) is Malformed


@given(st.binary(max_size=300))
def test_noise_is_malformed(noise: bytes) -> None:
    """Bytes that are no JSON of ours."""
    for told in read(noise):
        assert isinstance(told, (Malformed, t.Unused))


# --- market --------------------------------------------------------------------------------------------------------------------
def market(stream: str, data: dict[str, Any]) -> Any:
    (told,) = codec.read_market(json.dumps({"stream": stream, "data": data}).encode(), INSTRUMENTS, RECV)
    return told


def test_quotes_and_marks() -> None:
    """Best bid and ask bear our time, as the venue gives none; the last price is the mark, to the nearest tick."""
    told = market("btcusdt@bookTicker", {"u": 1, "s": "BTCUSDT", "b": "50000.01000000", "B": "1.00000000", "a": "50000.02000000",
                                         "A": "0.50000000"})  # fmt: skip
    assert told == Quote(4, 5_000_001, 100_000, 5_000_002, 50_000, RECV, RECV)
    assert market("ethusdt@miniTicker", {"e": "24hrMiniTicker", "s": "ETHUSDT", "E": 7, "c": "3000.12600000"}) == Mark(
        9, 300_013, 0, 7 * MS_NS, RECV)
    assert type(market("btcusdt@trade", {"e": "trade", "s": "BTCUSDT", "p": "1.00000000", "T": 3, "E": 3})) is Mark


def test_other_streams_and_damaged_ones() -> None:
    """Another symbol or stream is unused; a damaged one malformed."""
    assert type(market("xrpusdt@bookTicker", {"s": "XRPUSDT", "b": "1", "B": "1", "a": "1", "A": "1"})) is t.Unused
    assert type(market("btcusdt@depth", {})) is t.Unused
    assert type(market("btcusdt@bookTicker", {"s": "BTCUSDT", "b": "x", "B": "1", "a": "1", "A": "1"})) is Malformed
    assert type(codec.read_market(b"{}", INSTRUMENTS, RECV)[0]) is Malformed
    assert type(codec.read_market(b'{"result":null,"id":1}', INSTRUMENTS, RECV)[0]) is t.Unused


# --- REST ----------------------------------------------------------------------------------------------------------------------
ACCOUNT = json.dumps({
    "canTrade": True, "updateTime": 9, "balances": [
        {"asset": "USDT", "free": "1000.00000000", "locked": "50.00000000"},
        {"asset": "BTC", "free": "0.01000000", "locked": "0.00000999"},
        {"asset": "ETH", "free": "0.00000001", "locked": "0.00000000"},
        {"asset": "BNB", "free": "5.00000000", "locked": "0.00000000"}],
}).encode()  # fmt: skip


def test_balances_as_positions_and_books() -> None:
    """Whole lots; dust is no position but counts in equity; an asset no market of ours trades counts nowhere."""
    account = codec.account_of(ACCOUNT)
    assert [(p.instrument, p.position_side, p.qty) for p in codec.positions_of(account, INSTRUMENTS, RECV)] == [(4, 0, 1000)]
    books = codec.books_of(account, INSTRUMENTS, {"BTCUSDT": "50000.00000000", "ETHUSDT": "3000.00000000"})
    assert (books.wallet_e8, books.available_e8) == (1_050 * 10**8, 1_000 * 10**8)
    assert books.equity_e8 == 1_050 * 10**8 + 1_000_999 * 50_000 + 1 * 3_000
    assert books.positions == ((4, 0, 1000, 0),) and books.ts_event == 9 * MS_NS
    with pytest.raises(ValueError, match="ETHUSDT"):
        codec.books_of(account, INSTRUMENTS, {"BTCUSDT": "50000"})


def test_trades_in_order_with_their_commission() -> None:
    """Oldest first by id, not live, a sale realises; a list of another symbol is refused."""
    row = {
        "symbol": "BTCUSDT", "id": 8, "orderId": 5, "price": "50000.00000000", "qty": "0.01000000", "quoteQty": "500.00000000",
        "commission": "0.50000000", "commissionAsset": "USDT", "time": 3, "isBuyer": False, "isMaker": True,
    }  # fmt: skip
    first, second = codec.trades_of(json.dumps([row, {**row, "id": 7, "isBuyer": True}]).encode(), BTC, RECV, CID)
    assert (first.execution.exec_id, second.execution.exec_id) == (7, 8)
    assert (second.execution.side, second.execution.realised, second.execution.live, second.cid) == (-1, True, False, CID)
    assert (second.fee, second.fee_asset, second.execution.maker) == ("0.50000000", "USDT", True)
    with pytest.raises(ValueError, match="ETHUSDT"):
        codec.trades_of(json.dumps([{**row, "symbol": "ETHUSDT"}]).encode(), BTC, RECV, None)


@pytest.mark.parametrize("body", [b"", b"{}", b"[{}]", b"null", b"\xff", b'{"balances":3}'])
def test_unreadable_bodies_are_value_errors(body: bytes) -> None:
    """The caller's slow path says so and asks again."""
    for reader in (codec.account_of, lambda b: codec.order_of(b, BTC), lambda b: codec.trades_of(b, BTC, 0, None)):
        if body == b"{}" and reader is codec.account_of:
            continue
        with pytest.raises(ValueError):
            reader(body)


def test_a_quote_sum_the_venue_has_lost_is_not_told() -> None:
    """Below zero the venue says that it does not know: no cost is better than a wrong one."""
    row = {**RESULT, "cummulativeQuoteQty": "-1.00000000", "time": 5, "updateTime": 6}
    told = codec.order_of(json.dumps(row).encode(), BTC)
    assert (told.cost_e8, told.cum_qty, told.ts_event) == (0, 1000, 6 * MS_NS)
