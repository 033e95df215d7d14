"""Frames of the private and public connections, and what they say; nothing a counterparty sends raises."""

import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import convert

from copyd.core import leader_stream as ls
from copyd.venues.bybit import codec
from copyd.venues.bybit.contract import CONTRACT, Endpoints
from copyd.venues.bybit.wire import BybitWire
from copyd.venues.common import facts, told
from copyd.venues.common.connection import ConnectPace
from copyd.venues.common.facts import Malformed, Mark, Quote
from copyd.venues.common.feed import MarketFeed
from copyd.venues.common.names import HASH_BITS, Names, execution_ms, order_number
from copyd.venues.common.outcome import Outcome
from copyd.venues.common.told import Unused
from tests.venues.bybit.conftest import CID, INSTRUMENTS, KEY, order

MS = 1_000_000
NOW = 1_746_270_400_353
ORDER = {
    "category": "linear", "symbol": "BTCUSDT", "orderId": "5cf98598-39a7-459e-97bf-76ca765ee020", "orderLinkId": CID.hex(),
    "side": "Buy", "orderType": "Limit", "price": "30000.50", "qty": "0.100", "timeInForce": "IOC", "orderStatus": "Filled",
    "cancelType": "UNKNOWN", "rejectReason": "EC_NoError", "leavesQty": "0", "leavesValue": "0", "cumExecQty": "0.100",
    "cumExecValue": "3000.05", "avgPrice": "30000.50", "cumExecFee": "1.65", "cumFeeDetail": {"USDT": "1.65"},
    "reduceOnly": False, "closeOnTrigger": False, "positionIdx": 0, "createdTime": "1672364262457",
    "updatedTime": "1672364262462", "stopOrderType": "", "triggerPrice": "", "takeProfit": "", "stopLoss": "", "smpType": "None",
}  # fmt: skip
EXECUTION = {
    "category": "linear", "symbol": "BTCUSDT", "execId": "0ab1bdf7-4219-438b-b30a-32ec863018f7", "execPrice": "95900.1",
    "execQty": "0.5", "execValue": "47950.05", "execFee": "26.3725275", "feeCurrency": "", "feeRate": "0.00055",
    "execType": "Trade", "execTime": str(NOW), "isMaker": False, "orderId": "9aac161b-8ed6-450d-9cab-c5cc67c21784",
    "orderLinkId": CID.hex(), "orderQty": "0.5", "leavesQty": "0", "closedSize": "0.5", "side": "Sell", "seq": 140612148849382,
}  # fmt: skip
FAST = {
    name: EXECUTION[name]
    for name in ("category", "symbol", "execId", "execPrice", "execQty", "orderId", "isMaker", "orderLinkId", "side", "execTime")
}
POSITION = {
    "category": "linear", "symbol": "BTCUSDT", "positionIdx": 0, "side": "Sell", "size": "0.010", "entryPrice": "3641.075",
    "leverage": "30", "positionValue": "36.4", "positionIM": "1.23", "unrealisedPnl": "-0.002", "liqPrice": "51764.8",
    "positionStatus": "Normal", "tradeMode": 0, "seq": 325852190774, "updatedTime": "1711001595208",
}  # fmt: skip
WALLET = {
    "accountType": "UNIFIED", "totalEquity": "10262.9", "totalWalletBalance": "9684.4", "totalMarginBalance": "9684.4",
    "totalAvailableBalance": "9556.6",
    "coin": [{"coin": "USDT", "equity": "10226.2", "walletBalance": "9647.7", "locked": "0", "totalOrderIM": "0",
              "totalPositionIM": "127.8", "unrealisedPnl": "0", "cumRealisedPnl": "0"}],
}  # fmt: skip


def wire(names=None):
    made = BybitWire(names or Names())
    made.bind(INSTRUMENTS)
    return made


def frame(topic, *rows):
    return json.dumps({"id": "x", "topic": topic, "creationTime": 1_700_000_000_000, "data": list(rows)}).encode()


def read(topic, *rows, on=None):
    return list((on or wire()).read("private", frame(topic, *rows), 99))


def answer(**fields):
    body = {
        "reqId": CID.hex(), "retCode": 0, "retMsg": "OK", "op": "order.create",
        "data": {"orderId": "a4c1718e-fe53-4659-a118-1f6ecce04ad9", "orderLinkId": CID.hex()}, "retExtInfo": {},
        "header": {"X-Bapi-Limit": "10", "X-Bapi-Limit-Status": "9", "X-Bapi-Limit-Reset-Timestamp": "1711001595708",
                   "Traceid": "38b7", "Timenow": "1711001595209"},
        "connId": "cnt5leec0hvan15eukcg-2v", **fields,
    }  # fmt: skip
    return list(wire().read("trade", json.dumps(body).encode(), 99))


# --- connections ------------------------------------------------------------------------------------------------------
def test_an_account_has_a_connection_for_orders_and_one_for_events():
    """Orders first; pings as text every 20 seconds; where there is no order socket, events alone."""
    trade, private = wire().channels(Endpoints.of("live"))
    assert (trade.name, trade.orders, trade.events, trade.subscriptions) == ("trade", True, False, ())
    assert (private.name, private.orders, private.events) == ("private", False, True)
    assert trade.url == "wss://stream.bybit.com/v5/trade" and private.url == "wss://stream.bybit.com/v5/private"
    assert {trade.ping, private.ping} == {b'{"op":"ping"}'} and trade.ping_every_ms == private.ping_every_ms == 20_000
    assert private.subscriptions == (
        ("events", b'{"req_id":"events","op":"subscribe","args":["order","execution","execution.fast","position","wallet"]}'),)
    (alone,) = wire().channels(Endpoints.of("demo"))
    assert alone.name == "private" and alone.url == "wss://stream-demo.bybit.com/v5/private"


def test_both_connections_log_in_alike():
    """The same signed text."""
    made = wire()
    first, second = (made.login(channel, KEY, NOW) for channel in made.channels(Endpoints.of("live")))
    assert first == second and json.loads(first)["op"] == "auth"
    assert all(made.login(channel, KEY, NOW) == b"" for channel in made.market(Endpoints.of("live")))


def test_a_placement_bears_the_contracts_window():
    """What bounds its life on the way is the contract's."""
    text = json.loads(wire().place(order(), NOW))
    assert text["header"]["X-BAPI-RECV-WINDOW"] == str(CONTRACT.recv_window_ms) and text["reqId"] == CID.hex()


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ('{"success":true,"ret_msg":"","op":"auth","conn_id":"cejreaspqfh3sjdnldmg-p"}', told.LoggedIn(True)),
        ('{"success":false,"ret_msg":"no","op":"auth","conn_id":"c"}', told.LoggedIn(False, "login_refused", 0, "no")),
        ('{"success":false,"ret_msg":"error:USVC1111","conn_id":"c","request":{"op":"auth","args":[]}}',
         told.LoggedIn(False, "login_refused", 0, "error:USVC1111")),
        ('{"retCode":0,"retMsg":"OK","op":"auth","connId":"c"}', told.LoggedIn(True)),
        ('{"retCode":10004,"retMsg":"x","op":"auth","connId":"c"}', told.LoggedIn(False, "signature", 10004, "x")),
        ('{"retCode":10003,"retMsg":"x","op":"auth","connId":"c"}', told.LoggedIn(False, "too_many_sessions", 10003, "x")),
        ('{"retCode":10010,"retMsg":"x","op":"auth","connId":"c"}', told.LoggedIn(False, "ip_not_allowed", 10010, "x")),
        ('{"req_id":"events","success":true,"ret_msg":"","op":"subscribe","conn_id":"c"}', told.Subscribed("events", True)),
        ('{"success":true,"ret_msg":"","op":"subscribe","conn_id":"c"}', told.Subscribed("events", True)),
        ('{"req_id":"events","success":false,"ret_msg":"bad topic","op":"subscribe"}',
         told.Subscribed("events", False, "bad topic")),
        ('{"req_id":"","op":"pong","args":["1675418560633"],"conn_id":"c"}', told.Alive()),
        ('{"retCode":0,"retMsg":"OK","op":"pong","data":["1711002002529"],"connId":"c"}', told.Alive()),
        ('{"success":true,"ret_msg":"pong","conn_id":"c","req_id":"","op":"ping"}', told.Alive()),
        ('{"id":"1","topic":"greeks","creationTime":1,"data":[]}', Unused("greeks")),
        ('{"op":"order.cancel","retCode":0,"retMsg":"OK","reqId":"1","data":{}}', Unused("order.cancel")),
    ],
)  # fmt: skip
def test_answers_of_the_connection_itself(payload, said):
    """Logins, subscriptions and pongs of both kinds of connection; the rest is unused, not an error."""
    assert list(wire().read("private", payload.encode(), 1)) == [said]


# --- answers to orders ------------------------------------------------------------------------------------------------
def test_an_acceptance_names_the_order_and_says_no_more():
    """NEW, with the venue's number of it and its time."""
    (said,) = answer()
    assert said.cid == CID and said.verdict.outcome is Outcome.ACCEPTED and said.status == facts.NEW
    assert said.venue_order_id == order_number("a4c1718e-fe53-4659-a118-1f6ecce04ad9") and said.cum_qty == 0
    assert said.ts_event == 1_711_001_595_209 * MS and said.retry_ns == 0


@pytest.mark.parametrize(
    ("code", "outcome"),
    [(110007, Outcome.DEFINITE_REJECT), (110072, Outcome.IN_DOUBT), (10016, Outcome.IN_DOUBT), (424242, Outcome.IN_DOUBT)],
)
def test_a_refusal_or_a_doubt_carries_no_order(code, outcome):
    """No number and no state, whatever stands in the data."""
    (said,) = answer(retCode=code, retMsg="no", data={})
    assert (said.cid, said.verdict.outcome, said.verdict.code, said.venue_order_id, said.status) == (CID, outcome, code, 0, 0)


def test_a_refusal_for_the_rate_says_when_to_come_again():
    """From the header: when the account's second is over, -1 where it does not say."""
    (said,) = answer(retCode=10006, data={})
    assert said.retry_ns == 499 * MS
    (said,) = answer(retCode=10006, data={}, header={})
    assert said.retry_ns == -1


def test_a_restarting_order_service_ends_the_connection():
    """The answer is a doubt, and a new connection is wanted."""
    said = answer(retCode=10019, data={})
    assert said[0].verdict.outcome is Outcome.IN_DOUBT and isinstance(said[1], told.Ending)


def test_an_answer_without_its_name_is_found_by_the_order_in_it():
    """The request's name is missing: the order's own will do; with neither it is unreadable."""
    (said,) = answer(reqId=None)
    assert said.cid == CID
    (said,) = answer(reqId="somebody else's", data={})
    assert isinstance(said, Malformed)


# --- events -----------------------------------------------------------------------------------------------------------
def test_an_order_event():
    """Its state, what has filled and what that was worth; ours is known by our id."""
    (said,) = read("order", ORDER)
    assert said == told.OrderTold(
        CID, CID.hex(), 3, order_number(ORDER["orderId"]), facts.FILLED, 100, 3000_05000000, 1, 0, 100, False,
        1_672_364_262_462 * MS)


@pytest.mark.parametrize(
    ("status", "state"),
    [("New", 2), ("Untriggered", 2), ("Triggered", 2), ("PartiallyFilled", 3), ("Filled", 4), ("Cancelled", 6),
     ("PartiallyFilledCanceled", 6), ("Deactivated", 6), ("Rejected", 8)],
)  # fmt: skip
def test_order_states(status, state):
    """Every state of the venue has one of ours."""
    (said,) = read("order", {**ORDER, "orderStatus": status})
    assert said.status == state


def test_an_execution_moves_no_quantity_by_itself():
    """The order's state comes apart; the commission is as the venue writes it, above 0 when paid."""
    (said,) = read("execution", EXECUTION)
    one = said.execution
    assert said.cid == CID and said.order is None and not said.thin and (said.fee, said.fee_asset) == ("26.3725275", "USDT")
    assert (one.instrument, one.side, one.qty, one.px, one.order_qty, one.cum_qty) == (3, -1, 500, 959_001, 500, 0)
    assert (one.position_side, one.realised, one.maker, one.live, one.cause) == (ls.UNKNOWN_SIDE, True, False, True, "")
    assert one.ts_event == NOW * MS and one.ts_recv == 99 and execution_ms(one.exec_id) == NOW and one.exec_id < 1 << 63
    assert json.loads(one.raw)["topic"] == "execution"


def test_the_fast_channel_is_thin_and_bears_the_same_number():
    """The whole one follows under the same id, without the commission the thin one lacked."""
    shared = wire()
    (thin,), (whole,) = read("execution.fast", FAST, on=shared), read("execution", EXECUTION, on=shared)
    assert thin.thin and thin.execution.exec_id == whole.execution.exec_id and thin.execution.qty == whole.execution.qty


def test_an_execution_takes_its_position_side_from_its_order():
    """Executions name none; that of an order heard of before is known, any other is not guessed."""
    shared = wire()
    read("order", {**ORDER, "orderId": EXECUTION["orderId"], "positionIdx": 2, "side": "Sell"}, on=shared)
    (said,) = read("execution", EXECUTION, on=shared)
    assert said.execution.position_side == 2
    (said,) = read("execution", {**EXECUTION, "orderId": "other", "execId": "other"}, on=shared)
    assert said.execution.position_side == ls.UNKNOWN_SIDE


@pytest.mark.parametrize(
    ("fields", "cause"),
    [({"execType": "BustTrade"}, "liquidation"), ({"execType": "AdlTrade"}, "adl"), ({"execType": "Settle"}, "settlement"),
     ({"execType": "Delivery"}, "settlement"), ({"createType": "CreateByLiq"}, "liquidation"),
     ({"createType": "CreateByTakeOver_PassThrough"}, "liquidation"), ({"createType": "CreateByAdl_PassThrough"}, "adl"),
     ({"createType": "CreateByUser"}, "")],
)  # fmt: skip
def test_causes_of_executions(fields, cause):
    """What the venue did to the account is told from what the account did."""
    (said,) = read("execution", {**EXECUTION, **fields})
    assert said.execution.cause == cause


def test_a_takeover_between_ticks_is_read():
    """A position that is taken over or deleveraged changes hands at a price that need not lie on a tick; a trade must."""
    (said,) = read("execution", {**EXECUTION, "execType": "BustTrade", "execPrice": "95900.16"})
    assert said.execution.px == 959_002
    (said,) = read("execution", {**EXECUTION, "execPrice": "95900.16"})
    assert isinstance(said, Malformed)


def test_funding_is_an_execution_at_the_venue():
    """A fee above 0 was paid, one below received; it is no trade."""
    (said,) = read("execution", {**EXECUTION, "execType": "Funding", "execFee": "-0.5", "execQty": "0.5", "side": "Buy"})
    assert isinstance(said, told.FundingTold) and (said.instrument, said.amount_e8, said.ts_event) == (3, 50_000_000, NOW * MS)


def test_a_position_is_signed_and_carries_the_leverage():
    """Short below 0; flat is 0 whatever its side; a part of a leverage is cut."""
    (said,) = read("position", POSITION)
    assert (said.position.qty, said.position.position_side, said.position.leverage, said.position.ts_event) == (
        -10, 0, 30, 1_711_001_595_208 * MS)
    (said,) = read("position", {**POSITION, "side": "", "size": "0", "leverage": "12.5"})
    assert (said.position.qty, said.position.leverage) == (0, 12)
    (said,) = read("position", {**POSITION, "positionIdx": 2})
    assert (said.position.qty, said.position.position_side) == (-10, 2)


def test_a_position_being_liquidated_is_a_warning():
    """Told once with the position."""
    said = read("position", {**POSITION, "positionStatus": "Liq"})
    assert [type(one) for one in said] == [told.PositionTold, told.MarginCallTold]


def test_a_wallet():
    """Each coin's balance."""
    assert read("wallet", WALLET) == [told.WalletTold("USDT", 9647_70000000, ts_event=1_700_000_000_000 * MS)]


def test_a_spot_fee_is_paid_in_what_is_received():
    """As the venue says, or by the side where it does not; a pair has no position side."""
    row = {**EXECUTION, "category": "spot", "side": "Buy", "execPrice": "95900.10", "closedSize": ""}
    (said,) = read("execution", row)
    assert (said.execution.instrument, said.fee_asset, said.execution.position_side) == (7, "BTC", 0)
    assert read("execution", {**row, "feeCurrency": "USDT"})[0].fee_asset == "USDT"


def test_a_spot_order_sized_in_the_quote_asset_says_nothing_in_lots():
    """Somebody else's market buy of 500 USDT is not one of 500 BTC."""
    row = {**ORDER, "category": "spot", "orderType": "Market", "marketUnit": "quoteCoin", "qty": "500"}
    assert read("order", row)[0].order_qty == 0
    assert read("order", {**row, "marketUnit": "baseCoin", "qty": "0.1"})[0].order_qty == 100_000


def test_what_is_not_ours_is_unused():
    """Other symbols, other categories: by kind, not an error."""
    for topic, row in (("order", ORDER), ("execution", EXECUTION), ("position", POSITION)):
        for other in ({"symbol": "XRPUSDT"}, {"category": "inverse"}):
            (said,) = read(topic, {**row, **other})
            assert isinstance(said, Unused)


def test_only_our_own_ids_are_ours():
    """32 lower-case hex characters exactly."""
    for text in ("", "pybit-1", CID.hex().upper(), CID.hex() + "0", "g" * 32):
        (said,) = read("order", {**ORDER, "orderLinkId": text})
        assert said.cid is None and said.client_order_id == text


# --- what is wrong ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("topic", "row"),
    [
        ("order", {**ORDER, "orderStatus": "Perhaps"}), ("order", {**ORDER, "side": "None"}),
        ("order", {**ORDER, "qty": "0.0001"}),
        ("order", {**ORDER, "cumExecQty": "-"}), ("order", {**ORDER, "positionIdx": 3}), ("order", {**ORDER, "orderId": ""}),
        ("order", {**ORDER, "updatedTime": "99999999999999999999"}), ("order", {**ORDER, "cumExecValue": "1e5"}),
        ("execution", {**EXECUTION, "execQty": "0"}), ("execution", {**EXECUTION, "execId": ""}),
        ("execution", {**EXECUTION, "execTime": "-1"}), ("execution", {**EXECUTION, "execTime": "0"}),
        ("execution", {**EXECUTION, "execType": "SomethingNew"}), ("execution", {**EXECUTION, "execQty": "99999999999999999999"}),
        ("position", {**POSITION, "side": "Up"}), ("position", {**POSITION, "positionIdx": -1}),
        ("position", {**POSITION, "leverage": "x"}),
    ],
)  # fmt: skip
def test_an_unreadable_row_is_said_and_takes_no_other_with_it(topic, row):
    """One bad row of three: the other two are told, in their place."""
    good = {"order": ORDER, "execution": EXECUTION, "position": POSITION}[topic]
    kinds = [type(one) for one in read(topic, good, row, good)]
    assert kinds[1] is Malformed and kinds[0] is kinds[2] is not Malformed


@pytest.mark.parametrize(
    "payload",
    [b"", b"{", b"[]", b"null", b"7", b'"x"', b"{}", b"\xff\xfe", b'{"topic":7}', b'{"topic":"order","data":{}}',
     b'{"op":"order.create"}', b'{"topic":"order","data":[{}]}', b'{"topic":"execution","data":[7]}',
     b'{"topic":"wallet","data":"x"}', b'{"op":[1]}', b'{"topic":"position","creationTime":-5,"data":[]}',
     b'{"op":"order.create","retCode":"0"}', b"[" * 5000],
)  # fmt: skip
def test_what_cannot_be_read_is_malformed_and_never_raises(payload):
    """On either connection and on the public ones."""
    for said in (wire().read("private", payload, 1), wire().read("trade", payload, 1), wire().read_market(payload, 1)):
        assert said and all(isinstance(one, Malformed | Unused) for one in said)


@given(st.binary(max_size=300))
def test_no_bytes_raise(payload):
    """Whatever comes."""
    made = wire()
    made.read("private", payload, 1)
    made.read_market(payload, 1)


EVENTS = [("order", ORDER), ("execution", EXECUTION), ("execution.fast", FAST), ("position", POSITION), ("wallet", WALLET)]
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8), lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=5)  # fmt: skip


@settings(max_examples=200)
@given(st.sampled_from(EVENTS), st.data())
def test_no_field_of_a_wrong_type_raises(kind, data):
    """Any field of any event replaced by anything."""
    topic, row = kind
    name = data.draw(st.sampled_from(sorted(row)))
    for one in read(topic, {**row, name: data.draw(_JSON)}):
        assert isinstance(one, told.Told)


@given(st.sampled_from(["order", "execution", "position", "wallet"]), st.integers(0, 900))
def test_no_truncated_frame_raises(topic, at):
    """A frame cut anywhere is one unreadable frame."""
    whole = frame(topic, {"order": ORDER, "execution": EXECUTION, "position": POSITION, "wallet": WALLET}[topic])
    if at < len(whole):
        (said,) = wire().read("private", whole[:at], 1)
        assert isinstance(said, Malformed) and said.size == at


# --- balances ---------------------------------------------------------------------------------------------------------
def test_books_of_either_margin_type():
    """Crossed: no more than the account-wide figure nor than the coin has. Isolated: the balance without what is bound."""
    row = convert(WALLET, codec.WalletRow)
    found = codec.books(row, [convert(POSITION, codec.PositionRow)], INSTRUMENTS, 5, {})
    assert (found.wallet_e8, found.equity_e8, found.available_e8) == (9647_70000000, 10226_20000000, 9556_60000000)
    assert found.positions == ((3, 0, -10, 3641_07500000),) and found.ts_event == 5
    isolated = convert({**WALLET, "totalAvailableBalance": ""}, codec.WalletRow)
    assert codec.books(isolated, [], INSTRUMENTS, 5, {}).available_e8 == (9647_70000000 - 127_80000000)
    empty = codec.books(codec.WalletRow([]), [], INSTRUMENTS, 5, {})
    assert (empty.wallet_e8, empty.equity_e8, empty.available_e8, empty.positions) == (0, 0, 0, ())


def test_what_is_held_of_a_pairs_base_asset():
    """Whole lots of the balance; nothing where the coin is not listed; perpetuals have positions instead."""
    coins = [{"coin": "BTC", "walletBalance": "0.0123456789"}, {"coin": "USDT", "walletBalance": "5"}]
    (one,) = codec.holdings(convert({"coin": coins}, codec.WalletRow), INSTRUMENTS, 5, 6)
    assert (one.instrument, one.position_side, one.qty, one.ts_event) == (7, 0, 12_345, 5)
    assert codec.holdings(codec.WalletRow([]), INSTRUMENTS, 5, 6)[0].qty == 0


# --- names ------------------------------------------------------------------------------------------------------------
def test_numbers_of_orders():
    """A number of 63 bits is itself; any other text is hashed to 63 bits, never 0, and found again by its number."""
    names = Names()
    assert names.order("1321003749386327552") == 1321003749386327552 and names.order("") == 0
    for text in ("a4c1718e-fe53-4659-a118-1f6ecce04ad9", "0", "007", "9223372036854775808", "٣"):
        number = names.order(text)
        assert 0 < number < 1 << 63 and names.order_text(number) == text and names.order(text) == number
    assert names.order_text(5) == ""


@given(st.lists(st.tuples(st.text("abcdef0123456789-", min_size=1, max_size=36), st.integers(1, (1 << 41) - 1)), max_size=30))
def test_numbers_of_executions_are_unique_and_follow_time(rows):
    """Two names never share a number, a name keeps its own, and a later millisecond has a larger number."""
    names = Names()
    first: dict[str, tuple[int, int]] = {}
    for text, at in rows:
        number = names.execution(text, at)
        if text in first:
            assert number == first[text][1]
        else:
            first[text] = (at, number)
            assert number < 1 << 63
    assert len({number for _, number in first.values()}) == len(first)
    spread = {at for at, _ in first.values()}
    if all(b - a > 1 for a, b in zip(sorted(spread), sorted(spread)[1:], strict=False)):
        ordered = sorted(first.values())
        assert [number for _, number in ordered] == sorted(number for _, number in ordered) or len(spread) < len(ordered)


def test_two_executions_that_share_a_number_get_neighbouring_ones():
    """Of one millisecond with equal bits: bumped by one, and the same again whoever says it."""
    names = Names()
    number = names.execution("first", NOW)
    clash = Names()
    clash._taken[number] = "somebody"
    assert clash.execution("first", NOW) == number + 1 == clash.execution("first", NOW)
    assert number >> HASH_BITS == NOW


def test_names_are_remembered_within_bounds():
    """The oldest go; what is asked for again gives the same number."""
    names = Names(room=10)
    numbers = [names.execution(f"e{n}", NOW + n) for n in range(50)]
    orders = [names.order(f"o{n}") for n in range(50)]
    assert len(names._executions) == len(names._taken) == len(names._orders) == 10
    assert names.execution("e0", NOW) == numbers[0]
    assert names.order_text(orders[-1]) == "o49" and names.order_text(orders[0]) == ""


# --- public -----------------------------------------------------------------------------------------------------------
def test_market_channels_by_category():
    """Perpetuals and pairs have connections of their own; requests of ten topics at most."""
    linear, spot = wire().market(Endpoints.of("live"))
    assert (linear.name, linear.url) == ("linear", "wss://stream.bybit.com/v5/public/linear")
    assert spot.url.endswith("/v5/public/spot")
    assert json.loads(linear.subscriptions[0][1])["args"] == [
        "orderbook.1.BTCUSDT", "tickers.BTCUSDT", "orderbook.1.1000PEPEUSDT", "tickers.1000PEPEUSDT"]


def market(made, text, channel="linear"):
    (said,) = made.read_market(json.dumps(text).encode(), 5, channel)
    return said


def test_best_bid_and_ask():
    """A snapshot is all there is; a change keeps the side it does not name."""
    made = wire()
    head = {"topic": "orderbook.1.BTCUSDT", "type": "snapshot", "ts": NOW, "cts": NOW}
    said = market(made, {**head, "data": {"s": "BTCUSDT", "b": [["50000.0", "0.5"]], "a": [["50000.1", "1"]], "u": 1, "seq": 1}})
    assert said == Quote(3, 500_000, 500, 500_001, 1000, NOW * MS, 5)
    said = market(made, {**head, "type": "delta", "data": {"s": "BTCUSDT", "b": [["49999.9", "2"], ["50000.0", "0"]], "a": []}})
    assert said == Quote(3, 499_999, 2000, 500_001, 1000, NOW * MS, 5)
    said = market(made, {**head, "data": {"s": "BTCUSDT", "b": [], "a": [["50000.1", "1"]]}})
    assert said == Quote(3, 0, 0, 500_001, 1000, NOW * MS, 5)


def test_marks():
    """To the nearest tick; the funding rate is remembered when a change does not repeat it."""
    made = wire()
    head = {"topic": "tickers.BTCUSDT", "type": "snapshot", "ts": NOW, "cs": 1}
    first = {"symbol": "BTCUSDT", "markPrice": "50000.07", "fundingRate": "-0.000212", "lastPrice": "1"}
    said = market(made, {**head, "data": first})
    assert said == Mark(3, 500_001, -212, NOW * MS, 5)
    said = market(made, {**head, "type": "delta", "data": {"symbol": "BTCUSDT", "markPrice": "50000.02"}})
    assert said == Mark(3, 500_000, -212, NOW * MS, 5)
    assert isinstance(market(made, {**head, "type": "delta", "data": {"symbol": "BTCUSDT", "volume24h": "1"}}), Unused)
    said = market(made, {**head, "data": {"symbol": "BTCUSDT", "lastPrice": "49999.99"}}, "spot")
    assert said == Mark(7, 4_999_999, 0, NOW * MS, 5)


def test_a_name_of_both_categories_is_never_guessed():
    """Without its connection a frame for BTCUSDT could be either's: then it is nobody's; a name of one category is clear."""
    made = wire()
    body = {"topic": "tickers.BTCUSDT", "type": "snapshot", "ts": NOW, "data": {"symbol": "BTCUSDT", "markPrice": "50000"}}
    assert isinstance(market(made, body, ""), Unused)
    body = {**body, "topic": "tickers.1000PEPEUSDT", "data": {"symbol": "1000PEPEUSDT", "markPrice": "0.01"}}
    assert market(made, body, "").instrument == 4


def test_answers_of_public_connections():
    """A subscription that is refused is said; pongs are unused."""
    made = wire()
    assert isinstance(market(made, {"success": True, "ret_msg": "pong", "op": "ping"}), Unused)
    assert isinstance(market(made, {"success": False, "ret_msg": "no such topic", "op": "subscribe"}), Malformed)


async def test_quotes_of_a_perpetual_and_of_the_pair_of_its_name_are_told_apart():
    """Both write the same symbol: the connection they come on says which it is."""
    item, pair = INSTRUMENTS.find("BTCUSDT"), INSTRUMENTS.find("BTCUSDT_SPOT")
    assert item is not None and pair is not None
    heard = []
    feed = MarketFeed(
        wire=wire(), channels=wire().market(Endpoints.of("live")), instruments=INSTRUMENTS, contract=CONTRACT, clock=lambda: 7,
        on_quotes=lambda quotes: heard.extend(quote.instrument for quote in quotes), on_marks=lambda marks: None,
        pace=ConnectPace(1000, 60_000),
    )  # fmt: skip
    payload = json.dumps({"topic": "orderbook.1.BTCUSDT", "type": "snapshot", "ts": 1_700_000_000_000, "data": {
        "s": "BTCUSDT", "b": [["30000.00", "0.500"]], "a": [["30000.10", "0.500"]], "u": 1, "seq": 1}}).encode()  # fmt: skip
    for link, channel in feed._links:
        heard.clear()
        link.on_frame(None, payload)
        await asyncio.sleep(0)
        assert heard == [item.index if channel.name == "linear" else pair.index]
