"""``copyd bench venues``: what each venue's adapter costs beside the one that was first, all in one run.

Two measurements. Rendering: the same orders through what the daemon renders them with on each venue, in turn, so that what
disturbs one disturbs all; a sample of the texts is held against the readable twin. Trading: each adapter in a process of its
own (``copyd.bench.venue_desk``) on the venue's dialect of the simulated exchange in another; every order is held against the
exchange's books.
"""

from __future__ import annotations

import asyncio
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from copyd._fast.columns import Columns
from copyd.bench.conditions import conditions
from copyd.bench.recovery import Child, ask
from copyd.bench.venue_desk import ORDER_CONNECTIONS, ORDERS, SYMBOLS, Desk, Terms_
from copyd.core.rows import OrderRow
from copyd.errors import UsageError, WorldError
from copyd.venues.binance_usdm.signing import frames, place_text
from copyd.venues.common.instruments import Instrument
from copyd.venues.common.requests import request_text
from copyd.venues.common.signing import Key
from copyd.venues.common.templates import Twin
from copyd.venues.common.venue import Order

VENUES = ("binance_usdm", "binance_spot", "okx", "bybit", "bitget")
STAMP = 1_700_000_000_000
PX = 600_001
CHECKED = 50
"""Orders of each venue whose bytes are compared with the twin's, besides that every order is there once."""
START_S = 30.0
RUN_S = 150.0
EXCLUDED = (
    "network and venue: loopback, no TLS, the simulated exchange fills at once (its limits are lifted)",
    "engine and journal (measured by: copyd bench sustained); what is told is booked by the benchmark, outside what is counted",
    "orders per second of the clock: the exchange has a processor of its own to share with others",
)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be measured. ``accounts``: followers on each venue, an order each per round; ``encoded``: orders rendered."""

    venues: tuple[str, ...] = VENUES
    accounts: int = 200
    rounds: int = 10
    warmup: int = 2
    encoded: int = 2_000
    turns: int = 30
    seed: int = 1


class Subject(NamedTuple):
    """What renders a venue's orders. ``texts``: its buffers as the twin's texts."""

    render: Callable[[Columns, array[int], int], Sequence[tuple[int, bytes, bytes, bytes]]]
    twin: Twin
    texts: Callable[[bytes], list[bytes]]
    item: Instrument


def secrets(account: int) -> Key:
    """A key as long as the venues' own."""
    return Key(b"key%061d" % account, b"%064d" % (account * 7), b"passphrase%02d" % (account % 100))


def unmasked(buffer: bytes) -> list[bytes]:
    """The texts of client frames laid back to back, of either length."""
    found, at = [], 0
    while at < len(buffer):
        size, head = buffer[at + 1] & 0x7F, 2
        if size == 126:
            size, head = int.from_bytes(buffer[at + 2 : at + 4], "big"), 4
        mask, start = buffer[at + head : at + head + 4], at + head + 4
        found.append(bytes(c ^ mask[i & 3] for i, c in enumerate(buffer[start : start + size])))
        at = start + size
    return found


# --- rendering ------------------------------------------------------------------------------------------------------------
def subject(desk: Desk, encoded: int) -> Subject:
    """What the adapter renders with, given the keys of so many accounts."""
    parts, item = desk.parts, desk.item
    if desk.kind == "binance_usdm":
        window = parts.contract.recv_window_ms
        for account in range(encoded):
            secrets(account).reveal_to(
                lambda at, api_key, secret: parts.encoder.set_account(at, api_key, secret, at % ORDER_CONNECTIONS), account)

        def twin(key: Key, order: Order, now_ms: int) -> bytes:
            return place_text(
                key, symbol=item.symbol, price_decimals=item.price_decimals, tick=item.tick, qty_decimals=item.qty_decimals,
                lot=item.lot, cid=order.cid, order_qty=order.qty, limit_px=order.px, side=order.side,
                position_side=order.position_side, reduce_only=order.reduce_only, timestamp_ms=now_ms, recv_window_ms=window)

        return Subject(parts.encoder.encode, twin, frames, item)
    renderer = parts.gateway.renderer
    if renderer is None:
        return _by_rest(parts.rest, item, [secrets(account) for account in range(encoded)])
    for account in range(encoded):
        secrets(account).reveal_to(renderer.set_account, account)
    wire = parts.wire
    signed = getattr(wire, "place_signed", None) or (lambda key, order, now_ms: wire.place(order, now_ms))
    return Subject(renderer.render, signed, unmasked, item)


def _by_rest(rest: Any, item: Instrument, keys: list[Key]) -> Subject:
    """Orders as requests of the REST client, one by one: what renders them is the twin itself."""
    def one(key: Key, order: Order, now_ms: int) -> bytes:
        method, target, headers, body = rest.rest_place(order, key, now_ms)
        return request_text(method, target, "venue", headers, body)

    def render(columns: Columns, slots: array[int], now_ms: int) -> list[tuple[int, bytes, bytes, bytes]]:
        found = []
        for slot in slots:
            row = OrderRow.unpack(columns.get(ORDERS, slot))
            order = Order(row.account, item, row.cid, row.order_qty, row.limit_px, row.side, row.position_side, False)
            found.append((row.account, one(keys[row.account], order, now_ms), row.cid, array("I", [slot]).tobytes()))
        return found

    return Subject(render, one, lambda buffer: [buffer], item)


def orders(count: int) -> tuple[Columns, array[int], list[OrderRow]]:
    """One order per account, in the tables."""
    columns = Columns(1)
    rows = [
        OrderRow((at + 1).to_bytes(16, "big"), order_qty=10 * (at + 1), limit_px=PX, account=at, side=1) for at in range(count)]
    slots = array("I", (columns.add_order(row.cid) for row in rows))
    for slot, row in zip(slots, rows, strict=True):
        columns.put(ORDERS, slot, row.pack())
    return columns, slots, rows


def compared(name: str, one: Subject, columns: Columns, slots: array[int], rows: list[OrderRow]) -> list[str]:
    """What of the rendered orders is not as the twin has it, in sentences."""
    seen: list[int] = []
    wrong = 0
    every = max(1, len(rows) // CHECKED)
    for _, buffer, _, sent in one.render(columns, slots, STAMP):
        texts, places = one.texts(buffer), array("I", sent)
        if len(texts) != len(places):
            return [f"{name}: {len(texts)} texts for {len(places)} orders"]
        seen += places
        for text, place in zip(texts, places, strict=True):
            if place % every:
                continue
            row = rows[slots.index(place)]
            order = Order(row.account, one.item, row.cid, row.order_qty, row.limit_px, row.side, 0, False)
            wrong += text != one.twin(secrets(row.account), order, STAMP)
    problems = [f"{name}: {wrong} orders are not the twin's"] if wrong else []
    return problems + ([] if sorted(seen) == sorted(slots) else [f"{name}: not every order once"])


def encoding(subjects: dict[str, Subject], settings: Settings) -> tuple[dict[str, dict[str, float]], list[str]]:
    """ns per order of each, in turn, and its ratio to the first; with what is wrong with the bytes."""
    columns, slots, rows = orders(settings.encoded)
    problems = [text for name, one in subjects.items() for text in compared(name, one, columns, slots, rows)]
    took: dict[str, list[int]] = {name: [] for name in subjects}
    gc.collect()
    gc.disable()
    try:
        for turn in range(settings.turns + 2):
            for name, one in subjects.items():
                began = time.perf_counter_ns()
                made = one.render(columns, slots, STAMP + turn)
                took[name].append(time.perf_counter_ns() - began)
                del made  # outside what is measured, as the pump lets go of it behind the write
    finally:
        gc.enable()
    base = took[next(iter(took))][2:]
    found = {}
    for name, times in took.items():
        ratios = [one / other for one, other in zip(times[2:], base, strict=True)]
        found[name] = {
            "ns_per_order": round(statistics.median(times[2:]) / len(slots)), "ratio": round(statistics.median(ratios), 2),
            "fastest_ns": round(min(times[2:]) / len(slots))}  # fmt: skip
    return found, problems


# --- trading --------------------------------------------------------------------------------------------------------------
def exchange(kind: str, directory: Path, seed: int) -> tuple[Child, dict[str, Any]]:
    """The venue's dialect in a process of its own, and where it listens."""
    ready = directory / f"{kind}.json"
    child = Child(
        ["copyd.exchange.main", "--seed", str(seed), "--ready-file", str(ready), "--quiet", "--dialect", kind, "--lift", "all"],
        directory / f"{kind}.log")
    until = time.monotonic() + START_S
    try:
        while not ready.exists():
            child.check()
            if time.monotonic() > until:
                raise WorldError(f"the exchange does not answer after {START_S:.0f} s")
            time.sleep(0.02)
    except BaseException:
        child.end()
        raise
    return child, json.loads(ready.read_bytes())


def followers(kind: str, at: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Accounts at the exchange, with their keys."""
    body: dict[str, Any] = {"n": count, "prefix": "v", "balance": "100000"}
    if kind != "binance_spot":
        body |= {"leverage": 10, "margin_type": "ISOLATED"}
    made: list[dict[str, Any]] = ask(at["control"], "POST", "/accounts", body)["accounts"]
    return made


async def adapter(terms: Terms_) -> Desk:
    """An adapter that knows its instruments; nothing stays open."""
    desk = Desk(terms)
    await desk.parts.open([(0, SYMBOLS[terms.kind])], 10)
    await desk.parts.rest.close()
    return desk


def trading(terms: Terms_) -> dict[str, Any]:
    """The report of one venue's desk."""
    done = subprocess.run(
        [sys.executable, "-m", "copyd.bench.venue_desk"], input=msgspec.json.encode(terms), stdout=subprocess.PIPE, timeout=RUN_S,
        check=False)
    if done.returncode:
        raise WorldError(f"{terms.kind}: the adapter's process ended with code {done.returncode}")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def run(settings: Settings) -> dict[str, Any]:
    """Measure; the report as it is written to JSON. ``UsageError`` for a venue there is none of."""
    unknown = sorted(set(settings.venues) - set(VENUES))
    if unknown or not settings.venues:
        raise UsageError(f"no such venue: {', '.join(unknown) or 'none'} ({', '.join(VENUES)})")
    began = time.perf_counter()
    desks: dict[str, Desk] = {}
    traded: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="copyd-bench-") as directory:
        for kind in settings.venues:
            child, at = exchange(kind, Path(directory), settings.seed)
            try:
                made = followers(kind, at, settings.accounts)
                terms = Terms_(kind=kind, at=at, accounts=made, rounds=settings.rounds, warmup=settings.warmup)
                traded[kind] = trading(terms)
                desks[kind] = asyncio.run(adapter(terms))
            finally:
                child.end()
    subjects = {kind: subject(desk, settings.encoded) for kind, desk in desks.items()}
    encoded, problems = encoding(subjects, settings)
    problems += [f"{kind}: {text}" for kind, report in traded.items() for text in report["problems"]]
    return {
        "bench": "venues", "accounts": settings.accounts, "rounds": settings.rounds, "encoded": settings.encoded,
        "turns": settings.turns, "venues": {kind: traded[kind] | {"encode": encoded[kind]} for kind in settings.venues},
        "seconds": round(time.perf_counter() - began, 1), "checked": not problems, "problems": problems,
        "conditions": conditions(EXCLUDED),
    }  # fmt: skip


#: (words, how it is read out of a venue's part of the report)
ROWS: tuple[tuple[str, Callable[[dict[str, Any]], str]], ...] = (
    ("render and sign, ns per order", lambda one: f"{one['encode']['ns_per_order']:,}"),
    ("  times the first venue's", lambda one: f"{one['encode']['ratio']:.2f}"),
    ("orders, each booked to its end with its executions", lambda one: f"{one['orders']:,}"),
    ("us of the loop thread per order", lambda one: f"{one['us_per_order']:,}"),
    ("  of which until it is handed over", lambda one: f"{one['out_us_per_order']:,}"),
    ("orders per second of the loop thread", lambda one: f"{one['orders_per_loop_s']:,}"),
    ("orders per second of the clock", lambda one: f"{one['orders_per_s']:,}"),
    ("connections of its own per account", lambda one: f"{one['connections_per_account'] or 'shared'}"),
    ("connections per minute within the venue's limit", lambda one: f"{one['connects_per_min_within_limit']:,}"),
    ("  accounts per minute", lambda one: f"{one['accounts_per_min_within_limit'] or 'all'}"),
    ("connections per minute without a limit", lambda one: f"{one['connects_per_min']:,}"),
    ("memory before, with the accounts, MiB",
     lambda one: f"{one['rss_before_bytes'] / 2**20:.1f}, {one['rss_after_bytes'] / 2**20:.1f}"),
    ("  KiB per account with its connections", lambda one: f"{one['bytes_per_account'] / 1024:.1f}"),
)  # fmt: skip


def table(report: dict[str, Any]) -> str:
    """The report for a person."""
    venues = report["venues"]
    lines = [
        f"venues: {report['accounts']} accounts on each, {report['rounds']} rounds of an order each; {report['encoded']} orders "
        f"rendered {report['turns']} times in turn",
        "",
        f"{'':<52}" + "".join(f"{kind:>15}" for kind in venues),
        *(f"{words:<52}" + "".join(f"{read(one):>15}" for one in venues.values()) for words, read in ROWS),
        "", f"checked in {report['seconds']} s" if report["checked"] else "NOT checked: " + "; ".join(report["problems"]),
        "", "conditions: " + ", ".join(f"{k} {v}" for k, v in report["conditions"].items() if k != "excluded" and v is not None),
    ]
    excluded = report["conditions"]["excluded"]
    return "\n".join([*lines, "excluded: " + excluded[0], *(f"          {text}" for text in excluded[1:])])
