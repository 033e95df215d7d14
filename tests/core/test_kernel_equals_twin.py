"""The readable rules and the compiled kernel give the same bits (semantics 43)."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from copyd._fast import columns, fanout
from copyd.core import reconcile, rows
from copyd.core.identifiers import siphash128
from copyd.core.order import due
from tests.core.worlds import SECOND, World


def test_rows_have_the_layout_of_their_structs() -> None:
    """A row in Python packs to the size of its C struct."""
    sizes = columns.row_sizes() | fanout.row_sizes()
    layouts = {
        "instruments": rows.InstrumentRow, "leaders": rows.LeaderRow, "positions": rows.LeaderPositionRow,
        "plans": rows.PlanRow, "accounts": rows.AccountRow, "account_instruments": rows.AccountInstrumentRow,
        "legs": rows.LegRow, "orders": rows.OrderRow, "trades": rows.TradeRow, "reports": rows.ReportRow,
        "params": rows.Params, "fill_event": rows.FillEvent, "decisions": rows.DecisionRow, "ends": rows.OrderEndRow,
        "named_orders": rows.NamedOrder, "drift": reconcile.DriftRow, "stops": rows.StopRow,
    }
    assert {name: layout.LAYOUT.size for name, layout in layouts.items()} == sizes


@given(key=st.binary(min_size=16, max_size=16), words=st.lists(st.binary(min_size=8, max_size=8), max_size=6))
def test_the_kernel_hashes_identities_as_the_twin_does(key: bytes, words: list[bytes]) -> None:
    """SipHash-2-4-128 in C and in Python agree."""
    message = b"".join(words)
    assert fanout.client_order_id_digest(key, message) == siphash128(key, message)


def test_siphash_gives_the_published_vectors() -> None:
    """The reference vectors for the empty and the one-byte message."""
    key = bytes(range(16))
    assert siphash128(key, b"").hex() == "a3817f04ba25a8e66df67214c7550293"
    assert siphash128(key, b"\0").hex() == "da87c1d86b99af44347659119b22fc45"


def play(rng: random.Random, steps: int) -> None:
    """A random history on both; after every input every byte must agree."""
    world = World(rng, venues=rng.random() < 0.5)
    world.quotes()
    for _ in range(steps):
        world.now += rng.choice([0, 1_000_000, SECOND, 15 * SECOND])
        if rng.random() < 0.02:
            world.now -= 600 * SECOND  # an operator or ntp puts the clock back
        if rng.random() < 0.5:
            world.quotes()
        if rng.random() < 0.3:
            world.edit(1, 0, rows.LeaderRow, ts_equity=world.now, equity_e8=rng.choice([3_000, 90_000]) * 10**8,
                       equity_before_e8=rng.choice([0, 4_000]) * 10**8, ts_told=world.now)
        choice = rng.random()
        if choice < 0.4:
            qty = rng.choice([1, 2, 3, 10, 40, 500, 100_000]) * rng.choice([1, -1])
            event = world.leader_fill(rng.randrange(2), qty, order_qty=abs(qty) * rng.choice([1, 3]))
            event.live = rng.choice([1] * 9 + [0])
            if rng.random() < 0.1:
                event.ts_event -= 3 * SECOND
            tables = world.tables()
            out = world.run_twin_fill(tables, event)
            world.run_kernel_fill(event)
        elif choice < 0.5:
            world.seq += 1
            tables = world.tables()
            out = world.run_twin_marks(tables)
        elif choice < 0.92:
            world.seq += 1
            reports = [r for r in (world.random_report() for _ in range(rng.randint(1, 5))) if r]
            tables = world.tables()
            out = world.run_twin_reports(tables, reports)
            world.run_kernel_reports(reports)
        else:
            world.seq += 1
            tables = world.tables()
            out = world.run_twin_sweep(tables)
            world.kernel.sweep(world.sweep_cause(), world.now, world.seq)
        world.assert_equal(tables, out)
        if rng.random() < 0.1:
            world.columns.retire_orders(world.seq - rng.randint(0, 5), rows.TERMINAL_MASK)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example])
@given(rng=st.randoms(use_true_random=False))
def test_any_history_leaves_the_same_bytes(rng: random.Random) -> None:
    """Random plans, instruments, leader fills and reports: state and outputs are equal after every input."""
    play(rng, 25)


@pytest.mark.parametrize("seed", range(40))
def test_long_histories_leave_the_same_bytes(seed: int) -> None:
    """Longer seeded histories, where orders end, late fills arrive and legs flip."""
    play(random.Random(seed), 120)


@pytest.mark.parametrize("first", range(0, 200, 20))
def test_what_is_due_to_be_closed_leaves_the_same_bytes(first: int) -> None:
    """Legs that hold too much, beside what is the follower's own: the same orders, and the same legs that wait."""
    for seed in range(first, first + 20):
        world = World(random.Random(seed), venues=seed % 2 == 0)
        world.quotes()
        world.hold_too_much()
        for _ in range(2):
            world.seq += 1
            tables = world.tables()
            out = world.run_twin_sweep(tables)
            world.kernel.sweep(world.sweep_cause(), world.now, world.seq)
            world.assert_equal(tables, out)
            excess = sum(due(tables, leg) > 0 for leg in tables.legs)
            assert world.kernel.census()[3] == excess
            world.seq += 1
            reports = [report for report in (world.random_report() for _ in range(4)) if report]
            tables = world.tables()
            out = world.run_twin_reports(tables, reports)
            world.run_kernel_reports(reports)
            world.assert_equal(tables, out)
            world.now += 15 * SECOND
