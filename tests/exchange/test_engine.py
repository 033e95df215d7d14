"""The simulated exchange's engine, rule by rule."""

from __future__ import annotations

import resource

import msgspec
import pytest

from copyd._fast import sim_engine as E
from copyd.exchange.makers import PROFILES, MakerProfile, start_makers
from copyd.exchange.model import BTCUSDT, E8, INSTRUMENTS, REFUSALS, fixed, refusal_text

BUY, SELL = E.SIDE_BUY, E.SIDE_SELL
LIMIT, MARKET = E.TYPE_LIMIT, E.TYPE_MARKET
GTC, IOC, FOK, GTX = E.TIF_GTC, E.TIF_IOC, E.TIF_FOK, E.TIF_GTX
BOTH, LONG, SHORT = E.POS_BOTH, E.POS_LONG, E.POS_SHORT
BTC, ETH, SOL = 0, 1, 2
DAY_NS = 86_400_000_000_000
KIND, ACCOUNT, SYMBOL, SLOT, SIDE, POS, STATUS, MAKER, REASON, TS, ORDER_ID, PX, QTY, TRADE_ID, CUM = range(15)


class World:
    """An engine, a deep quoting account, and one rich trader; each call one nanosecond later."""

    def __init__(self, balance_e8: int = 100_000 * E8, lots: int = 50_000) -> None:
        self.engine = E.Engine(INSTRUMENTS)
        self.maker = self.engine.add_account(no_margin=True, ephemeral=True, maker_ppm=0, taker_ppm=0)
        self.account = self.engine.add_account(balance_e8)
        self.now = 0
        for symbol, spec in enumerate(INSTRUMENTS):
            step = spec.start_px // 10_000 or 1
            for level in range(1, 11):
                for side in (BUY, SELL):
                    self.place(side, qty=lots, px=spec.start_px - side * level * step, account=self.maker, symbol=symbol)

    def place(
        self, side: int = BUY, kind: int = LIMIT, tif: int = GTC, qty: int = 10, px: int = 600_000, *, account: int = -1,
        symbol: int = BTC, reduce_only: bool = False, close: bool = False, leg: int = BOTH, client: bytes = b"",
        stp: int = E.STP_EXPIRE_MAKER,
    ) -> int:  # fmt: skip
        self.now += 1
        account = self.account if account < 0 else account
        return self.engine.place(
            account, symbol, side, kind, tif, qty, px, reduce_only, close, leg, client, self.now, stp
        )  # fmt: skip

    def held(self, leg: int = BOTH, symbol: int = BTC, account: int = -1) -> int:
        return self.engine.position(self.account if account < 0 else account, symbol, leg)[0]

    def kinds(self, account: int | None = None) -> list[int]:
        return [e[KIND] for e in self.engine.event_list() if account is None or e[ACCOUNT] == account]


@pytest.fixture
def world() -> World:
    return World()


# ---- refusals ------------------------------------------------------------------------------------------------------------

REFUSED: list[tuple[str, int, dict]] = [
    ("symbol that does not exist", -1121, {"symbol": 9}),
    ("side that does not exist", -1117, {"side": 0}),
    ("type that does not exist", -1116, {"kind": 7}),
    ("time in force that does not exist", -1115, {"tif": 9}),
    ("client id with a character outside the venue's set", -4015, {"client": b"no spaces"}),
    ("client id of 37 characters", -4015, {"client": b"a" * 37}),
    ("hedge leg in one-way mode", -4061, {"leg": LONG}),
    ("no quantity", -4003, {"qty": 0}),
    ("negative quantity", -4003, {"qty": -5}),
    ("limit order above the largest quantity", -4005, {"qty": 1_000_001}),
    ("market order above its own largest quantity", -4005, {"kind": MARKET, "qty": 120_001}),
    ("no price", -4001, {"px": 0}),
    ("price below the smallest", -4013, {"px": 5_567}),
    ("price above the largest", -4002, {"px": 45_297_641}),
    ("buy above 1.05 of the mark", -4016, {"px": 630_001}),
    ("sell below 0.95 of the mark", -4024, {"side": SELL, "px": 569_999}),
    ("reduce-only without a position", -2022, {"reduce_only": True}),
    ("close-position without a position", -2022, {"close": True}),
    ("notional below 50", -4164, {"qty": 1, "px": 480_000, "side": BUY}),
    ("position above the bracket of the leverage", -2027, {"qty": 20_000_000, "px": 15_000, "symbol": SOL}),
    ("margin that is not there", -2019, {"qty": 40_000, "px": 600_000}),
    ("post-only that would take", -5022, {"tif": GTX, "px": 600_060}),
    ("fill-or-kill larger than what is there", -5021, {"tif": FOK, "px": 600_060, "qty": 50_001}),
]


@pytest.mark.parametrize(("rule", "code", "change"), REFUSED, ids=[r[0] for r in REFUSED])
def test_refused_order_gets_the_venues_code_and_changes_nothing(rule: str, code: int, change: dict) -> None:
    """An order that breaks one rule is refused with that rule's code; no order, no event, but a line in the refusal log."""
    world = World(balance_e8=(10**9 if code in (-2027, -5021) else 100_000) * E8)
    before = world.engine.n_orders()
    assert world.place(**change) == code
    assert world.engine.n_orders() == before
    assert world.engine.event_list() == []
    index, ts, account, _, logged, *_ = world.engine.rejects_after(-1)[-1]
    assert (index, ts, account, logged) == (0, world.now, world.account, code)
    assert code in REFUSALS


def test_bounds_themselves_are_allowed(world: World) -> None:
    """The filters are inclusive: the band's edge, the smallest notional."""
    assert world.place(px=630_000, tif=IOC) >= 0
    assert world.place(side=SELL, px=570_000, tif=IOC) >= 0
    assert world.place(qty=1, px=570_000) >= 0  # worth 57


def test_message_names_the_bound(world: World) -> None:
    assert world.place(px=640_000) == -4016
    text = refusal_text(-4016, BTCUSDT, world.engine.reject_value)
    assert text == "Limit price can't be higher than 63000.00."
    assert refusal_text(-4164, BTCUSDT) == "Order's notional must be no smaller than 50 (unless you choose reduce only)."


def test_quantity_below_the_smallest() -> None:
    spec = msgspec.structs.replace(BTCUSDT, min_qty=5)
    engine = E.Engine([spec])
    account = engine.add_account(1000 * E8)
    assert engine.place(account, 0, BUY, LIMIT, GTC, 4, 600_000, False, False, BOTH, b"", 1) == -4004


def test_market_order_needs_a_counterparty_within_the_band(world: World) -> None:
    """-4131: an empty side, or a best price outside PERCENT_PRICE."""
    world.engine.cancel_all(world.maker, BTC, 1)
    assert world.place(kind=MARKET, px=0) == -4131
    assert world.place(side=SELL, qty=10, px=640_000, account=world.maker) >= 0
    assert world.place(kind=MARKET, px=0) == -4131


def test_market_order_stops_at_its_bound_and_the_rest_expires(world: World) -> None:
    world.engine.cancel_all(world.maker, BTC, 1)
    world.place(side=SELL, qty=10, px=628_900, account=world.maker)
    world.engine.set_mark(BTC, 599_000, 2)
    world.place(side=SELL, qty=10, px=629_000, account=world.maker)  # beyond 5 % of the mark
    slot = world.place(kind=MARKET, qty=15, px=0)
    row = world.engine.order(slot)
    assert (row[10], row[12], row[14]) == (E.STATUS_EXPIRED, 15, 10)


def test_open_orders_are_limited_per_symbol() -> None:
    world = World(balance_e8=10**9 * E8)
    for _ in range(200):
        assert world.place(px=590_000, qty=1) >= 0
    assert world.place(px=590_000, qty=1) == -2025
    assert world.place(px=600_060, qty=1, tif=IOC) >= 0  # it cannot stay open
    assert world.place(symbol=ETH, px=299_000, qty=10) >= 0


def test_client_id_is_unique_among_open_orders_only(world: World) -> None:
    """-4116 while the first is open; a finished order's id may be used again and executes again; lookup finds the latest."""
    first = world.place(px=590_000, client=b"again")
    assert world.place(px=590_000, client=b"again") == -4116
    assert world.engine.cancel(world.account, first, 9) == 0
    second = world.place(tif=IOC, px=600_060, client=b"again")
    third = world.place(tif=IOC, px=600_060, client=b"again")
    assert len({first, second, third}) == 3
    assert world.held() == 20
    assert world.engine.find_client(world.account, BTC, b"again", world.now) == third
    assert world.engine.find_order(world.account, BTC, world.engine.order(first)[1], world.now) == first
    assert [r[4] for r in world.engine.orders_after(-1)] == [b"again"] * 3  # the truth keeps all three
    other = world.engine.add_account(1000 * E8)
    assert world.place(px=590_000, client=b"again", account=other) >= 0


def test_order_without_client_id_gets_one(world: World) -> None:
    a, b = world.place(px=590_000), world.place(px=590_000)
    ids = {world.engine.order(s)[4] for s in (a, b)}
    assert len(ids) == 2
    assert all(len(i) == 22 and i.isalnum() for i in ids)


def test_unfilled_order_is_not_found_three_days_after_it_was_cancelled(world: World) -> None:
    """-2013 then; a filled one is found for 90 days; an open one always; the truth log keeps all."""
    gone = world.place(px=590_000, client=b"gone")
    world.engine.cancel(world.account, gone, world.now)
    filled = world.place(px=600_060, tif=IOC, client=b"filled")
    still = world.place(px=590_000, client=b"open")

    def found(client: bytes, days: int) -> int:
        return world.engine.find_client(world.account, BTC, client, world.now + days * DAY_NS)

    assert found(b"gone", 2) == gone
    assert found(b"gone", 4) == -2013
    assert world.engine.find_order(world.account, BTC, E.ORDER_ID_BASE + gone, world.now + 4 * DAY_NS) == -2013
    assert found(b"filled", 80) == filled
    assert found(b"filled", 91) == -2013
    assert found(b"open", 400) == still
    assert len(world.engine.orders_after(-1)) == 3
    assert world.engine.find_order(world.account, ETH, E.ORDER_ID_BASE + filled, world.now) == -2013


def test_cancel_of_what_is_not_open(world: World) -> None:
    slot = world.place(px=590_000)
    other = world.engine.add_account(1)
    assert world.engine.cancel(other, slot, 1) == -2011
    assert world.engine.cancel(world.account, slot, 1) == 0
    assert world.engine.cancel(world.account, slot, 1) == -2011
    assert world.engine.cancel(world.account, 10**6, 1) == -2011
    assert world.engine.cancel(world.account, -1, 1) == -2011


# ---- matching ------------------------------------------------------------------------------------------------------------


def test_events_of_a_partial_fill_tell_both_sides() -> None:
    """NEW, one TRADE for each side and one public one per execution, EXPIRED for the rest, then balances; book last."""
    engine = E.Engine([BTCUSDT])
    maker, taker = engine.add_account(10_000 * E8), engine.add_account(10_000 * E8)
    resting = engine.place(maker, 0, SELL, LIMIT, GTC, 3, 600_000, False, False, BOTH, b"rest", 5)
    slot = engine.place(taker, 0, BUY, LIMIT, IOC, 5, 600_100, False, False, BOTH, b"take", 6)
    events = engine.event_list()
    assert [(e[KIND], e[ACCOUNT]) for e in events] == [
        (E.EV_NEW, taker),
        (E.EV_PUBLIC_TRADE, -1),
        (E.EV_TRADE, taker),
        (E.EV_TRADE, maker),
        (E.EV_ACCOUNT, maker),
        (E.EV_EXPIRED, taker),
        (E.EV_ACCOUNT, taker),
        (E.EV_BOOK, -1),
    ]
    own, theirs = events[2], events[3]
    assert (own[SLOT], own[STATUS], own[MAKER], own[PX], own[QTY], own[TRADE_ID], own[CUM]) == (
        slot, E.STATUS_PARTIALLY_FILLED, 0, 600_000, 3, 1, 3,
    )  # fmt: skip
    assert (theirs[SLOT], theirs[STATUS], theirs[MAKER]) == (resting, E.STATUS_FILLED, 1)
    value = 3 * 600_000 * 10_000
    assert (own[16], theirs[16]) == (value * 500 // 10**6, value * 200 // 10**6)
    balance = events[6]
    assert balance[18] == 10_000 * E8 - own[16]
    assert (balance[QTY], balance[15]) == (3, value)
    assert engine.trades_of(taker) == engine.trades_of(maker) == engine.trades_after(-1)


def test_modify_keeps_the_place_in_the_queue_only_when_it_shrinks() -> None:
    engine = E.Engine([BTCUSDT])
    accounts = [engine.add_account(100_000 * E8) for _ in range(4)]
    slots = [engine.place(a, 0, SELL, LIMIT, GTC, 10, 600_000, False, False, BOTH, b"", 1) for a in accounts[:3]]
    assert engine.modify(accounts[0], slots[0], 5, 600_000, 2) == 0  # keeps its turn
    assert engine.modify(accounts[1], slots[1], 11, 600_000, 2) == 0  # goes behind the third
    assert engine.modify(accounts[1], slots[1], 11, 600_000, 2) == -5027
    engine.place(accounts[3], 0, BUY, MARKET, GTC, 20, 0, False, False, BOTH, b"", 3)
    sellers = [(t[12], t[4]) for t in engine.trades_after(-1)]
    assert sellers == [(accounts[0], 5), (accounts[2], 10), (accounts[1], 5)]
    assert engine.modify(accounts[1], slots[1], 5, 600_000, 4) == 0  # not more than it has executed: cancelled
    assert engine.order(slots[1])[10] == E.STATUS_CANCELED
    assert engine.modify(accounts[1], slots[1], 5, 600_000, 4) == -2013


def test_modify_that_crosses_takes_and_keeps_what_it_had() -> None:
    """A new price through the other side executes at once as taker; executed quantity stays booked; GTX is cancelled."""
    engine = E.Engine([BTCUSDT])
    a, b = engine.add_account(100_000 * E8), engine.add_account(100_000 * E8)
    engine.place(a, 0, SELL, LIMIT, GTC, 4, 600_000, False, False, BOTH, b"", 1)
    slot = engine.place(b, 0, BUY, LIMIT, GTC, 10, 599_000, False, False, BOTH, b"", 2)
    post = engine.place(b, 0, BUY, LIMIT, GTX, 10, 599_000, False, False, BOTH, b"", 2)
    assert engine.modify(b, post, 10, 600_000, 3) == 0
    assert engine.order(post)[10] == E.STATUS_CANCELED
    assert engine.modify(b, slot, 10, 600_500, 3) == 0
    row = engine.order(slot)
    assert (row[10], row[12], row[13], row[14]) == (E.STATUS_PARTIALLY_FILLED, 10, 600_500, 4)
    assert [e[KIND] for e in engine.event_list() if e[ACCOUNT] == b] == [E.EV_AMENDED, E.EV_TRADE, E.EV_ACCOUNT]
    assert engine.modify(b, slot, 10, 700_000, 4) == -4016
    assert engine.order(slot)[13] == 600_500
    assert engine.top(0) == (600_500, 6, 0, 0)


def test_depth_changes_rebuild_the_book(world: World) -> None:
    """A snapshot plus every drained change is the book."""
    engine = world.engine
    engine.watch_depth(BTC)
    _, bids, asks = engine.depth(BTC, 1000)
    book = {BUY: dict(bids), SELL: dict(asks)}
    for turn in range(300):
        world.place(side=BUY if turn % 2 else SELL, tif=IOC if turn % 3 else GTC, qty=700,
                    px=600_000 + (turn * 37) % 500 - 250, account=world.maker)  # fmt: skip
        if turn % 50 == 49:
            _, new_bids, new_asks = engine.drain_depth(BTC)
            for side, rows in ((BUY, new_bids), (SELL, new_asks)):
                for px, qty in rows:
                    book[side][px] = qty
                    if not qty:
                        del book[side][px]
            _, bids, asks = engine.depth(BTC, 1000)
            assert book == {BUY: dict(bids), SELL: dict(asks)}


# ---- positions, modes, margin ----------------------------------------------------------------------------------------------


def test_reduce_only_is_capped_by_the_position(world: World) -> None:
    world.place(qty=10, px=600_060)
    slot = world.place(side=SELL, kind=MARKET, qty=50, px=0, reduce_only=True)
    assert world.engine.order(slot)[12:15:2] == (10, 10)
    assert world.held() == 0
    world.place(qty=10, px=600_060)
    assert world.place(side=BUY, kind=MARKET, qty=1, px=0, reduce_only=True) == -2022
    world.place(side=SELL, close=True, kind=MARKET, qty=0, px=0)
    assert world.held() == 0


def test_resting_reduce_only_expires_with_the_position(world: World) -> None:
    world.place(qty=10, px=600_060)
    slot = world.place(side=SELL, qty=10, px=610_000, reduce_only=True)
    world.place(side=SELL, kind=MARKET, qty=10, px=0)
    assert world.engine.order(slot)[10] == E.STATUS_EXPIRED
    assert E.EV_EXPIRED in world.kinds(world.account)


def test_reduce_only_needs_no_notional_and_no_margin() -> None:
    world = World(balance_e8=60 * E8)
    assert world.place(qty=15, px=600_060) >= 0  # 900 USDT of position on 60 USDT at 20x
    assert world.place(side=SELL, qty=1, px=580_000, tif=IOC, reduce_only=True) >= 0
    sol = world.place(symbol=SOL, qty=3, px=15_010)
    assert sol == -4164  # 4.5 USDT


def test_position_goes_through_zero_in_one_way_mode(world: World) -> None:
    world.place(qty=10, px=600_060)
    world.place(side=SELL, kind=MARKET, qty=25, px=0)
    qty, cost, _, realised, *_ = world.engine.position(world.account, BTC, BOTH)
    assert qty == -15
    assert cost == -15 * 599_940 * 10_000
    assert realised == 10 * (599_940 - 600_060) * 10_000


def test_hedge_mode_keeps_two_legs(world: World) -> None:
    engine = world.engine
    assert engine.set_position_mode(world.account, True, 1) == 0
    assert world.place(qty=10, px=600_060) == -4061
    assert world.place(qty=10, px=600_060, leg=LONG, reduce_only=True) == -1106
    world.place(qty=10, px=600_060, leg=LONG)
    world.place(side=SELL, kind=MARKET, qty=4, px=0, leg=SHORT)
    assert (world.held(LONG), world.held(SHORT), world.held(BOTH)) == (10, -4, 0)
    assert world.place(side=SELL, kind=MARKET, qty=11, px=0, leg=LONG) == -2022
    world.place(side=SELL, kind=MARKET, qty=10, px=0, leg=LONG)
    assert world.place(side=SELL, kind=MARKET, qty=1, px=0, leg=LONG) == -2022
    assert (world.held(LONG), world.held(SHORT)) == (0, -4)


def test_position_mode_changes_only_when_nothing_is_open(world: World) -> None:
    engine, me = world.engine, world.account
    assert engine.set_position_mode(me, False, 1) == -4059
    slot = world.place(px=590_000)
    assert engine.set_position_mode(me, True, 1) == -4067
    engine.cancel(me, slot, 1)
    world.place(px=600_060)
    assert engine.set_position_mode(me, True, 1) == -4068
    world.place(side=SELL, kind=MARKET, px=0)
    assert engine.set_position_mode(me, True, 1) == 0
    assert engine.is_hedge(me)


def test_margin_type_changes_only_when_nothing_is_open(world: World) -> None:
    engine, me = world.engine, world.account
    assert engine.set_margin_type(me, BTC, E.MARGIN_CROSSED, 1) == -4046
    slot = world.place(px=590_000)
    assert engine.set_margin_type(me, BTC, E.MARGIN_ISOLATED, 1) == -4047
    assert engine.set_margin_type(me, ETH, E.MARGIN_ISOLATED, 1) == 0
    engine.cancel(me, slot, 1)
    world.place(px=600_060)
    assert engine.set_margin_type(me, BTC, E.MARGIN_ISOLATED, 1) == -4048


def test_leverage_obeys_the_brackets() -> None:
    world = World(balance_e8=10_000_000 * E8)
    engine, me = world.engine, world.account
    assert engine.set_leverage(me, BTC, 126, 1) == -4028
    assert engine.set_leverage(me, BTC, 0, 1) == -4028
    assert engine.set_leverage(me, BTC, 125, 1) == 0
    assert world.kinds() == [E.EV_LEVERAGE]
    assert engine.max_notional_e8(BTC, 125) == 50_000 * E8
    assert engine.account_config(me, BTC)[0] == 125
    assert world.place(qty=834, px=600_060, tif=IOC) == -2027  # 50,044 USDT
    assert world.place(qty=800, px=600_060, tif=IOC) >= 0
    assert engine.set_leverage(me, BTC, 20, 1) == 0
    assert world.place(qty=40_000, px=600_060, tif=IOC) >= 0
    assert engine.set_leverage(me, BTC, 125, 1) == -2027


def test_leverage_cannot_fall_below_what_the_balance_carries() -> None:
    world = World(balance_e8=100 * E8)
    assert world.place(qty=30, px=600_060, tif=IOC) >= 0  # 1,800 USDT at 20x
    assert world.engine.set_leverage(world.account, BTC, 10, 1) == -2028
    assert world.engine.account_config(world.account, BTC)[0] == 20
    world = World(balance_e8=1_000 * E8)
    world.engine.set_margin_type(world.account, BTC, E.MARGIN_ISOLATED, 1)
    world.place(qty=30, px=600_060, tif=IOC)
    assert world.engine.set_leverage(world.account, BTC, 10, 1) == -4161
    assert world.engine.set_leverage(world.account, BTC, 30, 1) == 0


def test_open_orders_hold_margin_on_the_larger_side_only(world: World) -> None:
    """One-way: initial margin of position and orders is that of the larger side; cancelling gives it back."""
    engine, me = world.engine, world.account
    buy = world.place(qty=10, px=590_000)
    assert engine.account_state(me)[5] == 10 * 590_000 * 10_000 // 20
    world.place(side=SELL, qty=5, px=620_000)
    assert engine.account_state(me)[5] == 10 * 590_000 * 10_000 // 20
    engine.cancel(me, buy, 1)
    assert engine.account_state(me)[5] == 5 * 620_000 * 10_000 // 20
    engine.cancel_all(me, -1, 2)
    assert engine.account_state(me)[5] == 0
    assert engine.account_state(me)[8] == 100_000 * E8


def test_isolated_margin_follows_the_position(world: World) -> None:
    engine, me = world.engine, world.account
    engine.set_margin_type(me, BTC, E.MARGIN_ISOLATED, 1)
    world.place(qty=20, px=600_060)
    assert engine.position(me, BTC, BOTH)[2] == 20 * 600_060 * 10_000 // 20
    wallet, cross, *_ = engine.account_state(me)
    assert wallet - cross == engine.position(me, BTC, BOTH)[2]
    world.place(side=SELL, kind=MARKET, qty=15, px=0)
    assert engine.position(me, BTC, BOTH)[2] == 5 * 600_060 * 10_000 // 20
    assert engine.move_isolated_margin(me, BTC, BOTH, 50 * E8, 3) == 0
    assert engine.move_isolated_margin(me, BTC, BOTH, -51 * E8, 3) == -4051
    assert engine.move_isolated_margin(me, BTC, BOTH, -49 * E8, 3) == 0
    assert engine.move_isolated_margin(me, ETH, BOTH, E8, 3) == -4054
    assert engine.move_isolated_margin(me, BTC, BOTH, 10**9 * E8, 3) == -4050
    world.place(side=SELL, kind=MARKET, qty=5, px=0)
    wallet, cross, *_ = engine.account_state(me)
    assert wallet == cross


def test_withdrawal_is_limited_to_what_is_available(world: World) -> None:
    assert world.engine.transfer(world.account, -100_001 * E8, 1) == -5013
    assert world.engine.transfer(world.account, -100_000 * E8, 1) == 0
    assert world.engine.account_state(world.account)[0] == 0
    assert [row[4] for row in world.engine.incomes_of(world.account)] == [E.REASON_DEPOSIT, E.REASON_WITHDRAW]


def test_funding_goes_from_longs_to_shorts(world: World) -> None:
    engine, me = world.engine, world.account
    other = engine.add_account(100_000 * E8)
    world.place(qty=10, px=600_060)
    world.place(side=SELL, kind=MARKET, qty=10, px=0, account=other)
    before = engine.account_state(me)[0], engine.account_state(other)[0]
    assert engine.apply_funding(BTC, 10_000, 50) == 2 + (engine.position(world.maker, BTC, BOTH)[0] != 0)
    pay = 10 * 600_000 * 10_000 // 10_000  # 0.01 % of 6,000 USDT
    assert engine.account_state(me)[0] == before[0] - pay
    assert engine.account_state(other)[0] == before[1] + pay
    assert {e[REASON] for e in engine.event_list() if e[KIND] == E.EV_ACCOUNT} == {E.REASON_FUNDING_FEE}


# ---- liquidation -----------------------------------------------------------------------------------------------------------


def test_crossed_account_is_liquidated_in_the_book_first() -> None:
    """Below maintenance: open orders cancelled, an autoclose IOC at the bankruptcy price, what is left minus the fee kept."""
    world = World(balance_e8=100 * E8)
    engine, me = world.engine, world.account
    assert world.place(qty=30, px=600_060) >= 0  # 1,800 USDT
    resting = world.place(side=SELL, qty=10, px=620_000)
    estimate = engine.position(me, BTC, BOTH)[6]
    assert 565_000 < estimate < 590_000
    engine.cancel_all(world.maker, BTC, 1)
    world.place(side=BUY, qty=1000, px=571_900, account=world.maker)
    assert engine.set_mark(BTC, estimate + 10, 100) == 0
    assert engine.set_mark(BTC, estimate - 10, 101) == 1
    assert world.held() == 0
    assert engine.order(resting)[10] == E.STATUS_CANCELED
    row = engine.order(engine.orders_of(me)[-1])
    assert row[4].startswith(b"autoclose-")
    assert row[10] == E.STATUS_FILLED
    assert row[11] & E.FLAG_LIQUIDATION
    assert engine.trades_after(-1)[-1][7] in (world.maker, E.INSURANCE_ACCOUNT)
    assert 0 <= engine.account_state(me)[0] < 10 * E8
    wallets, fees, residue, deposits = engine.totals()
    assert wallets + fees + residue == deposits


def test_insurance_fund_takes_what_the_book_does_not() -> None:
    world = World(balance_e8=100 * E8)
    engine, me = world.engine, world.account
    world.place(qty=30, px=600_060)
    engine.cancel_all(world.maker, BTC, 1)
    fund = engine.account_state(E.INSURANCE_ACCOUNT)[0]
    assert engine.set_mark(BTC, 500_000, 9) == 1  # a gap far beyond bankruptcy, and nobody bids
    assert world.held() == 0
    assert world.held(account=E.INSURANCE_ACCOUNT) == 30
    assert engine.account_state(me)[0] == 0  # never below zero: the fund covers the fee too
    assert engine.account_state(E.INSURANCE_ACCOUNT)[0] < fund
    assert engine.incomes_of(me)[-1][4] == E.REASON_INSURANCE_CLEAR


def test_spent_fund_deleverages_the_best_placed_position() -> None:
    """ADL: with nothing in the book and the fund below zero, the most profitable opposite position is closed."""
    engine = E.Engine([BTCUSDT], insurance_e8=0)
    long, rich, poor = (engine.add_account(100 * E8) for _ in range(3))
    for account, px in ((rich, 600_100), (poor, 600_000)):
        engine.place(account, 0, SELL, LIMIT, GTC, 15, px, False, False, BOTH, b"", 1)
    engine.place(long, 0, BUY, LIMIT, GTC, 30, 600_100, False, False, BOTH, b"", 2)
    engine.transfer(E.INSURANCE_ACCOUNT, -E8, 3)
    assert engine.set_mark(0, 500_000, 4) == 1
    row = engine.order(engine.orders_of(rich)[-1])
    assert (row[4], row[10]) == (b"adl_autoclose", E.STATUS_FILLED)
    assert engine.position(rich, 0, BOTH)[0] == engine.position(poor, 0, BOTH)[0] == 0
    assert engine.position(E.INSURANCE_ACCOUNT, 0, BOTH)[0] == 0
    sellers = [t[7] for t in engine.trades_of(long) if t[12] == long]
    assert sellers == [rich, poor]  # the better price is the better profit


def test_isolated_loss_stops_at_the_isolated_wallet() -> None:
    world = World(balance_e8=1_000 * E8)
    engine, me = world.engine, world.account
    engine.set_margin_type(me, BTC, E.MARGIN_ISOLATED, 1)
    world.place(qty=30, px=600_060)
    engine.cancel_all(world.maker, BTC, 1)
    cross = engine.account_state(me)[1]
    assert engine.set_mark(BTC, 500_000, 9) == 1
    assert engine.account_state(me)[0] == cross
    assert world.held() == 0


def test_margin_call_comes_once() -> None:
    world = World(balance_e8=100 * E8)
    world.place(qty=30, px=600_060)
    price = world.engine.position(world.account, BTC, BOTH)[6]
    calls = []
    for px in (price + 700, price + 600, price + 500, price + 100, price + 90):
        world.engine.set_mark(BTC, px, 9)
        calls += [e for e in world.engine.event_list() if e[KIND] == E.EV_MARGIN_CALL]
    assert len(calls) == 1


# ---- text ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "lots"),
    [("0.001", 1), ("1", 1000), ("1.5", 1500), ("0.00100000", 1), (".5", 500), ("2.", 2000), ("0", -4003), ("-1", -4003),
     ("0.0005", -1111), ("0.0000000001", -1111), ("", -1100), (".", -1100), ("1e3", -1100), ("1,0", -1100), ("1.2.3", -1100),
     ("nan", -1100), ("99999999999999999999", 1 << 60), ("000000000000000000000001", 1000)],
)  # fmt: skip
def test_quantity_text(text: str, lots: int) -> None:
    assert E.Engine(INSTRUMENTS).parse_qty(BTC, text.encode()) == lots


@pytest.mark.parametrize(
    ("text", "ticks"),
    [("60000.10", 600_001), ("60000", 600_000), ("60000.05", -4014), ("60000.001", -1111), ("0", -4001), ("-3", -4001)],
)
def test_price_text(text: str, ticks: int) -> None:
    assert E.Engine(INSTRUMENTS).parse_px(BTC, text.encode()) == ticks


def test_quantity_between_steps() -> None:
    spec = msgspec.structs.replace(BTCUSDT, lot_e8=500_000)
    assert E.Engine([spec]).parse_qty(0, b"0.007") == -4023


def test_fixed_point_text() -> None:
    assert fixed(-150_000_000, 3) == "-1.500"
    assert fixed(123, 8) == "0.00000123"
    assert fixed(5 * E8, 0) == "5"


# ---- makers ----------------------------------------------------------------------------------------------------------------


def test_same_seed_same_maker_flow_whatever_others_do() -> None:
    """The makers' orders are a function of seed and step number, not of fills or time."""
    hashes = []
    for disturb in (False, True):
        engine = E.Engine(INSTRUMENTS)
        makers = start_makers(engine, 42)
        account = engine.add_account(1_000_000 * E8)
        flow = []
        for step in range(60):
            makers.step(step * (7 if disturb else 10**8))
            flow.append(makers.flow_hash())
            if disturb:
                engine.place(account, BTC, BUY if step % 2 else SELL, MARKET, GTC, 900, 0, False, False, BOTH, b"", step)
                engine.place(account, ETH, BUY, LIMIT, GTC, 50, engine.top(ETH)[0] + 1, False, False, BOTH, b"", step)
        hashes.append(flow)
    assert hashes[0] == hashes[1]
    other = start_makers(E.Engine(INSTRUMENTS), 43)
    for step in range(60):
        other.step(step)
    assert other.flow_hash() != hashes[0][-1]


def test_shift_moves_the_market_and_is_part_of_the_flow() -> None:
    engine = E.Engine(INSTRUMENTS)
    makers = start_makers(engine, 1)
    for step in range(20):
        makers.step(step)
    before = engine.mark(BTC)
    makers.shift(BTC, -100_000)
    makers.step(20)
    assert 0.88 < engine.mark(BTC) / before < 0.92  # the mark goes along, or the quotes would be out of its band
    assert len(engine.depth(BTC, 1000)[1]) > 50
    for step in range(21, 40):
        makers.step(step)
    assert 0.88 < engine.mark(BTC) / before < 0.92
    makers.move_to(ETH, 250_000)
    makers.hold(ETH, 0)
    for step in range(40, 60):
        makers.step(step)
    assert engine.mark(ETH) == 250_000
    bid, _, ask, _ = engine.top(ETH)
    assert bid < 250_000 < ask


def test_book_serves_ten_thousand_followers_at_once() -> None:
    """10,000 IOC buys of about 500 USDT, no refill between: all filled within 0.2 % of the best ask; the next step refills."""
    engine = E.Engine(INSTRUMENTS)
    makers = start_makers(engine, 5)
    first = engine.add_accounts(10_000, 1_000 * E8)
    for step in range(12):
        makers.step(step)
    for symbol, spec in enumerate(INSTRUMENTS):
        lots = max(1, 500 * E8 // (spec.start_px * spec.value_mul))
        ask = engine.top(symbol)[2]
        limit = ask + ask // 500
        for k in range(10_000):
            slot = engine.place(first + k, symbol, BUY, LIMIT, IOC, lots, limit, False, False, BOTH, b"x%d" % k, 100)
            assert slot >= 0
            assert engine.order(slot)[10] == E.STATUS_FILLED
        makers.step(101)
        _, _, asks = engine.depth(symbol, 1000)
        assert sum(px * qty for px, qty in asks) * spec.value_mul > 9_000_000 * E8
    wallets, fees, residue, deposits = engine.totals()
    assert wallets + fees + residue == deposits
    assert engine.memory_bytes() < 400 << 20


def test_ten_thousand_accounts_with_positions_are_small() -> None:
    """Well under 400 MiB, positions in three symbols each; measured as the process's own peak growth too."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    world = World(lots=400_000)
    engine = world.engine
    first = engine.add_accounts(10_000, 10_000 * E8)
    for k in range(10_000):
        for symbol, lots in ((BTC, 1), (ETH, 10), (SOL, 10)):
            assert world.place(BUY, MARKET, GTC, lots, 0, account=first + k, symbol=symbol, client=b"%d" % k) >= 0
    assert engine.memory_bytes() < 64 << 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 200 << 10


def test_maker_orders_are_recycled() -> None:
    """An exchange that runs for days does not grow by its makers' quotes, and the truth log holds only clients' orders."""
    engine = E.Engine(INSTRUMENTS)
    makers = start_makers(engine, 3)
    makers.step(0)
    used = engine.n_orders()
    for step in range(1, 100):
        makers.step(step)
    assert engine.n_orders() <= used + 10
    assert engine.orders_after(-1) == []


def test_quotes_log_is_bounded_and_numbered() -> None:
    engine = E.Engine(INSTRUMENTS, quotes_room=50)
    makers = start_makers(engine, 3)
    for step in range(100):
        makers.step(step * 10)
    rows = engine.quotes_after(0, 1000)
    assert len(rows) == 50
    assert [r[0] for r in rows] == list(range(engine.n_quotes - 49, engine.n_quotes + 1))
    last = {r[2]: r for r in rows}
    assert all(last[s][3:5] == engine.top(s)[::2] and last[s][5] == engine.mark(s) for s in last)
    assert engine.quotes_after(rows[-1][0]) == []


def test_profiles_are_for_known_instruments() -> None:
    names = {i.symbol for i in INSTRUMENTS}
    assert {p.symbol for p in PROFILES} == names
    engine = E.Engine([BTCUSDT])
    start_makers(engine, 1, [MakerProfile("BTCUSDT", 5, 50), MakerProfile("ETHUSDT", 5, 50)]).step(1)
    assert engine.top(0)[0]


def test_client_table_grows_without_losing_ids() -> None:
    engine = E.Engine(INSTRUMENTS, expected_orders=1)
    account = engine.add_account(10**6 * E8)
    maker = engine.add_account(no_margin=True, ephemeral=True)
    engine.place(maker, 0, SELL, LIMIT, GTC, 500_000, 600_000, False, False, BOTH, b"", 1)
    slots = [engine.place(account, 0, BUY, LIMIT, IOC, 1, 600_000, False, False, BOTH, b"id-%d" % k, 1) for k in range(20_000)]
    assert min(slots) >= 0
    for k in range(0, 20_000, 97):
        assert engine.find_client(account, 0, b"id-%d" % k, 2) == slots[k]
    assert engine.find_client(account, 0, b"id-20000", 2) == -2013
    assert engine.orders_of(account, 0, 3) == slots[-3:]
    assert engine.orders_of(account, 0, 2, slots[10]) == slots[8:10]


def test_a_history_since_a_time_leaves_out_only_what_is_older() -> None:
    """It ends early, but not because one clock reading was a little behind the one before."""
    engine = E.Engine(INSTRUMENTS)
    account, maker = engine.add_account(10**6 * E8), engine.add_account(no_margin=True, ephemeral=True)
    second = 10**9
    times = [1_000 * second, 2_000 * second, 1_999 * second, 3_000 * second]
    engine.place(maker, 0, SELL, LIMIT, GTC, 500_000, 600_000, False, False, BOTH, b"", 1)
    slots = [
        engine.place(account, 0, BUY, LIMIT, IOC, 1, 600_000, False, False, BOTH, b"t%d" % k, ts) for k, ts in enumerate(times)
    ]
    assert engine.orders_of(account, 0, 10, -1, 2_000 * second) == slots[1:]
    assert engine.orders_of(account, 0, 10) == slots
    assert [trade[5] for trade in engine.trades_of(account, 0, 10, 0, 2_000 * second)] == times[1:]
