"""The engine against the plain oracle, over random histories; and what must hold whatever happens."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from copyd._fast import sim_engine as E
from copyd.exchange.model import BTCUSDT, make_tiers

from .oracle import BOTH, LONG, SHORT, Oracle

STATUS = ["NEW", "PARTIALLY_FILLED", "FILLED", "CANCELED", "EXPIRED", "EXPIRED_IN_MATCH"]
WIDE = msgspec.structs.replace(
    BTCUSDT, start_px=1000, min_px=1, max_px=100_000, min_notional_e8=0, up_ppm=2_000_000, down_ppm=1, max_orders=10_000,
    take_bound_ppm=5_000, tiers=make_tiers([(10_000_000_000, 4_000, 125)]),
)  # fmt: skip
BALANCE = 10**16

accounts = st.integers(0, 3)  # account 3 is in hedge mode
sides = st.sampled_from([E.SIDE_BUY, E.SIDE_SELL])
prices = st.integers(993, 1007)
sizes = st.integers(1, 9)
places = st.tuples(
    st.just("place"), accounts, sides, st.sampled_from([0, 0, 0, 1]), st.integers(0, 3), sizes, prices, st.booleans(),
    st.sampled_from([LONG, SHORT]), st.integers(0, 3),
)  # fmt: skip
changes = st.tuples(st.just("modify"), st.integers(0, 60), sizes, prices)
cancels = st.tuples(st.just("cancel"), st.integers(0, 60))
histories = st.lists(st.one_of(places, places, places, places, changes, cancels), min_size=5, max_size=70)


def random_history(seed: int, length: int) -> list[tuple]:
    """A long busy history: what hypothesis, which likes short and simple ones, seldom reaches."""
    rng = random.Random(seed)
    history: list[tuple] = []
    for _ in range(length):
        roll = rng.random()
        recent = max(0, len(history) - rng.randint(1, 60))
        if roll < 0.12:
            history.append(("modify", recent, rng.randint(1, 9), rng.randint(996, 1004)))
        elif roll < 0.2:
            history.append(("cancel", recent))
        else:
            history.append(
                ("place", rng.randint(0, 3), rng.choice([1, -1]), rng.choice([0, 0, 0, 0, 1]), rng.randint(0, 3),
                 rng.randint(1, 9), rng.randint(996, 1004), rng.random() < 0.3, rng.choice([LONG, SHORT]),
                 rng.randint(0, 3))
            )  # fmt: skip
    return history


@pytest.mark.parametrize("seed", range(40))
def test_engine_gives_what_the_plain_exchange_gives_over_long_histories(seed: int) -> None:
    """The same comparison, over 200 calls in a narrow price range where everything meets everything."""
    compare(random_history(seed, 200))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(histories)
def test_engine_gives_what_the_plain_exchange_gives(history: list[tuple]) -> None:
    """Same answers, executions in the same order, same book, positions and wallets, after every single call."""
    compare(history)


def compare(history: list[tuple]) -> None:
    """Run the history on the engine and the oracle and compare their whole truth after each call."""
    engine = E.Engine([WIDE], expected_orders=16, insurance_e8=0)
    oracle = Oracle(WIDE.value_mul, 1000, WIDE.take_bound_ppm, 200, 500, hedge={3})
    first = engine.add_accounts(4, BALANCE)
    assert engine.set_position_mode(first + 3, True, 0) == 0
    slots: list[int] = []  # by the oracle's number
    legs = [(a, leg) for a in range(4) for leg in (BOTH, LONG, SHORT)]
    for turn, step in enumerate(history):
        if step[0] == "place":
            _, account, side, kind, tif, qty, px, reduce_only, leg, stp = step
            leg = leg if account == 3 else BOTH
            reduce_only = reduce_only and account != 3
            client = b"c%d" % (turn % 7)
            got = engine.place(first + account, 0, side, kind, tif, qty, px, reduce_only, False, leg, client, turn, stp)
            if got == -5021 and any(o.open and o.closing for o in oracle.orders):
                continue  # it may refuse a FOK that leans on reduce-only orders; it may never half fill one
            want = oracle.place(account, side, kind, tif, qty, px, reduce_only, leg, client, stp)
            if want >= 0:
                assert got >= 0
                slots.append(got)
                assert len(slots) == want + 1
            else:
                assert got == want
        elif step[1] < len(slots):
            account = oracle.orders[step[1]].account
            if step[0] == "cancel":
                assert engine.cancel(first + account, slots[step[1]], turn) == oracle.cancel(step[1])
            else:
                got = engine.modify(first + account, slots[step[1]], step[2], step[3], turn)
                assert got == oracle.modify(step[1], step[2], step[3])
        # the truth of both
        for order, slot in zip(oracle.orders, slots, strict=True):
            row = engine.order(slot)
            assert (STATUS[row[10]], row[12], row[14], row[15]) == (order.status, order.qty, order.cum, order.value), (
                order, row,
            )  # fmt: skip
            assert 0 <= row[14] <= row[12]  # cum + leaves = qty
            if order.kind == 0 and order.tif == E.TIF_FOK:
                assert row[14] == row[12]  # all or nothing
            if order.tif in (E.TIF_IOC, E.TIF_FOK) or order.kind == 1:
                assert row[10] >= E.STATUS_FILLED  # leaves nothing
        trades = [(t[3], t[4], t[6], t[7] - first, t[12] - first) for t in engine.trades_after(-1, 10_000)]
        assert trades == oracle.trades
        _, bids, asks = engine.depth(0, 1000)
        assert (bids, asks) == (oracle.depth(1), oracle.depth(-1))
        if bids and asks:
            assert bids[0][0] < asks[0][0]  # never crossed
        total = 0
        for account, leg in legs:
            qty, cost = engine.position(first + account, 0, leg)[:2]
            assert (qty, cost) == (oracle.qty.get((account, leg), 0), oracle.cost.get((account, leg), 0))
            total += qty
        assert total == 0
        for account in range(4):
            assert engine.account_state(first + account)[0] == BALANCE + oracle.wallet.get(account, 0)
        wallets, fees, residue, deposits = engine.totals()
        assert wallets + fees + residue == deposits
    # no GTX order ever took
    takers = {t[8] if t[6] > 0 else t[13] for t in engine.trades_after(-1, 10_000)}
    for order, slot in zip(oracle.orders, slots, strict=True):
        if order.kind == 0 and order.tif == E.TIF_GTX:
            assert engine.order(slot)[1] not in takers


reducers = st.lists(
    st.tuples(st.integers(0, 2), sides, st.sampled_from([0, 1]), sizes, prices, st.booleans()), min_size=5, max_size=60
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(reducers)
def test_reduce_only_never_enlarges_nor_flips(history: list[tuple]) -> None:
    """Whatever else the account does meanwhile, an execution of a reduce-only order moves its position toward zero only."""
    engine = E.Engine([WIDE], insurance_e8=0)
    first = engine.add_accounts(3, BALANCE)
    held = [0, 0, 0]
    reduce_ids: dict[int, int] = {}
    seen = -1
    for turn, (account, side, kind, qty, px, reduce_only) in enumerate(history):
        slot = engine.place(first + account, 0, side, kind, 0, qty, px, reduce_only, False, 0, b"n%d" % turn, turn)
        if slot >= 0 and reduce_only:
            reduce_ids[engine.order(slot)[1]] = account
        for t in engine.trades_after(seen, 1000):
            seen = t[0]
            for who, order_id, sign in ((t[7], t[8], 1), (t[12], t[13], -1)):
                before = held[who - first]
                held[who - first] += sign * t[4]
                if order_id in reduce_ids:
                    assert before * sign < 0
                    assert abs(held[who - first]) == abs(before) - t[4]


market_moves = st.lists(
    st.one_of(
        st.tuples(st.just("mark"), st.integers(600, 1500)),
        st.tuples(st.just("fund"), st.integers(-300_000, 300_000)),
        st.tuples(st.just("trade"), st.integers(0, 4), sides, st.integers(1, 4000), st.integers(950, 1050)),
        st.tuples(st.just("cash"), st.integers(0, 4), st.integers(-50, 50)),
    ),
    min_size=10,
    max_size=60,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(market_moves)
def test_no_lot_and_no_satoshi_is_made_or_lost(history: list[tuple]) -> None:
    """Positions of all accounts sum to zero; wallets, fees, funding and insurance add up to what was deposited, exactly,
    through liquidations and funding too; and no crossed account keeps a position below its maintenance margin."""
    engine = E.Engine([WIDE], insurance_e8=3 * 10**8)
    first = engine.add_accounts(5, 100 * 10**8)
    engine.set_margin_type(first + 1, 0, E.MARGIN_ISOLATED, 0)
    engine.set_position_mode(first + 2, True, 0)
    for k in range(5):
        engine.set_leverage(first + k, 0, 100, 0)
    for turn, step in enumerate(history):
        if step[0] == "mark":
            engine.set_mark(0, step[1], turn)
            for account in (first, first + 3, first + 4):
                _, cross, upnl, _, _, _, maint, *_ = engine.account_state(account)
                assert not maint or cross + upnl >= maint
        elif step[0] == "fund":
            engine.apply_funding(0, step[1], turn)
        elif step[0] == "cash":
            engine.transfer(first + step[1], step[2] * 10**8, turn)
        else:
            leg = (E.POS_LONG if turn % 2 else E.POS_SHORT) if step[1] == 2 else E.POS_BOTH
            engine.place(first + step[1], 0, step[2], 0, 0, step[3], step[4], False, False, leg, b"", turn)
        wallets, fees, residue, deposits = engine.totals()
        assert wallets + fees + residue == deposits
        assert sum(engine.position(a, 0, leg)[0] for a in range(engine.n_accounts) for leg in range(3)) == 0
        for account in range(engine.n_accounts):
            for leg in range(3):
                qty, cost, iso, *_ = engine.position(account, 0, leg)
                assert qty or (cost == 0 and iso == 0)  # a closed leg keeps nothing
