"""Each session venue's adapter at a small size: an order's way out and everything told of it, on the venue's dialect.

``COPYD_BENCH_FOLLOWERS`` sets the accounts of each (at most 500), ``COPYD_BENCH_VENUES`` which (default: one with
orders on its socket, one with orders by REST). The whole table: ``copyd bench venues``.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from copyd.bench.venues import Settings, run

VENUES = os.environ.get("COPYD_BENCH_VENUES", "okx,bitget").split(",")
ACCOUNTS = min(500, int(os.environ.get("COPYD_BENCH_FOLLOWERS", "10")))


@pytest.mark.parametrize("kind", VENUES)
def test_venue(benchmark: Any, kind: str) -> None:
    """One whole run with its checks; what matters of it is in the extra information, per order."""
    settings = Settings(venues=(kind,), accounts=ACCOUNTS, rounds=4, warmup=1, encoded=100, turns=5)
    report = benchmark.pedantic(lambda: run(settings), rounds=1)
    assert report["checked"], report["problems"]
    one = report["venues"][kind]
    assert one["orders"] == 4 * ACCOUNTS
    benchmark.extra_info |= {
        "us_per_order": one["us_per_order"], "ns_rendered": one["encode"]["ns_per_order"],
        "bytes_per_account": one["bytes_per_account"]}
