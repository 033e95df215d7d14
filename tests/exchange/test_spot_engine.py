"""The spot engine: against the plain oracle over random histories, and rule by rule."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from copyd._fast import sim_engine as E
from copyd.exchange.model import E8
from copyd.exchange.spot import BTCUSDT, FORGET_NS, SPOT_INSTRUMENTS, SpotEngine, SpotMakers

from .spot_oracle import BUY, FOK, GTC, GTX, IOC, LIMIT, MARKET, SELL, SpotOracle

STATUS = ["NEW", "PARTIALLY_FILLED", "FILLED", "CANCELED", "EXPIRED", "EXPIRED_IN_MATCH"]
CODES = {"notional": -4164, "would take": -5022, "balance": -2019}
SMALL = msgspec.structs.replace(
    BTCUSDT, tick_e8=E8 // 100, lot_e8=10_000, start_px=1_000, max_px=100_000, min_notional_e8=3_000_000, max_orders=10_000,
)  # fmt: skip
FEES = [(0, 0), (1_000, 1_000), (137, 751), (200, 10_000)]
DEPOSITS = [(3_000_000, 30 * E8), (1_000_000, 8 * E8), (500_000, 30 * E8), (0, 2 * E8)]

accounts = st.integers(0, 3)
sides = st.sampled_from([BUY, SELL])
prices = st.integers(993, 1_007)
sizes = st.integers(1, 90)
places = st.tuples(
    st.just("place"), accounts, sides, st.sampled_from([LIMIT] * 4 + [MARKET]), st.integers(0, 3), sizes, prices,
    st.integers(0, 3),
)  # fmt: skip
by_value = st.tuples(st.just("value"), accounts, sides, st.integers(1, 2_000_000_000), st.integers(0, 3))
cancels = st.tuples(st.just("cancel"), st.integers(0, 60))
histories = st.lists(st.one_of(places, places, places, places, by_value, cancels), min_size=5, max_size=60)


def random_history(seed: int, length: int) -> list[tuple]:
    """A long busy history: what hypothesis, which likes short and simple ones, seldom reaches."""
    rng = random.Random(seed)
    history: list[tuple] = []
    for _ in range(length):
        roll = rng.random()
        if roll < 0.1:
            history.append(("cancel", max(0, len(history) - rng.randint(1, 60))))
        elif roll < 0.16:
            history.append(("value", rng.randint(0, 3), rng.choice([1, -1]), rng.randint(1, 2_000_000_000), rng.randint(0, 3)))
        else:
            history.append(
                ("place", rng.randint(0, 3), rng.choice([1, -1]), rng.choice([0, 0, 0, 0, 1]), rng.randint(0, 3),
                 rng.randint(1, 60), rng.randint(996, 1_004), rng.randint(0, 3))
            )  # fmt: skip
    return history


@pytest.mark.parametrize("seed", range(20))
def test_engine_gives_what_the_plain_market_gives_over_long_histories(seed: int) -> None:
    """The comparison below, over 150 calls in a narrow price range where everything meets everything."""
    compare(random_history(seed, 150))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(histories)
def test_engine_gives_what_the_plain_market_gives(history: list[tuple]) -> None:
    """Same answers, executions in the same order, same orders and balances, and every asset conserved, after every call."""
    compare(history)


def fresh() -> tuple[SpotEngine, int]:
    engine = SpotEngine([SMALL])
    first = engine.n_accounts
    for (base, quote), (maker, taker) in zip(DEPOSITS, FEES, strict=True):
        account = engine.add_account(quote, maker_ppm=maker, taker_ppm=taker)
        if base:
            assert engine.transfer(account, base, 0, "BTC") == 0
    return engine, first


def compare(history: list[tuple]) -> None:
    engine, first = fresh()
    oracle = SpotOracle(SMALL.value_mul, SMALL.lot_e8, SMALL.start_px, SMALL.min_notional_e8, FEES, DEPOSITS)
    slots: list[int] = []
    for turn, step in enumerate(history):
        if step[0] == "cancel":
            if not slots:
                continue
            number = step[1] % len(slots)
            code = engine.cancel(first + oracle.entries[number].account, slots[number], turn)
            assert (code == 0) == oracle.cancel(number)
        else:
            if step[0] == "value":
                _, account, side, quote, stp = step
                kind, tif, qty, px = MARKET, IOC, 0, 0
            else:
                _, account, side, kind, tif, qty, px, stp = step
                quote = 0
            answer = engine.place(first + account, 0, side, kind, tif, qty, px, b"", turn, stp, quote)
            told = oracle.place(account, side, kind, tif, qty, px, quote, stp)
            if isinstance(told, str):
                assert answer == CODES[told], (turn, step)
                continue
            assert answer >= 0, (turn, step, answer)
            slots.append(answer)
        same(engine, oracle, first, slots)


def same(engine: SpotEngine, oracle: SpotOracle, first: int, slots: list[int]) -> None:
    for slot, entry in zip(slots, oracle.entries, strict=True):
        o = engine.order(slot)
        assert (o[5], o[12], o[13], o[14], o[15], STATUS[o[10]]) == (
            entry.side, entry.qty, entry.px, entry.cum, entry.value, entry.status)  # fmt: skip
    assert [(t[3], t[4], t[7] - first, t[12] - first, t[6] > 0) for t in engine.trades_after(-1, 10_000)] == [
        (t.px, t.qty, t.buyer, t.seller, t.buyer_takes) for t in oracle.trades
    ]
    for account in range(len(FEES)):
        (base, quote), (base_locked, quote_locked) = oracle.free(account), oracle.locked(account)
        assert engine.balance(first + account, "BTC") == (base, base_locked)
        assert engine.balance(first + account, "USDT") == (quote, quote_locked)
        assert min(base, quote, base_locked, quote_locked) >= 0
    conserved(engine)


def conserved(engine: SpotEngine) -> None:
    """Balances and fees are what was paid in, for every asset."""
    for index, asset in enumerate(engine.assets):
        held = sum(sum(engine.balance(account, asset)) for account in range(engine.n_accounts))
        assert held + engine.fees_e8[index] == engine.deposits_e8[index]


def kinds(engine: SpotEngine) -> list[int]:
    return [event[0] for event in engine.event_list()]


def market() -> tuple[SpotEngine, int, int]:
    """A market with 10 BTC offered at 60,000 and 10 wanted at 59,990, and a buyer with 100,000 USDT and 1 BTC."""
    engine = SpotEngine(SPOT_INSTRUMENTS)
    maker = engine.add_account(no_margin=True, maker_ppm=0, taker_ppm=0)
    buyer = engine.add_account(100_000 * E8, maker_ppm=1_000, taker_ppm=1_000)
    engine.transfer(buyer, E8, 0, "BTC")
    engine.place(maker, 0, SELL, LIMIT, GTC, 1_000_000, 6_000_000, b"a", 1)
    engine.place(maker, 0, BUY, LIMIT, GTC, 1_000_000, 5_999_000, b"b", 1)
    return engine, maker, buyer


def test_fees_are_taken_from_what_is_received() -> None:
    """0.1 % of a purchase of 0.5 BTC is 0.0005 BTC; of a sale worth 29,995 USDT it is 29.995 USDT."""
    engine, _, buyer = market()
    engine.place(buyer, 0, BUY, MARKET, IOC, 50_000, 0, b"c", 2)
    assert engine.balance(buyer, "BTC") == (E8 + E8 // 2 - E8 // 2_000, 0)
    assert engine.balance(buyer, "USDT") == (70_000 * E8, 0)
    engine.place(buyer, 0, SELL, MARKET, IOC, 50_000, 0, b"d", 3)
    assert engine.balance(buyer, "USDT") == (70_000 * E8 + 29_995 * E8 - 29_995 * E8 // 1_000, 0)
    assert [row[9] for row in engine.trades_of(buyer)] == [E8 // 2_000, 0]
    conserved(engine)


def test_a_market_order_by_value_spends_at_most_that_and_is_filled() -> None:
    """500 USDT at 60,000 buy 0.00833 BTC: whole lots; its quantity is what it came to and the last event says FILLED."""
    engine, _, buyer = market()
    slot = engine.place(buyer, 0, BUY, MARKET, IOC, 0, 0, b"c", 2, quote_e8=500 * E8)
    order = engine.order(slot)
    assert (order[12], order[14], STATUS[order[10]]) == (833, 833, "FILLED")
    assert order[15] <= 500 * E8 and engine.quote_order_e8(slot) == 500 * E8
    trades = [event for event in engine.event_list() if event[0] == E.EV_TRADE and event[1] == buyer]
    assert [event[6] for event in trades] == [E.STATUS_FILLED]


@pytest.mark.parametrize("qty, tif, status, cum", [
    (2_000_000, FOK, "EXPIRED", 0), (100, FOK, "FILLED", 100), (100, IOC, "FILLED", 100), (100, GTC, "FILLED", 100),
])  # fmt: skip
def test_time_in_force(qty: int, tif: int, status: str, cum: int) -> None:
    """Fill-or-kill takes all or nothing and is no refusal; what an IOC leaves expires and unlocks its money."""
    engine, maker, _ = market()
    rich = engine.add_account(10**9 * E8)
    order = engine.order(engine.place(rich, 0, BUY, LIMIT, tif, qty, 6_000_000, b"c", 2))
    assert (STATUS[order[10]], order[14]) == (status, cum)
    assert engine.balance(rich, "USDT")[1] == 0
    assert engine.cancel_all(maker, -1, 3) >= 1


def test_an_ioc_takes_what_there_is_and_expires() -> None:
    """12 BTC wanted, 10 offered: filled 10, EXPIRED, nothing locked, the better price given back."""
    engine, _, _ = market()
    rich = engine.add_account(10**6 * E8, taker_ppm=0)
    order = engine.order(engine.place(rich, 0, BUY, LIMIT, IOC, 1_200_000, 6_100_000, b"c", 2))
    assert (STATUS[order[10]], order[14]) == ("EXPIRED", 1_000_000)
    assert engine.balance(rich, "USDT") == (400_000 * E8, 0)


def test_an_open_order_locks_and_a_cancel_unlocks() -> None:
    """A buy locks its whole value, a sale its quantity; what is locked cannot be spent or withdrawn."""
    engine, _, buyer = market()
    buy = engine.place(buyer, 0, BUY, LIMIT, GTC, 100_000, 5_000_000, b"c", 2)
    sell = engine.place(buyer, 0, SELL, LIMIT, GTX, 100_000, 7_000_000, b"d", 2)
    assert engine.balance(buyer, "USDT") == (50_000 * E8, 50_000 * E8)
    assert engine.balance(buyer, "BTC") == (0, E8)
    assert engine.place(buyer, 0, SELL, MARKET, IOC, 100, 0, b"e", 3) == -2019
    assert engine.transfer(buyer, -60_000 * E8, 3) == -5013
    assert engine.open_orders(buyer) == [buy, sell]
    assert engine.cancel(buyer, buy, 4) == 0 and engine.cancel(buyer, buy, 4) == -2011
    assert kinds(engine)[0] == E.EV_CANCELED
    assert engine.balance(buyer, "USDT") == (100_000 * E8, 0)


def test_no_short_and_no_loan() -> None:
    """Nothing is sold that is not there and nothing bought that cannot be paid, by one unit of 1e-8."""
    engine = SpotEngine(SPOT_INSTRUMENTS)
    maker = engine.add_account(no_margin=True)
    engine.place(maker, 0, SELL, LIMIT, GTC, 1_000_000, 6_000_000, b"a", 1)
    poor = engine.add_account(600 * E8 - 1)
    assert engine.place(poor, 0, BUY, LIMIT, GTC, 1_000, 6_000_000, b"b", 2) == -2019
    assert engine.place(poor, 0, BUY, MARKET, IOC, 1_000, 0, b"c", 2) == -2019
    assert engine.place(poor, 0, SELL, LIMIT, GTC, 1_000, 6_000_000, b"d", 2) == -2019
    engine.transfer(poor, 1, 2)
    assert engine.place(poor, 0, BUY, LIMIT, GTC, 1_000, 6_000_000, b"b", 3) >= 0
    assert engine.n_rejects() == 3 and [row[4] for row in engine.rejects_after(-1)] == [-2019] * 3


@pytest.mark.parametrize("change, code", [
    ({"symbol": 9}, -1121), ({"side": 0}, -1117), ({"kind": 5}, -1116), ({"tif": 9}, -1115), ({"client": b"x" * 37}, -4015),
    ({"qty": 0}, -4003), ({"qty": 900_000_001}, -4005), ({"kind": MARKET, "px": 0, "qty": 12_000_001}, -4005), ({"px": 0}, -4001),
    ({"px": 100_000_001}, -4002), ({"px": 30_000_001}, -4016), ({"px": 1_199_999}, -4024), ({"qty": 8}, -4164),
    ({"tif": GTX, "px": 6_000_000}, -5022), ({"qty": 900_000}, -2019),
])  # fmt: skip
def test_refusals_change_nothing(change: dict, code: int) -> None:
    """Every filter has its code; balances, book and orders stay as they are."""
    engine, _, buyer = market()
    order = {"symbol": 0, "side": BUY, "kind": LIMIT, "tif": GTC, "qty": 1_000, "px": 5_990_000, "client": b"c", **change}
    before = (engine.balances(buyer), engine.depth(0), engine.n_orders())
    answer = engine.place(
        buyer, order["symbol"], order["side"], order["kind"], order["tif"], order["qty"], order["px"], order["client"], 2)
    assert answer == code
    assert (engine.balances(buyer), engine.depth(0), engine.n_orders()) == before


def test_client_ids_are_unique_among_open_orders_only() -> None:
    """While an order is open its id is refused; once it has ended the id may come again and names the later order."""
    engine, maker, buyer = market()
    first = engine.place(buyer, 0, BUY, LIMIT, GTC, 1_000, 5_000_000, b"same", 2)
    assert engine.place(buyer, 1, BUY, LIMIT, GTC, 1_000, 290_000, b"same", 3) == -4116
    assert engine.place(maker, 0, BUY, LIMIT, GTC, 1_000, 5_000_000, b"same", 3) >= 0  # another account's id
    engine.cancel(buyer, first, 4)
    second = engine.place(buyer, 0, BUY, MARKET, IOC, 1_000, 0, b"same", 5)
    third = engine.place(buyer, 0, BUY, MARKET, IOC, 1_000, 0, b"same", 6)
    assert second > first and third > second  # a resent request that had filled is a second order
    assert engine.find_client(buyer, 0, b"same", 7) == third
    assert engine.find_client(buyer, 1, b"same", 7) == -2013
    assert engine.find_order(buyer, 0, engine.order(first)[1], 7) == first
    assert engine.find_order(maker, 0, engine.order(first)[1], 7) == -2013


def test_what_ended_unfilled_is_forgotten_after_90_days() -> None:
    """Such an order answers -2026 then; one with an execution is found for ever."""
    engine, _, buyer = market()
    engine.cancel(buyer, engine.place(buyer, 0, BUY, LIMIT, GTC, 1_000, 5_000_000, b"gone", 2), 2)
    filled = engine.place(buyer, 0, BUY, MARKET, IOC, 1_000, 0, b"kept", 2)
    assert engine.find_client(buyer, 0, b"gone", 2 + FORGET_NS - 1) >= 0
    assert engine.find_client(buyer, 0, b"gone", 2 + FORGET_NS) == -2026
    assert engine.find_client(buyer, 0, b"kept", 2 + FORGET_NS) == filled


def test_events_tell_orders_trades_balances_and_the_best_price_in_this_order() -> None:
    """A market buy: NEW, TRADE, the public trade, both assets' balances, the best price."""
    engine, _, buyer = market()
    engine.place(buyer, 0, BUY, MARKET, IOC, 1_000, 0, b"c", 2)
    mine = [event for event in engine.event_list() if event[1] in (buyer, -1)]
    assert [event[0] for event in mine] == [
        E.EV_NEW, E.EV_TRADE, E.EV_PUBLIC_TRADE, E.EV_ACCOUNT, E.EV_ACCOUNT, E.EV_BOOK]  # fmt: skip
    changes = {engine.assets[event[3]]: (event[18], event[19], event[20]) for event in mine if event[0] == E.EV_ACCOUNT}
    assert changes["USDT"] == (99_400 * E8, 99_400 * E8, -600 * E8)
    assert changes["BTC"][2] == 10**6 - 10**3


def test_makers_send_the_same_for_the_same_seed_and_keep_a_book() -> None:
    """Two engines, one seed, equally many steps: one flow; another seed: another. Both sides stand after each step."""
    flows = []
    for seed in (7, 7, 8):
        engine = SpotEngine()
        makers = SpotMakers(engine, seed)
        for step in range(20):
            makers.step(step)
            for symbol in range(3):
                bid, bid_qty, ask, ask_qty = engine.top(symbol)
                assert 0 < bid < ask and bid_qty and ask_qty
        flows.append(makers.flow_hash())
        conserved(engine)
    assert flows[0] == flows[1] != flows[2]


def test_makers_quote_where_they_are_put() -> None:
    """A move of the middle is quoted with the next step, and the average price that filters use follows."""
    engine = SpotEngine()
    makers = SpotMakers(engine, 7)
    makers.step(1)
    makers.hold(0, 0)
    makers.move_to(0, 5_000_000)
    makers.step(2)
    bid, _, ask, _ = engine.top(0)
    assert bid < 5_000_000 < ask and engine.mark(0) == 5_000_000 == makers.mid(0)
    makers.shift(0, 10_000)
    makers.step(3)
    assert 5_049_000 < engine.mark(0) <= 5_050_000


@pytest.mark.parametrize("text, lots", [
    (b"0.01", 1_000), (b"1", 100_000), (b"0.01000000", 1_000), (b"1.", 100_000), (b".5", 50_000), (b"0.000001", -4023),
    (b"0.000000001", -1111), (b"0.0100000000", 1_000), (b"0", -4003), (b"-1", -4003), (b"", -1100), (b".", -1100),
    (b"1e3", -1100), (b"abc", -1100), (b"1,5", -1100), (b"9" * 30, -1100),
])  # fmt: skip
def test_texts_are_read_exactly(text: bytes, lots: int) -> None:
    """Lots of a decimal text; what is no number, too fine, off the step or not positive has its own refusal."""
    assert SpotEngine().parse_qty(0, text) == lots
