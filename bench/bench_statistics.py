"""The figures of every leader and every plan from extracted fills: Parquet files in, structs out.

``COPYD_BENCH_FILLS`` sets the size: one fill in five is a leader's, 1,000 fills a leader, 400 a plan, over 90 days.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from copyd.serve.series import DAY_NS, Rules
from copyd.serve.statistics import LeaderFigures, PlanFigures, Statistics
from copyd.serve.tables import TABLES, Manifest, Part, append

FILLS = int(os.environ.get("COPYD_BENCH_FILLS", "50000"))
PER_LEADER, PER_PLAN, DAYS, INSTRUMENTS = 1_000, 400, 90, 5
FIRST_NS = 20_700 * DAY_NS
E8 = 100_000_000
LOTS = 10
RULES = Rules(days_min=1, trades_min=1, volume_min_e8=0, flow_equity_bps=10_000)
"""All is shown, and equities that have nothing to do with the fills are no flows."""


def trades(rng: np.random.Generator, owners: int, each: int) -> dict[str, np.ndarray]:
    """Round trips of ``LOTS``, opened and closed in turn, an owner's legs in turn; columns by name, in time's order."""
    owner, at = np.repeat(np.arange(owners), each), np.tile(np.arange(each), owners)
    trip = at // 2
    opens = at % 2 == 0
    side = np.where((owner + trip) % 2 == 0, 1, -1)
    value = LOTS * rng.integers(900, 1_100, owners * each) * E8
    before = np.roll(value, 1)
    columns = {
        "owner": owner, "leg": owner * INSTRUMENTS + trip % INSTRUMENTS, "instrument": trip % INSTRUMENTS,
        "ts_ns": FIRST_NS + (at + rng.random(owners * each)) * (DAYS * DAY_NS // each), "opens": opens,
        "side": np.where(opens, side, -side), "lots": np.full(owners * each, LOTS), "value_e8": value,
        "fee_e8": value // 2_000, "slippage_e8": value // 10_000, "reference_e8": value,
        "realised_e8": np.where(opens, 0, side * (value - before)),
        "position_lots": np.where(opens, side * LOTS, 0), "position_cost_e8": np.where(opens, value, 0),
        "trip": trip // INSTRUMENTS + 1,
    }
    order = np.argsort(columns["ts_ns"], kind="stable")
    return {name: values[order] for name, values in columns.items()}


def store(out: Path, manifest: Manifest, table: str, columns: dict[str, Any]) -> None:
    """One part more of a table, straight from arrays."""
    rows = len(columns["ts_ns"])
    whole = {"n": np.arange(rows), "seq": np.arange(rows), **columns}
    names = ["n", "seq", "ts_ns", *(name for name, _ in TABLES[table])]
    pq.write_table(pa.table({name: pa.array(whole[name]) for name in names}), out / table / "bench.parquet", compression="zstd")
    manifest.parts[table].append(Part("bench.parquet", rows))


def words(prefix: str, numbers: np.ndarray) -> pa.Array:
    """Names by number."""
    found, at = np.unique(numbers, return_inverse=True)
    return pa.DictionaryArray.from_arrays(pa.array(at), pa.array([f"{prefix}{number}" for number in found])).cast(pa.string())


def store_rest(out: Path, manifest: Manifest, rng: np.random.Generator, leaders: int, plans: int) -> np.ndarray:
    """A mark an hour, an equity a day, one allocation; returns the equities, leaders x days."""
    hours, instruments = np.tile(np.arange(DAYS * 24), INSTRUMENTS), np.repeat(np.arange(INSTRUMENTS), DAYS * 24)
    px = rng.integers(900, 1_100, len(hours))
    store(out, manifest, "marks", {
        "ts_ns": FIRST_NS + hours * (DAY_NS // 24), "instrument": words("I", instruments), "bid_ticks": px, "ask_ticks": px,
        "mark_ticks": px, "value_mul": np.full(len(px), E8), "value_div": np.ones(len(px), int)})
    equity = (1e13 * np.cumprod(1 + rng.normal(0.001, 0.02, (leaders, DAYS)), axis=1)).astype(np.int64)
    store(out, manifest, "equity", {
        "ts_ns": FIRST_NS + np.tile(np.arange(DAYS), leaders) * DAY_NS + DAY_NS // 2,
        "leader": words("l", np.repeat(np.arange(leaders), DAYS)), "equity_e8": equity.ravel()})
    store(out, manifest, "plans", {
        "ts_ns": np.full(plans, FIRST_NS), "plan": np.arange(plans), "leader": words("l", np.arange(plans) % leaders),
        "follower": words("f", np.arange(plans)), "allocation_e8": np.full(plans, 1_000_000 * E8),
        "version": np.ones(plans, int), "state": np.full(plans, "active")})
    return equity


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A history of ``FILLS`` fills, and what it must amount to."""
    out, rng = tmp_path_factory.mktemp("history"), np.random.default_rng(1)
    leaders, plans = max(1, FILLS // 5 // PER_LEADER), max(1, FILLS * 4 // 5 // PER_PLAN)
    manifest = Manifest(1, 1, last_seq=1, last_ts_ns=FIRST_NS + DAYS * DAY_NS - 1)
    append(out, manifest, b"", {})
    theirs, his = trades(rng, plans, PER_PLAN), trades(rng, leaders, PER_LEADER)
    of = theirs["owner"] % leaders
    for table, fills, own in (
        ("leader_fills", his, {"leader": words("l", his["owner"]), "exec_id": his["ts_ns"], "live": his["opens"] | True}),
        ("follower_fills", theirs, {"plan": theirs["owner"], "leader": words("l", of), "follower": words("f", theirs["owner"])}),
    ):
        ts = fills["ts_ns"].astype(np.int64)
        store(out, manifest, table, {
            **fills, **own, "ts_ns": ts, "ts_event_ns": ts, "instrument": words("I", fills["instrument"]),
            "kind": np.where(fills["opens"], "opening", "reduction"), "source": np.full(len(ts), "fill")})
    equity = store_rest(out, manifest, rng, leaders, plans)
    append(out, manifest, b"", {})
    net = theirs["realised_e8"] - theirs["fee_e8"]
    fills = len(net) + len(his["leg"])
    return out, {"net": int(net.sum()), "leaders": leaders, "plans": plans, "equity": equity[0], "fills": fills}


def test_statistics(benchmark: Any, made: tuple[Path, dict[str, Any]]) -> None:
    """All leaders and all plans; their money, trades and one leader's return are what the arrays say."""
    out, expected = made

    def figures() -> tuple[list[LeaderFigures], list[PlanFigures]]:
        statistics = Statistics(out, RULES)
        return statistics.leaders(), statistics.plans()

    leaders, plans = benchmark.pedantic(figures, rounds=3, warmup_rounds=1)
    benchmark.extra_info["fills"] = expected["fills"]
    assert (len(leaders), len(plans)) == (expected["leaders"], expected["plans"])
    assert {round(one.slippage_bps or 0, 3) for one in (*plans, *leaders)} == {1.0}
    assert sum(one.realised_e8 for one in plans) == sum(one.followers_realised_e8 for one in leaders) == expected["net"]
    assert {one.trades for one in plans} == {PER_PLAN // 2} and {one.trades for one in leaders} == {PER_LEADER // 2}
    first = next(one for one in leaders if one.leader == "l0")
    assert first.twr_all == pytest.approx(expected["equity"][-1] / expected["equity"][0] - 1, rel=1e-9)
