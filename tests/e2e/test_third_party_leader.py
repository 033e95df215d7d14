"""A leader trading through a client no one here wrote moves 100 followers; another such client reads where they stand."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.e2e.harness import Q32, Stage
from tests.exchange.wire_helpers import ROOT

PYTHON = ROOT / ".venv-clients" / "bin" / "python"
SCRIPT = Path(__file__).with_name("third_party_leader.py")
FOLLOWERS = 100
EQUITY_E8 = 100_000 * 10**8
LEADER_LEVERAGE = 10
#: (tick, lot) as the exchange lists them.
UNITS = {"BTCUSDT": (Decimal("0.10"), Decimal("0.001")), "ETHUSDT": (Decimal("0.01"), Decimal("0.001"))}
ORDERS = [
    ("BTCUSDT", "BUY", "0.800"), ("BTCUSDT", "BUY", "0.430"), ("BTCUSDT", "SELL", "0.510"),
    ("ETHUSDT", "SELL", "0.500"), ("ETHUSDT", "SELL", "0.250"), ("ETHUSDT", "BUY", "0.190"),
    ("BTCUSDT", "SELL", "0.130"),
]


def third_party(role: str, at: dict[str, Any]) -> Any:
    done = subprocess.run(
        [PYTHON, "-P", SCRIPT, role], input=orjson.dumps(at).decode(), capture_output=True, text=True, timeout=90,
        check=False,
    )
    assert done.returncode == 0, f"{role}:\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"
    return orjson.loads(done.stdout)


def plan_fields(i: int) -> dict[str, Any]:
    """Every copy mode; the equity-ratio modes copy BTC, the modes by price copy ETH."""
    allocation = str(500 + 37 * i)
    if i < 30:
        return {"mode": "proportional", "allocation": allocation, "instruments": ["BTCUSDT"]}
    if i < 50:
        return {"mode": "multiplier", "multiplier": f"{0.5 + (i - 30) * 0.07:.2f}", "allocation": allocation,
                "instruments": ["BTCUSDT"]}
    if i < 70:
        return {"mode": "fixed_ratio", "allocation": allocation, "leverage": 3 + i % 5, "instruments": ["BTCUSDT"]}
    if i < 85:
        return {"mode": "fixed_amount", "allocation": allocation, "amount": str(600 + 11 * i), "instruments": ["ETHUSDT"]}
    return {"mode": "risk_based", "allocation": allocation, "risk_bps": 150 + i, "assumed_stop_bps": 500,
            "instruments": ["ETHUSDT"]}


def ratio(fields: dict[str, Any], fill: dict[str, Any], order_lots: int, first_ticks: int) -> int:
    """Follower lots per leader lot at 2^-32, truncated once (semantics 2)."""
    allocation = int(Decimal(fields["allocation"]) * 10**8)
    tick, lot = UNITS[fill["symbol"]]
    unit_e8 = int(tick * lot * 10**8)
    match fields["mode"]:
        case "proportional":
            return Q32 * allocation // EQUITY_E8
        case "multiplier":
            return Q32 * allocation * int(Decimal(fields["multiplier"]) * 10**6) // (EQUITY_E8 * 10**6)
        case "fixed_ratio":
            return Q32 * allocation * fields["leverage"] // (EQUITY_E8 * LEADER_LEVERAGE)
        case "fixed_amount":
            ticks = int(Decimal(fill["price"]) / tick)
            return Q32 * int(Decimal(fields["amount"]) * 10**8) // (order_lots * ticks * unit_e8)
        case _:
            notional = order_lots * first_ticks * unit_e8
            return Q32 * allocation * fields["risk_bps"] // (fields["assumed_stop_bps"] * notional)


def expected(fields: dict[str, Any], fills: list[dict[str, Any]]) -> int:
    """Lots the follower must hold after these executions of one symbol, by the rule and by hand.

    An order is the whole lots of (target - what the leg has), truncated toward zero, so less than a lot stays open.
    """
    target = held = anchor_target = anchor_held = k = has = 0
    orders: dict[int, list[dict[str, Any]]] = {}
    for fill in fills:
        orders.setdefault(fill["orderId"], []).append(fill)
    tick, lot = UNITS[fills[0]["symbol"]]
    for fill in fills:
        lots = int(Decimal(fill["qty"]) / lot) * (1 if fill["side"] == "BUY" else -1)
        if held and (held > 0) != (lots > 0):
            held += lots
            target = anchor_target * held // anchor_held if anchor_target >= 0 else -(-anchor_target * held // anchor_held)
        else:
            whole = orders[fill["orderId"]]
            order_lots = sum(int(Decimal(f["qty"]) / lot) for f in whole)
            if not target or fields["mode"] in ("fixed_amount", "risk_based"):
                k = ratio(fields, fill, order_lots, int(Decimal(whole[0]["price"]) / tick))
            held += lots
            target += k * lots
            anchor_target, anchor_held = target, held
        missing = target - has * Q32
        has += (abs(missing) // Q32) * (1 if missing > 0 else -1)
    return has


def test_100_followers_stand_exactly_where_the_rule_puts_them(stage: Callable[..., Stage]) -> None:
    """python-binance leads, copyd copies, ccxt reads; the expected quantities are worked out here, from the rule."""
    if not PYTHON.exists():
        pytest.fail("the clients' virtual environment is missing: run `make clients-venv`", pytrace=False)
    s = stage(FOLLOWERS)
    plans = [plan_fields(i) for i in range(FOLLOWERS)]
    s.start(s.plan(i, **fields) for i, fields in enumerate(plans))
    account = s.leader.account
    at = {"rest": s.venue.at["rest"], "api_key": account["api_key"], "secret": account["secret"]}
    fills = third_party("lead", {**at, "orders": ORDERS, "pause_s": 0.25})
    s.events(len(fills))
    s.quiet()
    accounts = [{"name": f["name"], "api_key": f["api_key"], "secret": f["secret"]} for f in s.followers]
    read = third_party("read", {"rest": s.venue.at["rest"], "accounts": accounts})

    wrong = []
    held = 0
    for name, fields in zip(s.names, plans, strict=True):
        symbol = fields["instruments"][0]
        lots = expected(fields, [fill for fill in fills if fill["symbol"] == symbol])
        side, text = read[name].get(symbol, ["long", "0"])
        has_lots = int(Decimal(text) / UNITS[symbol][1]) * (1 if side == "long" else -1)
        held += has_lots != 0
        if has_lots != lots or set(read[name]) - {symbol}:
            wrong.append((name, fields, "wants", lots, "holds", read[name]))
    assert not wrong, wrong
    assert held == FOLLOWERS
    s.no_id_twice()
    s.stop()
