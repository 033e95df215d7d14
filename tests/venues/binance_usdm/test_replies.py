"""The compiled reader accepts only what the readable decoder reads, and then makes the very same rows.

Every property runs the same frames through two adapters: one that may use the compiled reader, one that never does. After
each frame both must have the same rows byte for byte, owe the same orders, have counted and said the same.
"""

import json
from array import array

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from copyd._fast.columns import Columns, ReportBatch
from copyd._fast.pending import Pending
from copyd._fast.replies import Executions, Replies, UserEvents, rows_about, rows_of, tell_apart
from copyd.core.leader_stream import Execution
from copyd.core.rows import AccountRow, OrderRow, ReportRow
from copyd.venues.binance_usdm import codec
from copyd.venues.binance_usdm.accounts import FollowerStreams, _Member
from copyd.venues.binance_usdm.contract import CONTRACT, Endpoints
from copyd.venues.binance_usdm.gateway import REJECTS, OrderGateway, _Lane
from copyd.venues.common import facts
from copyd.venues.common.facts import Placed
from copyd.venues.common.instruments import Instruments
from copyd.venues.common.limits import VenueClock

from .conftest import INSTRUMENTS, KEY

ACCOUNTS, ORDERS = 4, 7
TAG = "cd01"
LISTEN = "k" * 64

#: A third instrument whose lot and tick are more than one unit, as no listed one of the fixtures has.
COARSE = Instruments([
    *INSTRUMENTS,
    msgspec.structs.replace(
        INSTRUMENTS[0], index=2, symbol="ODDUSDC", quote_asset="USDC", margin_asset="USDC", price_decimals=2, tick=5,
        qty_decimals=1, lot=3),
])


def cid(n):
    return bytes.fromhex(TAG) + n.to_bytes(14, "big")


ROWS = [
    OrderRow(cid=cid(1), order_qty=10, account=3, instrument=0, side=1, state=1),
    OrderRow(cid=cid(2), order_qty=7, account=3, instrument=0, side=-1, kind=1, state=1, position_side=1, reduce_only=1),
    OrderRow(cid=cid(3), order_qty=5, account=4, instrument=1, side=-1, state=1, position_side=2),
    OrderRow(cid=cid(4), order_qty=2, account=4, instrument=2, side=1, state=1),
]


def tables():
    """The four orders, and the slot of each."""
    columns = Columns(4)
    for row in ROWS:
        slot = columns.add_order(row.cid)
        columns.put(ORDERS, slot, row.pack())
    return columns


def placed_in(columns):
    """As the venue side compares an answer with its order."""

    def placed(raw):
        slot = columns.order_slot(raw)
        if slot is None:
            return None
        order = OrderRow.unpack(columns.get(ORDERS, slot))
        return Placed(order.account, order.instrument, order.side, order.position_side, order.order_qty, bool(order.kind))

    return placed


class Session:
    """A connection as the gateway sees it between two reads."""

    heard = 0


class Quiet(OrderGateway):
    """Without a loop: rows stay in the batch."""

    def _see_to_flush(self):
        pass

    def __init__(self, compiled, columns=None):
        self.said = []
        super().__init__(
            url="ws://x", connections=1, instruments=COARSE, contract=CONTRACT, clock=lambda: 1_000,
            venue_clock=VenueClock(CONTRACT, lambda: 1_000), on_reports=lambda batch, ts: None, mono=lambda: 5,
            placed=placed_in(columns) if columns is not None else None,
            on_mismatch=lambda raw, what: self.said.append((raw, what)), on_unknown_code=self.said_code,
        )
        if compiled and columns is not None:
            self.bind(columns)
        self._compiled = compiled
        self.session = Session()
        self.lane = self._lanes[self.session] = _Lane()

    def said_code(self, code):
        self.said.append(code)

    def hear(self, frame):
        self._on_frame(self.session, frame)

    def state(self):
        return (
            self._replies.batch.to_bytes(), sorted(self.lane.pending), list(self.lane.doubted),
            msgspec.structs.asdict(self.stats), self.said, self.bans.count,
        )


def pair(owed, doubted=(), columns=None):
    """Two gateways that owe the same: the first may use the compiled reader."""
    made = []
    for compiled in (True, False):
        one = Quiet(compiled, columns)
        one.lane.wrote(1, b"".join(owed), array("I", range(len(owed))), 0)
        one.lane.doubted.update(dict.fromkeys(doubted))
        made.append(one)
    return made


class QuietStreams(FollowerStreams):
    """Without a loop: rows stay in the batch."""

    def __init__(self, compiled, columns=None):
        self.events = []
        super().__init__(
            rest=None, endpoints=Endpoints(), instruments=COARSE, contract=CONTRACT, clock=lambda: 1_000, site_tag=TAG,
            on_reports=lambda batch, ts: None, on_event=self.note, positions=False,
            is_known=(lambda raw: columns.order_slot(raw) is not None) if columns is not None else None,
        )
        if compiled and columns is not None:
            self.bind(columns)
        self._compiled = compiled
        member = _Member(9, KEY)
        member.listen_key = LISTEN
        self._by_key[LISTEN] = member
        self._events.listen(LISTEN, 9)

    def note(self, event):
        if not isinstance(event, facts.AccountPosition):  # the compiled reader tells of none: nobody wants to hear of them
            self.events.append(event)

    def _row(self):
        pass

    def hear(self, frame):
        self._on_frame(None, frame)

    def state(self):
        return self._events.batch.to_bytes(), msgspec.structs.asdict(self.stats), self.events


# --- frames ---------------------------------------------------------------------------------------------------------------
def result(n=1, /, **more):
    return {
        "orderId": 77, "symbol": "BTCUSDT", "status": "FILLED", "clientOrderId": cid(n).hex(), "price": "65000.1",
        "avgPrice": "65000.10", "origQty": "0.010", "executedQty": "0.010", "cumQty": "0.010", "cumQuote": "650.00100",
        "timeInForce": "IOC", "type": "LIMIT", "reduceOnly": False, "side": "BUY", "positionSide": "BOTH", "goodTillDate": 0,
        "updateTime": 1700000000123, **more,
    }  # fmt: skip


def reply(n=1, /, **more):
    return {"id": cid(n).hex(), "status": 200, "result": result(n, **more)}


def refusal(n=1, /, code=-2019, status=400, **more):
    return {"id": cid(n).hex(), "status": status, "error": {"code": code, "msg": "Margin is insufficient.", **more}}


def trade(n=1, /, x="TRADE", **more):
    return {"stream": LISTEN, "data": {"e": "ORDER_TRADE_UPDATE", "T": 1700000000123, "E": 1700000000124, "o": {
        "s": "BTCUSDT", "c": cid(n).hex(), "S": "BUY", "o": "LIMIT", "f": "IOC", "q": "0.010", "p": "65000.1", "ap": "65000.10",
        "sp": "0", "x": x, "X": "FILLED", "i": 77, "l": "0.010", "z": "0.010", "L": "65000.10", "N": "USDT", "n": "0.26000040",
        "T": 1700000000123, "t": 901, "b": "0", "a": "0", "m": False, "R": False, "wt": "CONTRACT_PRICE", "ot": "LIMIT",
        "ps": "BOTH", "cp": False, "rp": "0", "pP": False, "si": 0, "ss": 0, "V": "NONE", "pm": "NONE", "gtd": 0, **more,
    }}}  # fmt: skip


def execution(**more):
    """A frame of a leader's stream, which is nobody else's."""
    return trade(**more)["data"]


def account(reason="ORDER", wallets=None, positions=None):
    return {"stream": LISTEN, "data": {"e": "ACCOUNT_UPDATE", "T": 1700000000123, "E": 1700000000124, "a": {
        "m": reason,
        "B": [{"a": "USDT", "wb": "122624.12345678", "cw": "100.1", "bc": "0"}] if wallets is None else wallets,
        "P": [{"s": "BTCUSDT", "pa": "-0.020", "ep": "6563.6", "cr": "0", "up": "1", "mt": "isolated", "ps": "SHORT"}]
        if positions is None else positions,
    }}}  # fmt: skip


def lite(**more):
    return {"stream": LISTEN, "data": {
        "e": "TRADE_LITE", "E": 1, "T": 1, "s": "BTCUSDT", "q": "0.01", "p": "0", "m": False, "c": cid(1).hex(), "S": "BUY",
        "L": "1.0", "l": "0.001", "t": 5, "i": 8, **more}}  # fmt: skip


def dumps(value):
    return json.dumps(value, separators=(",", ":")).encode()


WORDS = st.sampled_from([
    "", "0", "0.0", "0.010", "0.0101", "0.005", "00.010", "1", "-0.010", "+1", ".5", "5.", "1e3", "0.3", "0.9", "1.20", "1.23",
    "65000.1", "65000.15", "999999.123456789012345", "1000000.5", "9223372036854775807", "92233720368.5", "123456789012345678",
    "BUY", "SELL", "BOTH", "LONG", "SHORT", "NEW", "PARTIALLY_FILLED", "FILLED", "CANCELED", "EXPIRED", "EXPIRED_IN_MATCH",
    "REJECTED", "NEW_ADL", "ODD", "TRADE", "CALCULATED", "AMENDMENT", "LIQUIDATION", "TRADE_LITE", "BTCUSDT", "ETHUSDT",
    "ODDUSDC", "DOGEUSDT", "USDT", "USDC", "BNB", "ORDER", "FUNDING_FEE", LISTEN, "other", cid(1).hex(), cid(2).hex(),
    cid(3).hex(), cid(4).hex(), cid(9).hex(), cid(1).hex().upper(), "web_1", "autoclose-1", TAG + " " * 28, 'a"b', "a\\b",
    "\u00e9", "\n", "\x7f", "Too many new orders; current limit is 300.", "e", "x",
])  # fmt: skip
NUMBERS = st.one_of(
    st.sampled_from([0, 1, -1, 77, 200, 400, 418, 429, 503, -1, -1003, -1021, -2019, -2022, -4116, -77777, 10**12, 1700000000123,
                     10**15, 2**31, 2**53, 2**62, 2**63, 2**64, 10**18, 10**25, 1.0, 1.5, 1e20, -0.0]),
    st.integers(-(2**70), 2**70),
)  # fmt: skip
VALUES = st.one_of(
    WORDS, NUMBERS, st.sampled_from([None, True, False, [], {}, [1], {"x": "NEW"}, {"e": "TRADE_LITE"}, [{"a": [1.5, None]}]]))
KEYS = st.sampled_from([
    "id", "status", "result", "error", "code", "msg", "data", "stream", "e", "E", "T", "o", "a", "orderId", "symbol", "side",
    "positionSide", "clientOrderId", "executedQty", "origQty", "avgPrice", "cumQuote", "updateTime", "rateLimits", "s", "c", "S",
    "X", "x", "i", "q", "z", "l", "L", "ap", "N", "n", "t", "m", "R", "ps", "ot", "rp", "f", "B", "P", "wb", "bc", "pa", "ep",
    "mt", "fs", "k\\u0061",
])  # fmt: skip


@st.composite
def written(draw, value, how):
    """JSON text of a value: as it is; "shuffled", with fields in any order and space anywhere; "odd": some of them changed,
    doubled, missing or new besides."""
    odd = how == "odd"
    space = st.sampled_from(["", "", "", " ", "\n\t "]) if how != "plain" else st.just("")
    if isinstance(value, dict):
        fields = list(value.items())
        if how != "plain" and not (fields[:1] and fields[0][0] == "e"):
            fields = draw(st.permutations(fields))
        if odd:
            change = draw(st.integers(0, 19))
            if change == 0 and fields:
                fields.pop(draw(st.integers(0, len(fields) - 1)))
            elif change == 1 and fields:
                at = draw(st.integers(0, len(fields) - 1))
                fields[at] = (fields[at][0], draw(VALUES))
            elif change == 2:
                fields.insert(draw(st.integers(0, len(fields))), (draw(KEYS), draw(VALUES)))
            elif change == 3 and fields:
                fields.append(draw(st.sampled_from(fields)))
        parts = [f"{draw(space)}{json.dumps(key)}{draw(space)}:{draw(written(item, how))}" for key, item in fields]
        return draw(space) + "{" + ",".join(parts) + draw(space) + "}"
    if isinstance(value, list):
        return "[" + ",".join([draw(written(item, how)) for item in value]) + "]"
    return draw(space) + json.dumps(value, ensure_ascii=draw(st.booleans()) if odd else True)


@st.composite
def frames(draw, bodies):
    """A frame of one of these bodies: as the venue writes it, unusual, or broken."""
    body = draw(bodies)
    how = draw(st.sampled_from(["plain", "shuffled", "shuffled", "odd", "odd", "odd", "cut", "tail", "byte", "byte"]))
    text = draw(written(body, how if how in ("shuffled", "odd") else "plain")).encode()
    if how == "tail":
        return text + draw(st.sampled_from([b" ", b"\n", b"x", b"}", b",", b"\x00", b"{}", text]))
    if how == "cut":
        return text[: draw(st.integers(0, len(text)))]
    if how == "byte":
        at = draw(st.integers(0, len(text) - 1))
        put = draw(st.one_of(st.binary(min_size=0, max_size=2), st.sampled_from([b'"', b"}", b",", b"\\", b"0", b"-", b"{}"])))
        return text[:at] + put + text[at + draw(st.integers(0, 2)) :]
    return text


IDS = st.integers(1, 5)
QUANTITIES = st.sampled_from(["0.010", "0.004", "0.007", "0.3", "0.6", "0.4", "0.05", "0", "0.000", "0.0100"])
PRICES = st.sampled_from(["65000.10", "65000.15", "1800.25", "0.00", "1800.333333333333"])
SYMBOLS = st.sampled_from(["BTCUSDT", "BTCUSDT", "ETHUSDT", "ODDUSDC"])
#: What was asked for under each id, and an answer that shows it.
FITTING = {
    1: {"symbol": "BTCUSDT", "side": "BUY", "positionSide": "BOTH", "origQty": "0.010"},
    2: {"symbol": "BTCUSDT", "side": "SELL", "positionSide": "LONG", "origQty": "0.006"},
    3: {"symbol": "ETHUSDT", "side": "SELL", "positionSide": "SHORT", "origQty": "0.05"},
    4: {"symbol": "ODDUSDC", "side": "BUY", "positionSide": "BOTH", "origQty": "0.6"},
    5: {"symbol": "BTCUSDT"},
}


def fitting(n, told, average, quote, status):
    """An answer about the order that was asked for; ``told``: how much of it filled."""
    fields = FITTING[n]
    done = {"all": fields.get("origQty", "0.010"), "none": "0"}.get(told, told)
    return reply(n, **fields, executedQty=done, avgPrice=average, cumQuote=quote, status=status)


def told_of(n, x, status, average, fee, asset):
    """An execution of one of our orders, in its own instrument."""
    symbol, quantity = FITTING[n]["symbol"], FITTING[n].get("origQty", "0.010")
    price = "1800.25" if symbol == "ETHUSDT" else "65000.10"
    return trade(
        n, s=symbol, x=x, X=status, z=quantity, l=quantity, L=price, ap=average, n=fee,
        N=asset or ("USDC" if symbol == "ODDUSDC" else "USDT"))


REPLIES = st.one_of(
    st.builds(
        fitting, IDS, st.sampled_from(["all", "all", "none", "0.3"]), PRICES,
        st.sampled_from(["650.00100", "0", "", "0.3333333333"]), st.sampled_from(sorted(codec.STATUS))),
    st.builds(refusal, IDS, st.sampled_from(sorted(REJECTS))),
    st.builds(
        reply, IDS, symbol=SYMBOLS, executedQty=QUANTITIES, origQty=QUANTITIES, avgPrice=PRICES,
        cumQuote=st.sampled_from(["650.00100", "0", "", "0.3333333333"]), side=st.sampled_from(["BUY", "SELL"]),
        positionSide=st.sampled_from(["BOTH", "LONG", "SHORT"]), status=st.sampled_from(sorted(codec.STATUS)),
    ),
    st.builds(
        refusal, IDS, st.sampled_from([-2019, -2022, -1003, -1015, -1021, -4116, -2013, -9999, 0, *REJECTS]),
        st.sampled_from([200, 400, 401, 418, 429, 499, 503])),
    st.builds(refusal, IDS, data=st.sampled_from([None, {"serverTime": 1, "retryAfter": 2}])),
    st.builds(reply, IDS),
)  # fmt: skip
EVENTS = st.one_of(
    st.builds(
        told_of, IDS, st.sampled_from(["TRADE", "TRADE", "CALCULATED", "EXPIRED"]), st.sampled_from(sorted(codec.STATUS)), PRICES,
        st.sampled_from(["0.26000040", "0", "-0.00100000", "0.123456789", None]), st.sampled_from(["", "", "", "BNB"])),
    st.builds(account, st.just("ORDER"), positions=st.just([])),
    st.builds(
        trade, IDS, x=st.sampled_from(["TRADE", "NEW", "CALCULATED", "EXPIRED", "CANCELED"]), s=SYMBOLS, z=QUANTITIES,
        l=QUANTITIES, L=PRICES, ap=PRICES, N=st.sampled_from(["USDT", "USDC", "BNB", None]),
        n=st.sampled_from(["0.26000040", "0", "-0.00100000", "0.123456789", None]), t=st.sampled_from([0, 1, 901, -1]),
        X=st.sampled_from(sorted(codec.STATUS)),
        c=st.sampled_from([cid(n).hex() for n in range(1, 6)] + ["web_1", "autoclose-1", "ab" * 16]),
    ),
    st.builds(trade, IDS),
    st.builds(
        account, st.sampled_from(["ORDER", "FUNDING_FEE", "DEPOSIT"]),
        st.lists(st.fixed_dictionaries({
            "a": st.sampled_from(["USDT", "USDC", "BNB"]), "wb": st.sampled_from(["100.12345678", "-3.5", "0", "1.123456789"]),
            "bc": st.just("1")}), max_size=3),
        st.lists(st.fixed_dictionaries({
            "s": SYMBOLS, "pa": st.sampled_from(["0.010", "-0.3", "0", "0.0001"]), "ps": st.sampled_from(["BOTH", "LONG", "UP"]),
            "ep": st.just("1")}), max_size=2),
    ),
    st.builds(lite),
)  # fmt: skip
EXECUTIONS = st.one_of(
    st.builds(execution, s=SYMBOLS, l=QUANTITIES, z=QUANTITIES, q=QUANTITIES, L=PRICES, S=st.sampled_from(["BUY", "SELL"]),
              ps=st.sampled_from(["BOTH", "LONG", "SHORT"]), m=st.booleans(), R=st.booleans(),
              rp=st.sampled_from(["0", "0.00", "-1.5", "12"]), t=st.sampled_from([901, 901, 0]),
              x=st.sampled_from(["TRADE", "TRADE", "CALCULATED", "EXPIRED", "NEW"])),
    st.builds(execution), st.builds(lambda: account()["data"]), st.builds(lambda: lite()["data"]),
)  # fmt: skip
PROPERTY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


# --- the property -----------------------------------------------------------------------------------------------------------
@PROPERTY
@given(
    st.lists(frames(REPLIES), min_size=1, max_size=3), st.sets(IDS), st.sampled_from([None, "known", "known", "unknown"]))
@example([dumps(reply())], {1}, "known")
@example([dumps(reply()), dumps(reply())], {1}, None)
@example([dumps(reply(updateTime=10**15))], {1}, None)
@example([dumps(refusal(code=10**12))], {1}, None)
@example([dumps(reply(avgPrice="999999.9", cumQuote="", executedQty="999999999.999"))], {1}, None)
def test_an_answer_makes_the_twins_row_or_is_left_to_it(heard, owed, known):
    """Whatever comes on the order socket, in whatever form: with the compiled reader nothing is told differently."""
    columns = None if known is None else tables() if known == "known" else Columns(4)
    fast, twin = pair([cid(n) for n in sorted(owed)], [cid(n) for n in range(1, 6) if n not in owed][:1], columns)
    for frame in heard:
        fast.hear(frame)
        twin.hear(frame)
        assert fast.state() == twin.state()


@PROPERTY
@given(st.lists(frames(EVENTS), min_size=1, max_size=3), st.sampled_from([None, "known", "known", "unknown"]))
@example([dumps(trade())], "known")
@example([dumps(trade(c=cid(9).hex()))], "known")
@example([dumps(trade(n="0.1", N="BNB"))], "known")
@example([dumps(account()), dumps(lite()), dumps(trade(x="NEW", t=0))], None)
@example([dumps({**trade(), "a": {"x": "NEW"}})], None)
@example([dumps(trade(i=2**63))], None)
@example([dumps(trade(e="TRADE_LITE"))], None)
@example([b'{"stream":"' + LISTEN.encode() + b'","data":{"e": "TRADE_LITE"}}'], None)
def test_an_event_makes_the_twins_rows_or_is_left_to_it(heard, known):
    """Whatever comes on a user stream, in whatever form: with the compiled reader nothing is told differently."""
    columns = None if known is None else tables() if known == "known" else Columns(4)
    fast, twin = QuietStreams(True, columns), QuietStreams(False, columns)
    for frame in heard:
        fast.hear(frame)
        twin.hear(frame)
        assert fast.state() == twin.state()


@PROPERTY
@given(frames(EXECUTIONS))
@example(dumps(execution(c="autoclose-1")))
@example(dumps(execution(o="LIQUIDATION")))
@example(dumps(execution(c="\u00e9")))
@example(dumps({**execution(), "o": None}))
def test_an_execution_of_the_leader_is_the_twins_or_is_left_to_it(frame):
    """Whatever comes on his stream: what is made at a glance is what the readable decoder makes."""
    made = known(Executions(Execution)).execution(frame, 5)
    if made is not None:
        event = codec.decode_user(frame)
        assert isinstance(event, codec.OrderTradeUpdate), event
        assert made == codec.execution(event, COARSE, 5, frame)


@pytest.mark.parametrize(
    "more", [{}, {"x": "CALCULATED"}, {"ps": "LONG", "R": True, "rp": "-1.20"}, {"ps": "SHORT", "S": "SELL", "m": True},
             {"s": "ODDUSDC", "l": "0.6", "z": "0.6", "q": "0.9", "L": "1.20"}, {"o": "MARKET", "rp": "0.00"}])  # fmt: skip
def test_the_common_executions_of_a_leader_are_read_at_a_glance(more):
    """The property would hold for a reader that reads nothing."""
    frame = dumps(execution(**more))
    made = known(Executions(Execution)).execution(frame, 5)
    assert made is not None
    assert made == codec.execution(codec.decode_user(frame), COARSE, 5, frame)


@pytest.mark.parametrize(
    "more", [{"c": "autoclose-1"}, {"c": "adl_autoclose"}, {"c": "settlement_autoclose-7"}, {"o": "LIQUIDATION"}, {"t": 0},
             {"l": "0"}, {"s": "DOGEUSDT"}, {"x": "EXPIRED"}, {"x": "NEW"}, {"L": "65000.15"}, {"ps": "UP"},
             {"S": "HOLD"}])  # fmt: skip
def test_what_takes_a_second_look_is_left_to_the_twin(more):
    """The venue's own closes, what has no id or quantity, what cannot be exact."""
    assert known(Executions(Execution)).execution(dumps(execution(**more)), 5) is None


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_whatever_raise_or_change_anything(noise):
    """A frame that is not accepted leaves rows and debts as they were; no bytes raise."""
    replies, events, pending = Replies(REJECTS), UserEvents(TAG), Pending()
    pending.add_many(cid(1), array("I", [0]))
    assert replies.reply(noise, pending) == 0 and events.event(noise) == 0
    assert Executions(Execution).execution(noise, 1) is None
    assert not replies.batch.count and not events.batch.count and list(pending) == [cid(1)]


# --- what it is for ------------------------------------------------------------------------------------------------------------
def reader():
    made = Replies(REJECTS)
    known(made)
    return made


def known(made, listed=COARSE):
    for item in listed:
        made.set_instrument(
            item.index, item.symbol, item.price_decimals, item.tick, item.qty_decimals, item.lot, item.margin_asset)
    return made


def owing(*ids):
    pending = Pending()
    pending.add_many(b"".join(ids), array("I", range(len(ids))))
    return pending


@pytest.mark.parametrize(
    "body", [reply(), reply(status="EXPIRED", executedQty="0"), reply(status="PARTIALLY_FILLED", executedQty="0.004"), refusal(),
             refusal(code=-2022)])  # fmt: skip
def test_the_common_answers_are_read_here(body):
    """The property would hold for a reader that accepts nothing: these must be accepted, in the order the venue writes them."""
    made, pending = reader(), owing(cid(1))
    made.columns = tables()
    assert made.reply(dumps(body), pending) == 1 and made.batch.count == 1 and len(pending) == 0
    assert made.replies + made.rejects == 1
    assert made.reply(dumps(body), pending) == 0, "it is owed no longer"


@pytest.mark.parametrize(
    ("body", "told"), [(trade(), 1), (trade(N=None, n=None), 1), (trade(x="EXPIRED", X="EXPIRED", t=0), 1), (account(), 1),
                       (account(positions=[]), 1), (lite(), 2), (trade(x="NEW", X="NEW", t=0), 2)])  # fmt: skip
def test_the_common_events_are_read_here(body, told):
    """As above, for the user stream."""
    made = known(UserEvents(TAG, False))
    made.columns = tables()
    made.listen(LISTEN, 9)
    assert made.event(dumps(body)) == told and made.batch.count == (told == 1)
    made.forget(LISTEN)
    assert made.event(dumps(body)) == (2 if told == 2 else 0)


@pytest.mark.parametrize(
    "body", [trade(c="ab" * 16), trade(c="web_1"), trade(c=cid(9).hex()), trade(l="0.0105"), trade(L="65000.15"), trade(N="BNB"),
             trade(4, s="ODDUSDC", N="USDC", L="1.20", l="0.4"), trade(4, s="ODDUSDC", N="USDC", L="1.23", l="0.3"),
             trade(s="DOGEUSDT"), trade(X="ODD"), {**trade(), "stream": "other"}, account("FUNDING_FEE"),
             account(positions=[{"s": "DOGEUSDT", "pa": "1"}]), account(positions=[{"s": "BTCUSDT", "pa": "1", "ps": "UP"}]),
             account(positions=[{"s": "BTCUSDT", "pa": "0.0005"}])])  # fmt: skip
def test_what_takes_more_than_a_row_is_left_to_the_twin(body):
    """Trades by hand, of orders nobody knows, in another asset's fee, off the lot or the tick; funding; symbols not ours."""
    made = known(UserEvents(TAG, False))
    made.columns = tables()
    made.listen(LISTEN, 9)
    assert made.event(dumps(body)) == 0 and made.batch.count == 0
    assert made.event(dumps(trade(4, s="ODDUSDC", N="USDC", L="1.20", l="0.3", z="0.3"))) == 1, "what fits is accepted"


@pytest.mark.parametrize(
    "more", [{"symbol": "ETHUSDT"}, {"side": "SELL"}, {"positionSide": "LONG"}, {"origQty": "0.011"}, {"origQty": "0.009"},
             {"clientOrderId": cid(2).hex()}, {"executedQty": "0.0101"}, {"status": "ODD"}, {"symbol": "NOPE"}])  # fmt: skip
def test_an_answer_that_shows_another_order_is_left_to_the_twin(more):
    """The comparisons with what was asked for are made here too: what does not fit is not accepted, and still owed."""
    made, pending = reader(), owing(cid(1))
    made.columns = tables()
    assert made.reply(dumps(reply(**more)), pending) == 0
    assert made.batch.count == 0 and cid(1) in pending


@pytest.mark.parametrize(
    ("old", "new"),
    [(b":77,", b":077,"), (b":77,", b":-0,"), (b":77,", b":+77,"), (b":77,", b":7.7,"), (b":77,", b":77e1,"),
     (b":77,", b":77 7,"), (b":77,", b":,"), (b":77,", b":true,"), (b":77,", b":9999999999999999999,"), (b"}}", b"}}x"),
     (b"}}", b"}},"), (b"}}", b"}}}"), (b"}}", b"},}"),
     (b"}}", b",}}"), (b"}}", b"}"), (b'"BUY"', b'"BUY'), (b'"BUY"', b'"B\x09Y"'), (b'"BUY"', b'"BU\\u0059"'),
     (b'"BUY"', b'"B\xc3\xbcY"'), (b'"BUY"', b'"B\x80Y"'), (b'"BUY"', b"BUY"), (b'"side":', b'"side"'), (b'"side":', b"side:"),
     (b":false,", b":False,"), (b":false,", b":nul,"), (b":false,", b":[1,],"), (b":false,", b':{"a"},'), (b":false,", b":01,"),
     (b":false,", b":1.,"), (b":false,", b":.5,"), (b":false,", b":-,"), (b":false,", b":" + b"[" * 9 + b"]" * 9 + b","),
     (b"}}", b',"zz":"\x80"}}'), (b"}}", b',"zz":"\x01"}}'),
     (b'"side":"BUY"', b'"side":"SELL","side":"BUY"'), (b'"status":200', b'"status":200,"status":200')],
)  # fmt: skip
def test_a_text_that_is_unusual_or_no_json_is_not_accepted(old, new):
    """Each of these has to be seen by the one pass over the bytes; the twin then says what it is."""
    whole = dumps(reply())
    made, pending = reader(), owing(cid(1))
    assert whole.count(old) == 1 and made.reply(whole.replace(old, new), pending) == 0
    assert made.reply(whole.replace(b":false,", b':[{"a":[-1.50,null,true,"x"]},{}],'), pending) == 1, "a value nobody reads"


def test_a_reduction_may_be_cut_and_another_order_in_the_slot_is_not_compared_with():
    """The slot is a hint: an order that has moved is found by its id; reduce-only orders are cut by the venue."""
    made, pending = reader(), Pending()
    made.columns = tables()
    pending.add_many(cid(2), array("I", [0]))
    body = reply(2, side="SELL", positionSide="LONG", origQty="0.006", executedQty="0.006")
    assert made.reply(dumps(body), pending) == 1


def test_rows_are_told_apart_as_they_were_one_by_one():
    """Fills that moved a quantity, doubts, ends told on another way, orders answered as alive."""
    batch = ReportBatch()
    batch.append(facts.TRADE, 4, cid(1), 10)
    batch.append(facts.TRADE, 4, cid(2), 0)
    batch.append(facts.IN_DOUBT, 0, cid(3))
    batch.append(facts.STREAM, 7, cid(4), 0)
    batch.append(facts.STREAM, 2, cid(5), 0)
    batch.append(facts.REPLY, 2, cid(6), 0)
    batch.append(facts.REPLY, 4, cid(7), 1)
    batch.append(facts.REJECT, 8, cid(8))
    batch.append_balance(3, 5, 6)
    assert tell_apart(batch, True) == (1, [cid(3)], [cid(4), cid(8)], [cid(6)])
    assert tell_apart(batch, False) == (1, [cid(3)], [], [cid(6)])


def test_rows_of_some_accounts_or_orders_are_found_in_their_order():
    """What an inference or a crossing waits for is looked for in bulk; rows without a quantity say nothing of a fill."""
    columns = tables()
    columns.extend(ACCOUNTS, 5)
    assert len(AccountRow.pack(AccountRow())) * 5 == len(columns.dump()[ACCOUNTS])
    batch = ReportBatch()
    for n, quantity in ((3, 1), (1, 2), (9, 3), (4, 0), (2, 4), (4, 5)):
        batch.append(facts.TRADE, 4, cid(n), quantity)
    batch.append_balance(3, 5, 6)
    rows = batch.to_bytes()

    def told(found):
        return [(row.cid, row.cum_qty) for row in ReportRow.unpack_all(found)]

    assert told(rows_of(columns, rows, {3})) == [(cid(1), 2), (cid(2), 4)]
    assert told(rows_of(columns, rows, {4, 77, -1})) == [(cid(3), 1), (cid(4), 5)]
    assert rows_of(columns, rows, set()) == b""
    assert told(rows_about(rows, [cid(9), cid(4)])) == [(cid(9), 3), (cid(4), 0), (cid(4), 5)]
    assert rows_about(rows, []) == b""


# --- what a lane owes --------------------------------------------------------------------------------------------------------
@settings(max_examples=100, deadline=None)
@given(st.lists(
    st.tuples(st.sampled_from(["add", "pop", "take", "any"]), st.lists(st.integers(0, 60), max_size=30)), max_size=30))
def test_what_is_owed_is_what_a_dict_would_hold(steps):
    """Adding, taking out and asking in any order, with ids that crowd in the table."""
    made, model = Pending(), {}
    for what, numbers in steps:
        ids = [bytes(8) + (n * 2**54).to_bytes(8, "little") for n in numbers]
        if what == "add":
            slots = array("I", [n + 1000 * len(model) for n in numbers])
            made.add_many(b"".join(ids), slots)
            model.update(zip(ids, slots, strict=True))
        elif what == "pop":
            for one in ids:
                assert made.pop(one) == model.pop(one, -1)
        elif what == "take":
            expected = [one for at, one in enumerate(ids) if one in model and one not in ids[:at]]
            assert made.take(b"".join(ids)) == b"".join(expected)
            for one in expected:
                del model[one]
        else:
            assert made.any_of(b"".join(ids)) == any(one in model for one in ids)
        if len(numbers) % 3 == 0:
            assert len(made) == len(model) and set(made) == set(model)
            assert all(one in made for one in model)
    assert set(made) == set(model)


def test_a_large_burst_is_entered_and_taken_out():
    """Ten thousand ids, some of them twice; other things than ids are in no table."""
    made = Pending()
    ids = [cid(n) for n in range(10_000)]
    made.add_many(b"".join(ids), array("I", range(10_000)))
    assert len(made) == 10_000 and made.pop(ids[7]) == 7 and made.pop(ids[7]) == -1
    assert made.take(b"".join(ids)) == b"".join(ids[:7] + ids[8:])
    assert len(made) == 0 and b"x" not in made and "x" not in made and made.pop(b"x") == -1
    with pytest.raises(ValueError, match="bytes of ids"):
        made.add_many(bytes(15), array("I", [1]))
