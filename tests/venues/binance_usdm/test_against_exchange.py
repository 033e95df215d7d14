"""The adapter on real sockets against the simulated exchange: orders, doubt, leader feed, follower accounts."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time

import aiohttp
import pytest

from copyd._fast.encode import Encoder
from copyd._fast.replies import Replies, UserEvents
from copyd.venues.binance_usdm import codec
from copyd.venues.binance_usdm.accounts import AccountSetup, FollowerStreams
from copyd.venues.binance_usdm.contract import CONTRACT, Endpoints
from copyd.venues.binance_usdm.feed import LeaderFeed, MarketFeed
from copyd.venues.binance_usdm.gateway import REJECTS, OrderGateway
from copyd.venues.binance_usdm.instruments import load_instruments
from copyd.venues.binance_usdm.rest import RestClient, RestError
from copyd.venues.common import facts
from copyd.venues.common.facts import (
    BALANCE,
    DEAD,
    IN_DOUBT,
    REJECT,
    REPLY,
    STREAM,
    TRADE,
    AccountPosition,
    ExternalFill,
    LeaderEquity,
    LeaderFill,
    LeaderLeverage,
    LeaderPosition,
    LeaderSync,
    LeaderWallet,
    StreamGap,
)
from copyd.venues.common.signing import Key

from .conftest import rows
from .test_replies import Quiet, QuietStreams, known, owing

SITE = "cd01"
BTC, ETH = 0, 1


@pytest.fixture(scope="module")
def exchange(tmp_path_factory):
    """One exchange process for the module."""
    ready = tmp_path_factory.mktemp("exchange") / "ready.json"
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "copyd.exchange.main",
            "--seed",
            "3",
            "--lift",
            "request_weight,orders",
            "--quiet",
            "--ready-file",
            str(ready),
        ]
    )
    try:
        for _ in range(600):
            if ready.exists() or process.poll() is not None:
                break
            time.sleep(0.05)
        yield json.loads(ready.read_text())
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


class World:
    """The exchange's control port, a REST client, and helpers that trade by hand."""

    number = 0

    def __init__(self, ready):
        self.ready = ready
        self.endpoints = Endpoints.at(ready["rest"], ready["streams"])
        self.contract = CONTRACT.overridden({"engine_delay_ms": 200, "read_lag_ms": 100, "guard_ms": 100, "clock_error_ms": 100})
        self.rest = RestClient(self.endpoints, self.contract, time.time_ns, weight_limit_per_min=10_000_000)
        self.http = None
        self.instruments = None
        self.closing = []

    async def control(self, method, path, body=None):
        async with self.http.request(method, self.ready["control"] + path, json=body) as answer:
            text = await answer.text()
            assert answer.status == 200, text
            return text

    async def truth(self, path):
        return [json.loads(line) for line in (await self.control("GET", path)).splitlines()]

    async def accounts(self, n=1, **fields):
        World.number += 1
        body = {"n": n, "prefix": f"w{os.getpid()}-{World.number}-", "balance": "100000", **fields}
        made = json.loads(await self.control("POST", "/accounts", body))["accounts"]
        return [(a["name"], Key(a["api_key"].encode(), a["secret"].encode())) for a in made]

    async def trade(self, key, side, qty, symbol="BTCUSDT", **extra):
        body = await self.rest.call(
            "POST",
            "/fapi/v1/order",
            {"symbol": symbol, "side": side, "type": "MARKET", "quantity": qty, "newOrderRespType": "RESULT", **extra},
            key,
        )
        return json.loads(body)


@pytest.fixture
async def world(exchange):
    made = World(exchange)
    await made.rest.open()
    async with aiohttp.ClientSession() as made.http:
        await made.rest.measure_clock()
        made.instruments = load_instruments(await made.rest.exchange_info(), [(0, "BTCUSDT"), (1, "ETHUSDT")])
        yield made
        for close in reversed(made.closing):
            await close()
        await made.control("DELETE", "/faults")
    await made.rest.close()


async def until(condition):
    end = asyncio.get_running_loop().time() + 10.0
    while not condition():
        assert asyncio.get_running_loop().time() < end, "not in time"
        await asyncio.sleep(0.01)


async def gateway(world, keys, connections=2, **terms):
    reports = []
    contract = world.contract.overridden(terms)
    made = OrderGateway(
        url=world.endpoints.ws_api, connections=connections, instruments=world.instruments, contract=contract, clock=time.time_ns,
        venue_clock=world.rest.venue_clock, on_reports=lambda batch, ts: reports.extend(rows(batch)), queries_per_s=1000,
    )  # fmt: skip
    encoder = Encoder(contract.recv_window_ms, 11)
    for i in world.instruments:
        encoder.set_instrument(i.index, i.symbol, i.price_decimals, i.tick, i.qty_decimals, i.lot)
    for account, (_, key) in enumerate(keys):
        made.register(encoder, account, key)
    await made.start()
    world.closing.append(lambda: made.stop(0.5))

    def send(*orders):
        return made.send(encoder.encode_rows(orders, world.rest.venue_clock.timestamp_ms()))

    return made, send, reports


def cid(n):
    return bytes.fromhex(SITE + "00002a" + n.to_bytes(11, "big").hex())


async def ask_price(world, instrument=BTC):
    body = await world.rest.call("GET", "/fapi/v1/ticker/bookTicker", {"symbol": world.instruments[instrument].symbol})
    return world.instruments[instrument].ticks(json.loads(body)["askPrice"])


# --- orders -------------------------------------------------------------------------------------------------------------


async def test_orders_of_many_accounts_on_two_connections_fill_and_match_the_books(world):
    keys = await world.accounts(40, leverage=10)
    _made, send, reports = await gateway(world, keys)
    px = await ask_price(world)
    orders = [(account, BTC, cid(100 + account), 1 + account, px + px // 50, 1, 0, False) for account in range(40)]
    assert send(*orders) == 40
    await until(lambda: len(reports) == 40)
    truth = {o["clientOrderId"]: o for o in await world.truth("/truth/orders?limit=100000")}
    for row in reports:
        order = truth[row["cid"].hex()]
        assert row["kind"] == REPLY and row["status"] == codec.STATUS[order["status"]]
        assert row["cum"] == world.instruments[BTC].lots(order["executedQty"])
        assert row["order"] == order["orderId"]
        assert abs(row["cost"] - facts.money_e8(order["cumQuote"])) <= 10**4  # the answer's average is cut
    # and all of it closes, reduce-only at market
    send(*[(account, BTC, cid(200 + account), 1 + account, 0, -1, 0, True) for account in range(40)])
    await until(lambda: len(reports) == 80)
    assert {(r["kind"], r["status"]) for r in reports[40:]} == {(REPLY, 4)}


async def test_rejects_are_definite_and_carry_the_venue_code(world):
    keys = await world.accounts(1, balance="20")
    _made, send, reports = await gateway(world, keys)
    px = await ask_price(world)
    send((0, BTC, cid(301), 1000, px + 100, 1, 0, False))  # margin
    send((0, BTC, cid(302), 5, 0, -1, 0, True))  # nothing to reduce
    await until(lambda: len(reports) == 2)
    assert [(r["kind"], r["code"]) for r in reports] == [(REJECT, -2019), (REJECT, -2022)]


async def test_hedge_mode_orders_name_their_position_side(world):
    keys = await world.accounts(1, hedge=True, leverage=10)
    _made, send, reports = await gateway(world, keys)
    send((0, BTC, cid(401), 10, 0, 1, 1, False), (0, BTC, cid(402), 7, 0, -1, 2, False), (0, BTC, cid(403), 4, 0, -1, 1, False))
    await until(lambda: len(reports) == 3)
    assert {(r["kind"], r["status"]) for r in reports} == {(REPLY, 4)}
    held = {p["positionSide"]: p["lots"] for p in await world.truth(f"/truth/positions?account={keys[0][0]}")}
    assert (held["LONG"], abs(held["SHORT"])) == (6, 7)


@pytest.mark.parametrize("fault", ["drop_reply", "disconnect_live", "drop_request", "disconnect", "error_live", "error_dead"])
async def test_every_doubt_is_left_by_evidence_that_agrees_with_the_books(world, fault):
    keys = await world.accounts(1, leverage=10)
    made, send, reports = await gateway(world, keys, order_ack_timeout_ms=300, recv_window_ms=500)
    await world.control("POST", "/faults", {"action": fault, "account": keys[0][0], "method": "order.place", "count": 1})
    name = cid(500 + hash(fault) % 1000 + int(time.time_ns()) % 10**9)
    signed = time.time_ns()
    send((0, BTC, name, 10, 0, 1, 0, False))
    await until(lambda: reports)
    assert reports[0]["kind"] == IN_DOUBT
    made.query(name, 0, BTC, signed)
    await until(lambda: len(reports) >= 2)
    accepted = [o for o in await world.truth("/truth/orders?limit=100000") if o["clientOrderId"] == name.hex()]
    if accepted:
        assert (reports[-1]["kind"], reports[-1]["cum"]) == (REPLY, 10)
    else:
        assert reports[-1]["kind"] == DEAD
        assert reports[-1]["event"] >= signed + made.contract.fence_ns()
    assert made.queries_open == 0


# --- leader -------------------------------------------------------------------------------------------------------------


async def leader_feed(world, key, **options):
    events = []
    made = LeaderFeed(
        leader=0, key=key, rest=world.rest, endpoints=world.endpoints, instruments=world.instruments, contract=world.contract,
        clock=time.time_ns, on_event=events.append, **options,
    )  # fmt: skip
    world.closing.append(made.stop)
    return made, events


def of(events, kind):
    return [e for e in events if isinstance(e, kind)]


async def test_leader_is_heard_live_and_his_fold_agrees_with_what_the_venue_pushes(world):
    [(name, key)] = await world.accounts(1, leverage=10)
    await world.trade(key, "BUY", "0.050")
    made, events = await leader_feed(world, key, equity_poll_s=0.2, position_poll_s=0.2)
    await made.start()
    [sync] = of(events, LeaderSync)
    assert sync.synced and [(p.instrument, p.qty) for p in sync.positions if p.qty] == [(BTC, 50)]
    assert not of(events, LeaderFill)  # what was traded before is in the snapshot
    assert {(e.instrument, e.leverage) for e in of(events, LeaderLeverage)} == {(BTC, 10), (ETH, 10)}
    await world.trade(key, "SELL", "0.080")
    await world.trade(key, "BUY", "1.500", "ETHUSDT")
    await until(lambda: sum(f.qty for f in of(events, LeaderFill)) == 80 + 1500)
    fold = {BTC: 50, ETH: 0}
    for event in events:
        if isinstance(event, LeaderFill):
            assert event.live and event.raw and event.exec_id and event.order_qty in (80, 1500)
            fold[event.instrument] += event.side * event.qty
    await until(
        lambda: len(of(events, LeaderWallet)) >= 2 and len([p for p in of(events, LeaderPosition) if p.source == "poll"]) >= 2
    )
    pushed = {p.instrument: p.qty for p in of(events, LeaderPosition)}
    assert fold == pushed == {BTC: -30, ETH: 1500}
    await until(lambda: len(of(events, LeaderEquity)) >= 3)
    [balance] = await world.truth(f"/truth/balances?account={name}")
    assert abs(of(events, LeaderEquity)[-1].equity_e8 - facts.money_e8(balance["equity"])) < 1000 * 10**8


async def test_what_happens_while_the_stream_is_down_comes_by_back_fill_and_is_marked(world):
    [(_, key)] = await world.accounts(1, leverage=10)
    made, events = await leader_feed(world, key)
    await made.start()
    await world.trade(key, "BUY", "0.020")
    await until(lambda: of(events, LeaderFill))
    link = made._link
    real, held = link.url, asyncio.Event()

    async def later():
        await held.wait()
        return await real()

    link.url = later
    link.session.transport.underlying_transport.abort()
    await until(lambda: not made.synced)
    await world.trade(key, "BUY", "0.030")
    await world.trade(key, "SELL", "0.010")
    held.set()
    await until(lambda: made.synced)
    fills = of(events, LeaderFill)
    assert [f.live for f in fills] == sorted((f.live for f in fills), reverse=True)
    assert sum(f.qty for f in fills if not f.live) == 40
    syncs = of(events, LeaderSync)
    assert [s.synced for s in syncs] == [True, False, True]
    assert [(p.instrument, p.qty) for p in syncs[-1].positions if p.qty] == [(BTC, 40)]
    # a restart with the last id known brings exactly what came since
    await world.trade(key, "SELL", "0.040")
    again, later_events = await leader_feed(world, key)
    await again.start(watermarks={BTC: max(f.exec_id for f in fills), ETH: 0})
    missed = of(later_events, LeaderFill)
    assert sum(f.qty for f in missed) == 40 and not any(f.live for f in missed)
    # whose fold only begins: the snapshot is of the moment before them, and they lead from it to what is held now
    base = sum(p.qty for p in of(later_events, LeaderSync)[0].positions)
    assert base + sum(f.side * f.qty for f in missed) == 0


async def test_an_event_the_venue_repeats_is_dropped(world):
    [(name, key)] = await world.accounts(1, leverage=10)
    made, events = await leader_feed(world, key)
    await made.start()
    await world.control(
        "POST", "/faults", {"action": "duplicate_event", "account": name, "event": "ORDER_TRADE_UPDATE", "count": 10}
    )
    await world.trade(key, "BUY", "0.020")
    await world.trade(key, "SELL", "0.020")
    await until(lambda: sum(f.qty for f in of(events, LeaderFill)) >= 40)
    await asyncio.sleep(0.2)
    ids = [(f.instrument, f.exec_id) for f in of(events, LeaderFill)]
    assert len(ids) == len(set(ids)) and made.stats.duplicates > 0


async def big_trade(world, key, side):
    """An order that eats through several makers' orders: several executions."""
    for qty in ("3.000", "6.000", "12.000", "24.000"):
        answer = await world.trade(key, side, qty)
        told = await world.rest.call("GET", "/fapi/v1/userTrades", {"symbol": "BTCUSDT", "orderId": answer["orderId"]}, key)
        executions = [t for t in json.loads(told) if t["orderId"] == answer["orderId"]]
        if len(executions) >= 3:
            return executions
    raise AssertionError("the book is too deep for this test")


@pytest.mark.parametrize("fault", ["reorder_events", "drop_event", "delay_event"])
async def test_executions_out_of_order_or_lost_end_in_the_same_history(world, fault):
    """Each execution once and in order; a lost one comes by back-fill after a short wait (semantics 10, 11)."""
    [(name, key)] = await world.accounts(1, leverage=20, balance="10000000")
    made, events = await leader_feed(world, key)
    await made.start()
    await world.control(
        "POST",
        "/faults",
        {"action": fault, "account": name, "event": "ORDER_TRADE_UPDATE", "skip": 1, "count": 1, "delay_ms": 80},
    )
    executions = await big_trade(world, key, "BUY")
    last = max(t["id"] for t in executions)
    await until(lambda: made.synced and any(f.exec_id == last for f in of(events, LeaderFill)))
    await asyncio.sleep(0.6)
    mine = [f.exec_id for f in of(events, LeaderFill)]
    assert sorted(mine)[-len(executions) :] == [t["id"] for t in executions]
    assert len(mine) == len(set(mine)) and mine == sorted(mine)
    if fault == "drop_event":
        assert [s.synced for s in of(events, LeaderSync)] == [True, False, True]
        assert [f.exec_id for f in of(events, LeaderFill) if not f.live] == [mine[0]]
        assert made.stats.reordered > 0


async def test_renewing_the_leader_stream_loses_and_repeats_nothing(world):
    [(_, key)] = await world.accounts(1, leverage=10)
    made, events = await leader_feed(world, key)
    await made.start()
    for n in range(6):
        await world.trade(key, "BUY" if n % 2 == 0 else "SELL", "0.010")
        if n == 2:
            made._link.renew()
        await asyncio.sleep(0.05)
    await until(lambda: sum(f.qty for f in of(events, LeaderFill)) == 60)
    assert made.stats.reconnects == 1 and [s.synced for s in of(events, LeaderSync)] == [True]
    assert all(f.live for f in of(events, LeaderFill))


async def test_market_feed_brings_quotes_and_marks(world):
    quotes, marks = [], []
    made = MarketFeed(
        instruments=world.instruments, endpoints=world.endpoints, contract=world.contract, clock=time.time_ns,
        on_quotes=quotes.extend, on_marks=marks.extend,
    )  # fmt: skip
    world.closing.append(made.stop)
    await made.start()
    assert {q.instrument for q in quotes} == {m.instrument for m in marks} == {BTC, ETH}
    assert all(0 < q.bid < q.ask and q.bid_qty > 0 for q in quotes)
    assert all(abs(m.mark - q.bid) < q.bid // 10 for m in marks for q in quotes if m.instrument == q.instrument)
    assert made.age_ns(BTC) < 10**10


# --- followers ------------------------------------------------------------------------------------------------------------


async def setup(world):
    made = AccountSetup(
        rest=world.rest, ws_url=world.endpoints.ws_api, instruments=world.instruments, contract=world.contract, clock=time.time_ns
    )
    await made.open()
    world.closing.append(made.close)
    return made


async def test_activation_sets_mode_margin_and_leverage_and_verifies_them(world):
    keys = await world.accounts(5, leverage=20, margin_type="CROSSED")
    made = await setup(world)
    done = {}
    await made.activate_many(
        [(n, key, [(BTC, 7), (ETH, 3)]) for n, (_, key) in enumerate(keys)], hedge=True, on_done=done.__setitem__
    )
    for n, (_, key) in enumerate(keys):
        assert [(s.instrument, s.ready, s.hedge, s.isolated, s.leverage) for s in done[n]] == [
            (BTC, True, True, True, 7),
            (ETH, True, True, True, 3),
        ]
        told = json.loads(await world.rest.call("GET", "/fapi/v1/symbolConfig", {"symbol": "BTCUSDT"}, key))
        assert [(c["marginType"], c["leverage"]) for c in told] == [("ISOLATED", 7)]
    # a second time changes nothing, and None takes the account as it is
    [state] = await made.activate(0, keys[0][1], [(BTC, 7)])
    assert state.ready and state.hedge


async def test_activation_that_the_venue_refuses_says_why(world):
    [(_, key)] = await world.accounts(1, leverage=5, margin_type="CROSSED")
    made = await setup(world)
    await world.trade(key, "BUY", "0.010")
    [state] = await made.activate(0, key, [(BTC, 5)], hedge=True)
    assert not state.ready and state.reason.startswith("venue_refused:-40")
    [state] = await made.activate(0, key, [(BTC, 5)], isolated=True)
    assert not state.ready and state.reason.startswith("margin_type_refused:")
    [state] = await made.activate(0, Key(b"A" * 64, b"wrong"), [(BTC, 5)])
    assert not state.ready and state.reason.startswith("venue_refused:-2")


async def test_snapshots_of_many_accounts_over_one_connection(world):
    keys = await world.accounts(30, balance="1234.5", leverage=10)
    await world.trade(keys[3][1], "BUY", "0.010")
    made = await setup(world)
    read = await asyncio.gather(*(made.snapshot(n, key) for n, (_, key) in enumerate(keys)))
    seen = {snap.account: snap for snap in read}
    assert len(seen) == 30 and all(s.wallet_e8 == 1234_50000000 for n, s in seen.items() if n != 3)
    assert [p[:3] for p in seen[3].positions] == [(BTC, 0, 10)] and seen[3].wallet_e8 < 1234_50000000
    with pytest.raises(RestError):
        await made.snapshot(0, Key(keys[0][1].api_key, b"wrong"))


async def follower_streams(world, **terms):
    reports, events = [], []
    made = FollowerStreams(
        rest=world.rest, endpoints=world.endpoints, instruments=world.instruments, contract=world.contract.overridden(terms),
        clock=time.time_ns, site_tag=SITE, on_reports=lambda batch, ts: reports.extend(rows(batch)), on_event=events.append,
    )  # fmt: skip
    await made.start()
    world.closing.append(made.stop)
    return made, reports, events


async def test_many_listen_keys_on_few_connections_bring_trades_fees_and_balances(world):
    keys = await world.accounts(60, leverage=10)
    streams, stream_rows, events = await follower_streams(world, streams_per_connection_max=25)
    problems = {}
    await streams.add_many([(n, key) for n, (_, key) in enumerate(keys)], on_done=lambda n, p: p and problems.__setitem__(n, p))
    assert not problems and streams.accounts == 60 and streams.open_connections == 3
    _made, send, reports = await gateway(world, keys)
    base = 10**6 + time.time_ns() % 10**6 * 100
    send(*[(n, BTC, cid(base + n), 10, 0, 1, 0, False) for n in range(60)])
    await until(lambda: len(reports) == 60)
    await until(lambda: sum(r["last_qty"] for r in stream_rows if r["kind"] == TRADE) == 600)
    await until(lambda: len({r["account"] for r in stream_rows if r["kind"] == BALANCE}) == 60)
    for reply in reports:
        mine = [r for r in stream_rows if r["cid"] == reply["cid"]]
        trades = [r for r in mine if r["kind"] == TRADE]
        assert sum(r["last_qty"] for r in trades) == reply["cum"] == trades[-1]["cum"]
        assert all(r["fee"] > 0 and r["trade"] > 0 and r["last_px"] > 0 for r in trades)
        assert {r["kind"] for r in mine} == {TRADE}  # that it was placed is said by its answer
    assert {(e.account, e.qty) for e in events if isinstance(e, AccountPosition)} == {(n, 10) for n in range(60)}
    assert not [e for e in events if isinstance(e, (ExternalFill, StreamGap))]


async def test_what_the_follower_does_himself_is_external(world):
    [(_, key)] = await world.accounts(1, leverage=10)
    streams, stream_rows, events = await follower_streams(world)
    await streams.add(7, key)
    await world.trade(key, "SELL", "0.010", newClientOrderId="web_hand")
    await until(lambda: sum(e.qty for e in events if isinstance(e, ExternalFill)) == -10)
    fill = next(e for e in events if isinstance(e, ExternalFill))
    assert (fill.account, fill.kind, fill.client_order_id) == (7, "manual", "web_hand")
    assert not [r for r in stream_rows if r["kind"] in (TRADE, STREAM)]


async def test_a_lost_stream_connection_is_resubscribed_and_every_account_told(world):
    keys = await world.accounts(10, leverage=10)
    streams, _stream_rows, events = await follower_streams(world)
    await streams.add_many([(n, key) for n, (_, key) in enumerate(keys)])
    streams._shards[0].link.session.transport.underlying_transport.abort()
    await until(lambda: {e.account for e in events if isinstance(e, StreamGap)} == set(range(10)))
    await world.trade(keys[4][1], "BUY", "0.010")
    await until(lambda: [e for e in events if isinstance(e, ExternalFill)])


async def test_an_account_that_could_not_be_listened_to_is_tried_again_and_told(world):
    [(name, key)] = await world.accounts(1, leverage=10)
    streams, _stream_rows, events = await follower_streams(world)
    await world.control(
        "POST", "/faults", {"action": "error_dead", "account": name, "method": "POST /fapi/v1/listenKey", "count": 1}
    )
    problems = []
    await streams.add_many([(5, key), (6, Key(b"B" * 64, b"x"))], on_done=lambda n, p: problems.append((n, bool(p))))
    assert sorted(problems) == [(5, True), (6, True)]
    await until(lambda: [e.account for e in events if isinstance(e, StreamGap)] == [5])
    assert streams.accounts == 1 and not streams._absent  # a key the venue refuses is not knocked with again


async def test_an_expired_listen_key_is_renewed_and_the_gap_told(world):
    [(_, key)] = await world.accounts(1, leverage=10)
    streams, _stream_rows, events = await follower_streams(world, listen_key_keepalive_ms=300)
    await streams.add(0, key)
    first = streams._members[0].listen_key
    await until(lambda: streams.stats.keep_alives >= 1)
    await world.rest.call("DELETE", "/fapi/v1/listenKey", {"listenKey": first}, key, signed=False)
    await until(lambda: [e for e in events if isinstance(e, StreamGap)])
    assert streams._members[0].listen_key != first and streams.stats.keys_renewed == 1
    await world.trade(key, "BUY", "0.010")
    await until(lambda: [e for e in events if isinstance(e, ExternalFill)])


async def test_a_clock_that_is_off_is_named_before_anything_is_sent(world):
    await world.control("POST", "/clock", {"skew_ms": 7000})
    try:
        await world.rest.measure_clock()
        assert "off by" in world.rest.venue_clock.problem()
        # and requests still get through, stamped with the venue's time: reductions must
        [(_, key)] = await world.accounts(1)
        await world.rest.call("GET", "/fapi/v3/account", {}, key)
    finally:
        await world.control("POST", "/clock", {"skew_ms": 0})
    await world.rest.measure_clock()
    assert world.rest.venue_clock.problem() is None


async def test_what_the_exchange_sends_is_read_compiled_and_as_the_twin_reads_it(world):
    """Every answer and event of a burst, recorded: the compiled reader accepts them all, and the twin's rows are the same."""
    keys = await world.accounts(8)
    made, send, _ = await gateway(world, keys)
    answers, events = [], []
    for link in made._links:
        link.session.ear.deaf()  # so that every frame comes by here
        link.on_frame = lambda session, payload: (answers.append(payload), made._on_frame(session, payload))
    streams = FollowerStreams(
        rest=world.rest, endpoints=world.endpoints, instruments=world.instruments, contract=world.contract,
        clock=time.time_ns, site_tag=SITE, on_reports=lambda batch, ts: None, on_event=lambda event: None)  # fmt: skip
    streams._compiled = False
    streams._on_frame, heard = lambda session, payload: (events.append(payload), heard(session, payload)), streams._on_frame
    await streams.start()
    world.closing.append(streams.stop)
    await streams.add_many([(account, key) for account, (_, key) in enumerate(keys)])
    events.clear()
    ids = [cid(4000 + n) for n in range(40)]
    # A market order; every fifth a quantity that the venue refuses; sales after the purchases, so that positions turn.
    orders = [(n % 8, BTC, one, 10 if n % 5 else 10**9, 0, 1 if n < 24 else -1, 0, False) for n, one in enumerate(ids)]
    send(*orders)
    await until(lambda: len(answers) == 40 and sum(b'"x":"TRADE"' in event for event in events) >= 32)
    await asyncio.sleep(0.1)
    assert any(b'"error"' in answer for answer in answers)
    kernel, kernel_events = known(Replies(REJECTS), world.instruments), known(UserEvents(SITE, False), world.instruments)
    for account, member in streams._members.items():
        kernel_events.listen(member.listen_key, account)
    pending = owing(*ids)
    assert all(kernel.reply(answer, pending) for answer in answers) and len(pending) == 0
    told = [kernel_events.event(event) for event in events]
    assert 0 not in told and told.count(1) >= 64
    twin, quiet = Quiet(False), QuietStreams(False)
    twin.instruments = quiet.instruments = world.instruments
    twin.lane.pending = owing(*ids)
    for answer in answers:
        twin.hear(answer)
    assert kernel.batch.to_bytes() == twin._replies.batch.to_bytes()
    quiet._by_key = streams._by_key
    for event in events:
        quiet.hear(event)
    assert kernel_events.batch.to_bytes() == quiet._events.batch.to_bytes()
