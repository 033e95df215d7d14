"""Frames and bodies of the venue as what was told; nothing a counterparty sends raises."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from copyd.venues.common import facts
from copyd.venues.common.facts import Malformed, Mark, Quote
from copyd.venues.common.instruments import Instruments
from copyd.venues.common.outcome import Outcome
from copyd.venues.common.told import (
    Alive,
    Answered,
    Ending,
    LoggedIn,
    MarginCallTold,
    OrderTold,
    PositionTold,
    Subscribed,
    TradeTold,
    Unused,
    WalletTold,
)
from copyd.venues.okx import codec
from copyd.venues.okx.contract import Endpoints
from copyd.venues.okx.instruments import load_instruments
from copyd.venues.okx.wire import OkxWire
from tests.venues.okx.samples import BTC, ETH, SPOT, body

CID = "0123456789abcdef0123456789abcdef"
FILL = {
    "instType": "SWAP", "instId": "BTC-USDT-SWAP", "ordId": "2497956918703120384", "clOrdId": CID, "tag": "", "px": "",
    "sz": "0.03", "ordType": "market", "side": "buy", "posSide": "long", "tdMode": "isolated", "accFillSz": "0.03",
    "fillPx": "103698.9", "tradeId": "1518905529", "fillSz": "0.03", "fillTime": "1746947317402", "fillFee": "-0.0217",
    "fillFeeCcy": "USDT", "execType": "T", "state": "filled", "avgPx": "103698.9", "lever": "2.0", "fee": "-0.0217",
    "feeCcy": "USDT", "category": "normal", "reduceOnly": "false", "source": "", "cancelSource": "", "amendResult": "",
    "reqId": "", "code": "0", "msg": "", "attachAlgoOrds": [], "cTime": "1746947317401", "uTime": "1746947317403",
    "fillPnl": "0",
}  # fmt: skip
LISTED = {
    "side": "buy", "fillSz": "0.03", "fillPx": "103698.9", "fee": "-0.0217", "fillPnl": "0", "ordId": "2497956918703120384",
    "instType": "SWAP", "instId": "BTC-USDT-SWAP", "clOrdId": CID, "posSide": "long", "billId": "680800019754098688",
    "subType": "3", "execType": "T", "tradeId": "1518905529", "feeCcy": "USDT", "ts": "1746947317404",
    "fillTime": "1746947317402",
}  # fmt: skip


def frame(channel: str, *data: Any, **more: Any) -> bytes:
    return orjson.dumps({"arg": {"channel": channel, "uid": "1"}, **more, "data": list(data)})


def read(instruments: Instruments, payload: bytes) -> list[Any]:
    return list(codec.read_private(payload, instruments, 7))


def one(instruments: Instruments, payload: bytes) -> Any:
    (told,) = read(instruments, payload)
    return told


def test_an_execution_with_its_order(instruments: Instruments) -> None:
    """A push with a trade id is an execution; the order behind it comes along, sizes in lots of contracts, money exact."""
    told = one(instruments, frame("orders", FILL))
    assert isinstance(told, TradeTold) and told.order is not None
    e, o = told.execution, told.order
    assert (e.instrument, e.position_side, e.exec_id, e.order_id) == (0, 1, 1518905529, 2497956918703120384)
    assert (e.side, e.qty, e.px, e.order_qty, e.cum_qty, e.maker, e.live, e.cause) == (1, 3, 1036989, 3, 3, False, True, "")
    assert (e.ts_event, e.ts_recv, e.client_order_id) == (1746947317402 * 10**6, 7, CID) and e.raw
    assert (told.fee, told.fee_asset, told.cid) == ("0.0217", "USDT", bytes.fromhex(CID))
    assert (o.status, o.cum_qty, o.order_qty, o.ts_event) == (facts.FILLED, 3, 3, 1746947317403 * 10**6)
    assert o.cost_e8 == 103698_9 * 10**7 * 3 // 10**4, "0.03 contracts of 0.01 BTC"


def test_stream_and_list_tell_the_same_execution(instruments: Instruments) -> None:
    """The list of fills gives an execution the id, quantity, price, time, fee and owner that the stream gave it."""
    live = one(instruments, frame("orders", FILL))
    (row,) = codec.rows(body(LISTED), codec.FillRow)
    found = codec.listed(row, instruments[0], 7)
    assert found is not None and (found.cid, found.fee, found.fee_asset) == (live.cid, live.fee, live.fee_asset)
    names = ("instrument", "position_side", "exec_id", "order_id", "side", "qty", "px", "reduce_only", "maker", "ts_event")
    assert [getattr(found.execution, n) for n in names] == [getattr(live.execution, n) for n in names]
    assert not found.execution.live


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"state": "live", "tradeId": "", "fillSz": "0", "accFillSz": "0", "avgPx": "0"}, facts.NEW),
        ({"state": "canceled", "tradeId": "", "fillSz": "0", "accFillSz": "0.01"}, facts.CANCELED),
        ({"state": "mmp_canceled", "tradeId": "", "fillSz": ""}, facts.CANCELED),
        ({"state": "filled", "tradeId": "", "fillSz": "0"}, facts.FILLED),
    ],
)  # fmt: skip
def test_an_order_without_an_execution(instruments: Instruments, change: dict[str, str], status: int) -> None:
    """No trade id, no quantity: the order's state alone; a filled order may be told so without one."""
    told = one(instruments, frame("orders", {**FILL, **change}))
    assert isinstance(told, OrderTold) and told.status == status


def test_a_liquidation_counts_at_once(instruments: Instruments) -> None:
    """The venue gives its forced executions no id on the stream: they get one of their own, the same when pushed again."""
    forced = {**FILL, "category": "full_liquidation", "tradeId": "0", "clOrdId": "", "side": "sell", "fillPnl": "-3.5"}
    told = one(instruments, frame("orders", forced))
    again = one(instruments, frame("orders", forced))
    other = one(instruments, frame("orders", {**forced, "accFillSz": "0.02"}))
    assert told.execution.cause == "liquidation" and told.execution.realised and told.execution.reduce_only
    assert codec.FORCED_ID <= told.execution.exec_id < 1 << 63 and told.execution.exec_id == again.execution.exec_id
    assert other.execution.exec_id != told.execution.exec_id and told.cid is None
    assert one(instruments, frame("orders", {**forced, "category": "adl"})).execution.cause == "adl"


def test_forced_executions_are_left_out_of_the_list(instruments: Instruments) -> None:
    """Their negative ids have no place among the others."""
    (row,) = codec.rows(body({**LISTED, "tradeId": "-77"}), codec.FillRow)
    assert codec.listed(row, instruments[0], 7) is None


@pytest.mark.parametrize(
    ("text", "cid"), [(CID, bytes.fromhex(CID)), (CID.upper(), None), ("", None), ("abc", None), ("g" * 32, None)])
def test_only_our_own_client_ids_are_ours(instruments: Instruments, text: str, cid: bytes | None) -> None:
    """32 lower-case hex characters, nothing else."""
    told = one(instruments, frame("orders", {**FILL, "clOrdId": text}))
    assert told.cid == cid and told.order.client_order_id == text


@pytest.mark.parametrize(("fee", "paid"), [("-0.5", "0.5"), ("0.5", "-0.5"), ("0", "0"), ("", "0"), ("-0", "0")])
def test_fees_change_sign(instruments: Instruments, fee: str, paid: str) -> None:
    """The venue writes what it charges below 0; here what is paid is above."""
    assert one(instruments, frame("orders", {**FILL, "fillFee": fee})).fee == paid


def test_sides_and_reductions(instruments: Instruments) -> None:
    """One-way orders say reduce-only as a text; of two sides the closing order reduces, and no property of the order says so."""
    net = one(instruments, frame("orders", {**FILL, "posSide": "net", "reduceOnly": "true", "side": "sell"}))
    assert net.order.reduce_only and net.execution.reduce_only and net.execution.position_side == 0
    closing = one(instruments, frame("orders", {**FILL, "posSide": "short", "reduceOnly": "true"}))
    assert not closing.order.reduce_only and closing.execution.reduce_only and closing.execution.position_side == 2


def test_spot_orders_sized_in_the_quote_asset(instruments: Instruments) -> None:
    """A market buy of spot may be sized in quote: then how many lots were ordered is not told, what was bought is."""
    row = {**FILL, "instId": "BTC-USDT", "posSide": "", "sz": "500", "tgtCcy": "quote_ccy", "fillSz": "0.01", "accFillSz": "0.01",
           "fillFee": "-0.00001", "fillFeeCcy": "BTC"}  # fmt: skip
    told = one(instruments, frame("orders", row))
    assert told.order.order_qty == 0 and told.execution.qty == 1_000_000 and told.fee_asset == "BTC"
    assert one(instruments, frame("orders", {**row, "tgtCcy": "base_ccy", "sz": "0.01"})).order.order_qty == 1_000_000


def test_positions(instruments: Instruments) -> None:
    """Signed lots: one-way positions as they are, the short side of two below 0; leverage is cut to a whole number."""
    rows = [
        {"instId": "BTC-USDT-SWAP", "pos": "-1.5", "posSide": "net", "mgnMode": "isolated", "lever": "2.0", "uTime": "5"},
        {"instId": "ETH-USDT-SWAP", "pos": "3", "posSide": "short", "mgnMode": "cross", "lever": "", "uTime": "6"},
        {"instId": "DOGE-USDT-SWAP", "pos": "3", "posSide": "net", "uTime": "6"},
    ]
    first, second = read(instruments, frame("positions", *rows, eventType="event_update"))
    assert isinstance(first, PositionTold) and isinstance(second, PositionTold)
    p, q = first.position, second.position
    assert (p.instrument, p.position_side, p.qty, p.leverage, p.isolated, p.ts_event) == (0, 0, -150, 2, True, 5 * 10**6)
    assert (q.instrument, q.position_side, q.qty, q.leverage, q.isolated) == (5, 2, -300, 0, False)


def test_isolated_and_cross_in_one_instrument_are_one_position(instruments: Instruments) -> None:
    """Executions do not say which of them they belong to; the larger gives entry and leverage."""
    rows = codec.rows(body(
        {"instId": "BTC-USDT-SWAP", "pos": "1", "mgnMode": "isolated", "lever": "5", "avgPx": "10", "uTime": "1"},
        {"instId": "BTC-USDT-SWAP", "pos": "-3", "mgnMode": "cross", "lever": "9", "avgPx": "20", "uTime": "2"},
    ), codec.PositionRow)  # fmt: skip
    ((position, entry),) = codec.positions_told(rows, instruments, 1, "poll")
    assert (position.qty, position.leverage, position.isolated) == (-200, 9, False)
    assert (position.ts_event, entry) == (2 * 10**6, 20 * 10**8)


def test_the_wallet_holds_what_isolated_positions_hold(instruments: Instruments) -> None:
    """Cash is without it: the wallet is cash and isolated equity without its unrealised profit."""
    detail = {"ccy": "USDT", "eq": "1002", "cashBal": "900", "isoEq": "102", "isoUpl": "2", "availEq": "890", "uTime": "3"}
    told = one(instruments, frame("account", {"uTime": "4", "details": [detail]}))
    assert told == WalletTold("USDT", 1000 * 10**8, ts_event=3 * 10**6)
    huge = {**detail, "ccy": "PEPE", "cashBal": "1" + "0" * 15}
    told = one(instruments, frame("account", {"uTime": "4", "details": [huge, detail]}))
    assert isinstance(told, WalletTold) and told.asset == "USDT", "an asset we do not trade with hides nothing"


def test_a_word_it_does_not_know_is_unreadable(instruments: Instruments) -> None:
    """A state or side that is not documented is never guessed; from a list it is a ``ValueError``, as all that cannot be read."""
    for change in ({"state": "sleeping"}, {"side": "hold"}, {"posSide": "both"}):
        assert isinstance(one(instruments, frame("orders", {**FILL, **change})), Malformed)
        with pytest.raises(ValueError, match="is none of"):
            codec.order_told(codec.rows(body({**FILL, **change}), codec.OrderRow)[0], instruments[0])


def test_causes_are_named_and_nothing_is_made_of_them(instruments: Instruments) -> None:
    """``balance_and_position`` says why something changed, not by how much."""
    change = {"pTime": "1", "eventType": "transferred", "balData": [{"ccy": "USDT", "cashBal": "1", "uTime": "1"}]}
    assert one(instruments, frame("balance_and_position", change)) == Unused("transferred")
    assert one(instruments, frame("liquidation-warning", {"pTime": "9", "instId": "X"})) == MarginCallTold(9 * 10**6)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"event": "login", "code": "0", "msg": "", "connId": "a"}, LoggedIn(True)),
        ({"event": "error", "code": "60009", "msg": "Login failed."}, LoggedIn(False, "login_failed", 60009, "Login failed.")),
        ({"event": "error", "code": "60032", "msg": "m"}, LoggedIn(False, "key_refused", 60032, "m")),
        ({"id": "orders", "event": "subscribe", "arg": {"channel": "orders", "instType": "ANY"}}, Subscribed("orders", True)),
        ({"event": "subscribe", "arg": {"channel": "balance_and_position"}}, Subscribed("changes", True)),
        ({"id": "account", "event": "error", "code": "60018", "msg": "no"}, Subscribed("account", False, "60018 no")),
        ({"event": "error", "code": "60018", "msg": "no"}, Subscribed("", False, "60018 no")),
        ({"event": "channel-conn-count", "channel": "orders", "connCount": "2"}, Unused("channel-conn-count")),
        ({"event": "notice", "code": "64008", "msg": "soon"}, Ending("64008 soon")),
        ({"event": "notice", "code": "1", "msg": "other"}, Unused("notice")),
    ],
)  # fmt: skip
def test_events_of_the_connection(instruments: Instruments, said: dict[str, Any], told: Any) -> None:
    """Logins, subscriptions and notices."""
    assert one(instruments, orjson.dumps(said)) == told


def test_too_many_connections_on_a_channel_is_a_refused_subscription(instruments: Instruments) -> None:
    """The venue closes nothing, it only never pushes: so the subscription counts as refused."""
    said = {"event": "channel-conn-count-error", "channel": "balance_and_position", "connCount": "31"}
    told = one(instruments, orjson.dumps(said))
    assert isinstance(told, Subscribed) and (told.name, told.ok) == ("changes", False)


def answer(code: str, *rows: dict[str, str], id: str = CID) -> bytes:
    return orjson.dumps({"id": id, "op": "order", "code": code, "msg": "m", "data": list(rows), "inTime": "1", "outTime": "2"})


ROW = {"clOrdId": CID, "ordId": "12345689", "tag": "", "ts": "1695190491421", "sCode": "0", "sMsg": ""}


def test_an_accepted_order(instruments: Instruments) -> None:
    """Acceptance names the order it became; it is acknowledged, not executed."""
    told = one(instruments, answer("0", ROW))
    assert isinstance(told, Answered) and told.verdict.outcome is Outcome.ACCEPTED and told.cid.hex() == CID
    assert (told.venue_order_id, told.status, told.cum_qty, told.ts_event) == (12345689, facts.NEW, 0, 1695190491421 * 10**6)


@pytest.mark.parametrize(
    ("payload", "outcome", "reason", "retry"),
    [
        (answer("1", {**ROW, "ordId": "", "sCode": "51008", "sMsg": "no"}), Outcome.DEFINITE_REJECT, "margin", 0),
        (answer("1", {**ROW, "sCode": "51016"}), Outcome.IN_DOUBT, "duplicate_client_order_id", 0),
        (answer("60013"), Outcome.DEFINITE_REJECT, "malformed_request", 0),
        (answer("50011"), Outcome.DEFINITE_REJECT, "too_many_requests", -1),
        (answer("50061"), Outcome.DEFINITE_REJECT, "too_many_orders", -1),
        (answer("1"), Outcome.IN_DOUBT, "unknown_code", 0),
        (answer(""), Outcome.IN_DOUBT, "unknown_code", 0),
        (answer("0"), Outcome.IN_DOUBT, "unexpected_response", 0),
        (answer("0", {**ROW, "ordId": ""}), Outcome.IN_DOUBT, "unexpected_response", 0),
        (answer("0", {**ROW, "sCode": "51020", "ordId": ""}), Outcome.DEFINITE_REJECT, "quantity_below_min", 0),
        (answer("0", {**ROW, "sCode": ""}), Outcome.IN_DOUBT, "unknown_code", 0),
    ],
)
def test_answers(instruments: Instruments, payload: bytes, outcome: Outcome, reason: str, retry: int) -> None:
    """The inner code tells; what does not say what happened leaves the order in doubt; a rate refusal says so."""
    told = one(instruments, payload)
    assert (told.verdict.outcome, told.verdict.reason, told.retry_ns) == (outcome, reason, retry)


def test_answers_to_others(instruments: Instruments) -> None:
    """An answer that names no order of ours is nobody's."""
    assert isinstance(one(instruments, answer("0", ROW, id="1512")), Unused)
    assert isinstance(one(instruments, orjson.dumps({"id": "x", "op": "cancel-order", "code": "0", "data": []})), Unused)


@pytest.mark.parametrize(
    ("status", "text", "outcome"),
    [
        (200, body({**ROW}), Outcome.ACCEPTED),
        (500, b"oops", Outcome.IN_DOUBT),
        (200, b"<html>", Outcome.IN_DOUBT),
        (200, b'{"code":"0","data":{}}', Outcome.IN_DOUBT),
        (403, b"<html>", Outcome.DEFINITE_REJECT),
    ],
)
def test_rest_answers(status: int, text: bytes, outcome: Outcome) -> None:
    """The same over REST; what cannot be read proves nothing."""
    assert codec.rest_answered(bytes(16), status, text).verdict.outcome is outcome


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b'{"code":"0","msg":"","data":[]}', 0),
        (b'{"code":"0","data":[[1,2],["a"]]}', -1),
        (b'{"code":"1","msg":"m","data":[{"sCode":"51603","sMsg":"x"}]}', 51603),
        (b'{"code":"51603","msg":"Order does not exist","data":[]}', 51603),
        (b'{"code":"50113","msg":"m"}', 50113),
        (b"no json", -1),
        (b'{"msg":"m"}', -1),
    ],
)
def test_codes_of_rest_answers(text: bytes, code: int) -> None:
    """Wherever the venue puts it."""
    assert codec.answer_code(text)[0] == code


def test_pong_is_a_sign_of_life(instruments: Instruments) -> None:
    """The answer to the text we ping with."""
    assert read(instruments, b"pong") == [Alive()]


def test_market(instruments: Instruments) -> None:
    """Best bid and ask in ticks and lots, 0 where a side is empty; the mark to the nearest tick."""
    def of(channel: str, row: dict[str, Any]) -> Any:
        (told,) = codec.read_market(
            orjson.dumps({"arg": {"channel": channel, "instId": "BTC-USDT-SWAP"}, "data": [row]}), instruments, 3)
        return told

    quoted = of("bbo-tbt", {"asks": [["60000.1", "2", "0", "1"]], "bids": [], "ts": "5"})
    assert quoted == Quote(0, 0, 0, 600001, 200, 5 * 10**6, 3)
    assert of("mark-price", {"markPx": "60000.06", "ts": "5"}) == Mark(0, 600001, 0, 5 * 10**6, 3)
    assert of("tickers", {"last": "7", "ts": "5"}) == Mark(0, 70, 0, 5 * 10**6, 3)
    assert isinstance(of("bbo-tbt", {"asks": [["x", "2"]], "bids": [], "ts": "5"}), Malformed)
    assert codec.read_market(b"pong", instruments, 3) == [Unused("pong")]
    assert isinstance(codec.read_market(b"{", instruments, 3)[0], Malformed)


def test_one_bad_row_does_not_hide_the_others(instruments: Instruments) -> None:
    """What can be read of a push is; of what cannot, it is said."""
    bad, good = read(instruments, frame("orders", {**FILL, "fillPx": "1e5"}, FILL))
    assert isinstance(bad, Malformed) and isinstance(good, TradeTold)


GOOD = [
    frame("orders", FILL), frame("positions", {"instId": "BTC-USDT-SWAP", "pos": "1", "uTime": "5"}),
    frame("account", {"details": [{"ccy": "USDT", "cashBal": "5", "uTime": "1"}]}), answer("0", ROW),
    orjson.dumps({"event": "login", "code": "0"}), frame("balance_and_position", {"eventType": "filled"}),
]  # fmt: skip
INSTRUMENTS = load_instruments([body(BTC, ETH), body(SPOT)], [(0, "BTC-USDT-SWAP"), (5, "ETH-USDT-SWAP"), (9, "BTC-USDT")])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=8,
)  # fmt: skip


@given(st.sampled_from(GOOD), st.data())
def test_a_cut_frame_never_raises(payload: bytes, data: st.DataObject) -> None:
    """However a frame is truncated."""
    cut = data.draw(st.integers(0, len(payload) - 1))
    told = codec.read_private(payload[:cut], INSTRUMENTS, 0)
    assert len(told) == 1 and isinstance(told[0], Malformed)


@given(st.sampled_from(GOOD), st.data(), JSON)
def test_a_wrong_type_anywhere_never_raises(payload: bytes, data: st.DataObject, value: Any) -> None:
    """Whatever stands in the place of any field, of the frame or of its first row."""
    said = orjson.loads(payload)
    rows = said.get("data")
    target = rows[0] if isinstance(rows, list) and rows and data.draw(st.booleans()) else said
    target[data.draw(st.sampled_from(sorted(target)))] = value
    text = msgspec.json.encode(said)
    codec.read_private(text, INSTRUMENTS, 0)
    codec.read_market(text, INSTRUMENTS, 0)
    codec.rest_answered(bytes(16), 200, text)
    codec.answer_code(text)


@given(st.binary(max_size=200))
def test_bytes_never_raise(payload: bytes) -> None:
    """Anything at all."""
    assert codec.read_private(payload, INSTRUMENTS, 0)
    assert codec.read_market(payload, INSTRUMENTS, 0)
    codec.rest_answered(bytes(16), 200, payload)


def test_an_oversized_frame_is_told_short(instruments: Instruments) -> None:
    """Of a frame that cannot be read the log keeps its length and its beginning."""
    told = one(instruments, b'{"arg":' + b"[" * 2_000_000)
    assert isinstance(told, Malformed) and told.size == 2_000_007 and len(told.head) == 80 and len(told.why) <= 200


def test_reordered_pushes_are_told_as_they_come(instruments: Instruments) -> None:
    """Pure: each push by itself, whatever came before."""
    first = frame("orders", {**FILL, "tradeId": "1", "accFillSz": "0.01", "fillSz": "0.01", "state": "partially_filled"})
    second = frame("orders", {**FILL, "tradeId": "2", "accFillSz": "0.03", "fillSz": "0.02"})
    forth = [one(instruments, payload) for payload in (first, second)]
    back = [one(instruments, payload) for payload in (second, first)]
    assert forth == back[::-1]


def test_channels(instruments: Instruments) -> None:
    """One private connection for orders and events; every subscription is named by what its answer names."""
    wire = OkxWire()
    wire.bind(instruments)
    (private,) = wire.channels(Endpoints.of("live"))
    assert private.orders and private.events and private.ping == b"ping" and private.ping_every_ms < 30_000
    for name, message in private.subscriptions:
        said = orjson.loads(message)
        ack = {"id": said["id"], "event": "subscribe", "arg": said["args"][0], "connId": "a"}
        assert wire.read("private", orjson.dumps(ack), 0) == [Subscribed(name, True)]
        del ack["id"]
        assert wire.read("private", orjson.dumps(ack), 0) == [Subscribed(name, True)]
    (public,) = wire.market(Endpoints.of("demo"))
    assert not public.orders and not public.events and len(public.subscriptions) == 3
    assert b'"tickers","instId":"BTC-USDT"' in public.subscriptions[2][1]
