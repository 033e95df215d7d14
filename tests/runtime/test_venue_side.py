"""Between the adapter and the engine: what must not be lost, taken for something else, or hold up everybody."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from copyd._fast.columns import ReportBatch
from copyd.app import Daemon
from copyd.control.protocol import Actor
from copyd.core import engine as e
from copyd.core.engine import Engine
from copyd.core.rows import InstrumentRow, OrderRow, OrderState, Params, PlanRow, PlanState
from copyd.credentials import Credentials
from copyd.errors import VenueUnavailable
from copyd.vault.signer import SignerLimits
from copyd.venue_side import ORDERS, VenueSide
from copyd.venues.common.facts import REPLY, AccountSnapshot

from .test_pump import E8, SECOND, plan

PLANS, LEGS, ACCOUNT_INSTRUMENTS = 3, 6, 5
ACTOR = Actor(1, 1, 1, "test")


class Log:
    def __getattr__(self, name: str) -> Any:
        return lambda *words, **fields: logging.getLogger(__name__).debug("%s %s", words, fields)


def world(followers: int = 1) -> tuple[Engine, Any]:
    """An engine with two instruments that is ready to copy, and its ``step``."""
    engine = Engine(4)
    now = 1_000 * SECOND

    def step(value: Any) -> Any:
        return engine.step(now, value)

    specs = [e.InstrumentSpec(name, InstrumentRow(value_mul=10_000).pack(), 1, 3) for name in ("BTCUSDT", "ETHUSDT")]
    for value in (
        e.Started(1, 7, bytes(16), "test"),
        e.Configured(1, Params(orders_per_window=60_000).pack(), specs, ["L"]),
        e.LeaderSync(0, True, []),
        e.Command("import_plans", {"plans": [plan(f"f{i}") for i in range(followers)]}),
        e.LegsReady([(i, k, True, False, True, 10) for i in range(followers) for k in (0, 1)]),
        e.AccountSnapshots([(i, 10_000 * E8, []) for i in range(followers)]),
        e.LeaderEquity(0, 100_000 * E8, now),
        e.Quotes([(k, 599_999, 600_001, 600_000, now) for k in (0, 1)]),
    ):
        step(value)
    return engine, step


def buy(step: Any, exec_id: int, instrument: int = 0) -> Any:
    """The leader opens."""
    now = 1_000 * SECOND
    return step(e.LeaderFill(0, instrument, 0, exec_id, exec_id, 1, 1000, 600_000, 1000, True, False, "", now, now, b""))


def side_of(engine: Engine, offered: list[Any], credentials: dict[str, Any]) -> VenueSide:
    """The venue side without a venue."""
    side = object.__new__(VenueSide)
    side.engine = engine
    side.credentials = credentials or Credentials({})  # type: ignore[assignment]
    side.log = Log()
    side.clock = SimpleNamespace(now_ns=lambda: 1_000 * SECOND)  # type: ignore[assignment]
    side.owner = SimpleNamespace(offer=offered.append, alert=lambda alert: None, fail=offered.append)  # type: ignore
    side._keyless, side._adopting, side._tasks = set(), set(), set()
    side.limits = SignerLimits(side.owner.alert)
    side.limits.bind(engine, [0, 1])
    return side


def test_an_order_in_doubt_of_an_account_without_a_key_does_not_stop_the_start() -> None:
    """A credential may go while the daemon is down; the order stays in doubt and is asked about when the key is back."""
    engine, step = world()
    buy(step, 1)
    asked = step(e.Started(2, 7, bytes(16), "test")).queries
    assert len(asked) == 1
    side = side_of(engine, [], {})
    queries: list[bytes] = []
    side.gateway = SimpleNamespace(query=lambda cid, *more, **how: queries.append(cid), queries_open=0)
    side.parts = SimpleNamespace(register=lambda *arguments: None)  # type: ignore[assignment]
    side.register(0, "f0")
    side.query(asked[0], 1)
    assert queries == []
    secret = SimpleNamespace(reveal=lambda: "s")
    side.credentials = {"f0": SimpleNamespace(key=secret, secret=secret, passphrase=secret, cap_e8=0)}  # type: ignore[assignment]
    side.register(0, "f0")
    assert queries == [OrderRow.unpack(engine.columns.get(ORDERS, asked[0])).cid]


def test_an_account_that_its_venue_lets_in_no_more_is_an_alert() -> None:
    """By the same name as one that was never let in, with the venue's own words."""
    engine, _ = world()
    side = side_of(engine, [], {})
    said: list[e.Alert] = []
    side.owner = SimpleNamespace(alert=said.append)  # type: ignore[assignment]
    side.config = SimpleNamespace(site=SimpleNamespace(id=7))  # type: ignore[assignment]
    side._hooks().on_shut_out(0, "login refused: no such key")
    assert said == [e.Alert("user_stream_refused", "login refused: no such key", {"account": "f0"})]


async def test_a_position_is_not_adopted_from_a_look_taken_while_an_order_was_in_flight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What fills between the venue's look and its answer would pass for the follower's own sale, and never be closed."""
    monkeypatch.setattr("copyd.venue_side.ADOPT_WAIT_S", 0.001)
    engine, step = world()
    refused = buy(step, 1)
    slot = int.from_bytes(refused.orders[:4], "little")
    offered: list[Any] = []
    secret = SimpleNamespace(reveal=lambda: "s")
    side = side_of(engine, offered, {"f0": SimpleNamespace(key=secret, secret=secret, passphrase=secret)})
    looks: list[int] = []

    async def look(account: int, key: Any) -> AccountSnapshot:
        looks.append(OrderRow.unpack(engine.columns.get(ORDERS, slot)).state)
        return AccountSnapshot(0, 10_000 * E8, 0, 0, (), 0, 0)

    side.setup = SimpleNamespace(snapshot=look)  # type: ignore[assignment]
    side.ask_positions(refused.orders[:4], engine.names.seq)
    await asyncio.sleep(0.02)
    assert looks == [] and offered == []
    engine._edit(ORDERS, slot, OrderRow, state=OrderState.FILLED)
    await asyncio.sleep(0.1)
    assert looks == [OrderState.FILLED]
    assert len(offered) == 1 and offered[0].adopt


async def test_a_task_of_the_venue_side_never_ends_unheard() -> None:
    """The clock's measuring or a back-fill that dies of our own mistake stops the process."""
    offered: list[Any] = []
    side = side_of(world()[0], offered, {})

    async def broken() -> None:
        raise RuntimeError("ours")

    side._spawn(broken())
    await asyncio.sleep(0.01)
    assert [type(error) for error in offered] == [RuntimeError]


async def test_an_order_answered_as_alive_is_asked_about_when_its_end_is_not_heard() -> None:
    """Only the user stream would tell its end, and that stream may be deaf; a leg with an order out is not retried."""
    engine, step = world()
    sent = buy(step, 1)
    slot = int.from_bytes(sent.orders[:4], "little")
    cid = OrderRow.unpack(engine.columns.get(ORDERS, slot)).cid
    side = side_of(engine, [], {})
    side.owner = SimpleNamespace(offer=step)  # type: ignore[assignment]
    side.contract = SimpleNamespace(order_ack_timeout_ms=20)  # type: ignore[assignment]
    queries: list[bytes] = []
    side.gateway = SimpleNamespace(query=lambda name, *more, **how: queries.append(name), queries_open=0)  # type: ignore[assignment]
    for status, expected in ((2, [cid]), (4, [cid])):
        batch = ReportBatch()
        batch.append(REPLY, status, cid, OrderRow.unpack(engine.columns.get(ORDERS, slot)).order_qty if status == 4 else 0)
        side._reports(batch, 0)
        await asyncio.sleep(0.05)
        assert queries == expected


def daemon_of(engine: Engine, step: Any) -> tuple[Daemon, list[list[int]]]:
    """The daemon's commands on an engine, without a journal or a venue; and the accounts that were to be activated."""
    daemon = object.__new__(Daemon)
    activated: list[list[int]] = []

    async def command(name: str, args: dict[str, Any], actor: Actor) -> Any:
        return step(e.Command(name, args))

    daemon.engine = engine
    daemon.side = SimpleNamespace(register=lambda account, name: None)  # type: ignore[assignment]
    daemon._command = command  # type: ignore[method-assign]
    daemon._activate = lambda accounts, known=False: activated.append(list(accounts))  # type: ignore[method-assign]
    return daemon, activated


@pytest.mark.parametrize("state", ["paused", "close_only", "stopped"])
async def test_a_new_limit_does_not_start_a_plan_again(state: str) -> None:
    """Pause, close-only and stop outlive a change of something else."""
    engine, step = world()
    daemon, _ = daemon_of(engine, step)
    if state == "stopped":
        step(e.Command("stop_plan", {"follower": "f0"}))
    else:
        step(e.Command("set_state", {"scope": "plan", "name": "f0", "state": state}))
    await daemon.plan_change("f0", {"max_position_bps": 2_000}, ACTOR)
    row = PlanRow.unpack(engine.columns.get(PLANS, 0))
    assert (row.max_position_bps, PlanState(row.state).name.lower()) == (2_000, state)
    await daemon.plan_change("f0", {"state": "active"}, ACTOR)
    assert PlanRow.unpack(engine.columns.get(PLANS, 0)).state == PlanState.ACTIVE


async def test_a_second_plan_on_an_account_activates_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """An account that is up is not set for instruments that no plan of it had before."""
    engine, step = world()
    daemon, activated = daemon_of(engine, step)
    daemon.credentials = Credentials({})
    monkeypatch.setattr("copyd.app.missing_names", lambda credentials, names: [])
    step(e.Command("change_plan", {"follower": "f0", "leader": "L", "spec": plan("f0") | {"instruments": ["BTCUSDT"]}}))
    spec = plan("f1") | {"account": "f0", "instruments": ["ETHUSDT"]}
    monkeypatch.setattr("copyd.app.plan_fields", lambda given: spec)
    async for _ in daemon.import_followers([SimpleNamespace(account="f0")], ACTOR):  # type: ignore[list-item]
        pass
    assert len(engine.names.accounts) == 1
    assert activated == [[0]]


def test_the_same_trade_number_in_another_instrument_is_another_trade() -> None:
    """The venue counts trades per symbol (semantics 10)."""
    _, step = world()
    assert step(e.ExternalFill(0, 0, 0, 5, 77, "manual")) is not None
    assert step(e.ExternalFill(0, 0, 0, 5, 77, "manual")) is None
    assert step(e.ExternalFill(0, 1, 0, 5, 77, "manual")) is not None


def test_trades_by_hand_do_not_grow_the_state_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the newest are remembered, in the checkpoint and in memory alike."""
    monkeypatch.setattr("copyd.core.engine.EXTERNAL_SEEN_MAX", 100)
    engine, step = world()
    for trade in range(1_000):
        step(e.ExternalFill(0, 0, 0, 1 if trade % 2 else -1, trade, "manual"))
    assert len(engine.names.external_seen) <= 100
    assert engine.external_seen == set(engine.names.external_seen)
    assert step(e.ExternalFill(0, 0, 0, 1, 999, "manual")) is None




class Feed:
    """A leader's feed that answers or does not."""

    def __init__(self, answers: bool) -> None:
        self.answers, self.stopped, self.synced = answers, False, False

    async def start(self, *resume: Any, **more: Any) -> None:
        if not self.answers:
            raise VenueUnavailable("leader 0 did not sync in 1 s: no answer")
        self.synced = True

    async def stop(self) -> None:
        self.stopped = True


def leader_side(engine: Engine, answers: list[bool]) -> tuple[VenueSide, list[Any], list[Any]]:
    """A venue side with one leader, whose feeds answer or not in turn; what it offers, and its alerts."""
    offered: list[Any] = []
    secret = SimpleNamespace(reveal=lambda: "s")
    side = side_of(engine, offered, {"lead": SimpleNamespace(key=secret, secret=secret, passphrase=secret)})
    said: list[Any] = []
    side.owner = SimpleNamespace(alert=said.append, offer=offered.append, fail=offered.append)  # type: ignore[assignment]
    side.venue = SimpleNamespace(name="a")  # type: ignore[assignment]
    side.config = SimpleNamespace(leaders=[SimpleNamespace(  # type: ignore[assignment]
        id="L", venue="a", credential="lead", equity_poll_interval_ms=1000, position_poll_interval_ms=1000)])
    side.leaders, side._transfers_read, side.start_timeout_s = {}, {}, 1.0
    feeds = iter([Feed(answer) for answer in answers])

    async def check_key(key: Any) -> None:
        if not answers[0]:
            raise VenueUnavailable("no answer")

    async def flows(key: Any, since: int) -> list[Any]:
        raise VenueUnavailable("no answer")

    side.rest = SimpleNamespace(venue_clock=SimpleNamespace(offset_ns=0))
    side.parts = SimpleNamespace(  # type: ignore[assignment]
        check_key=check_key, flows=flows, leader_feed=lambda terms: next(feeds))
    return side, offered, said


async def test_a_leader_who_was_heard_before_and_does_not_answer_ends_no_start_of_several_venues(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """He is said, stays out of sync and is asked again until he answers; the other venues trade meanwhile."""
    monkeypatch.setattr("copyd.venue_side.ACTIVATE_RETRY_S", 0.001)
    engine, _ = world()
    side, offered, said = leader_side(engine, [False, False, True])
    await side.start_leaders(alone=False)
    assert [alert.name for alert in said] == ["leader_not_heard"] and "did not sync" in said[0].text
    await asyncio.gather(*side._tasks)
    assert side.leaders[0].synced and not side.leaders[0].stopped
    assert offered and all(isinstance(one, e.LeaderSync) and not one.synced for one in offered)


async def test_a_leader_who_does_not_answer_ends_the_start_of_his_venue_alone_or_of_a_first_life() -> None:
    """Nothing could be copied, or an address is wrong that never was right: the operator is told at once."""
    engine, _ = world()
    side, _, said = leader_side(engine, [False])
    with pytest.raises(VenueUnavailable):
        await side.start_leaders()
    fresh = Engine(4)
    fresh.step(1, e.Started(1, 7, bytes(16), "test"))
    fresh.step(2, e.Configured(1, Params().pack(), [e.InstrumentSpec("BTCUSDT", InstrumentRow().pack(), 1, 3)], ["L"]))
    side, _, said = leader_side(fresh, [False])
    with pytest.raises(VenueUnavailable):
        await side.start_leaders(alone=False)
    assert not said and not side._tasks


async def test_a_leader_whose_key_goes_while_he_is_asked_again_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is tried without a key; once another is stored he is heard with it, and only one of two who try goes on."""
    monkeypatch.setattr("copyd.venue_side.ACTIVATE_RETRY_S", 0.001)
    engine, _ = world()
    side, offered, _ = leader_side(engine, [False, True])
    key = side.credentials.get("lead")
    await side.start_leaders(alone=False)
    side.credentials = {}  # type: ignore[assignment]
    await asyncio.sleep(0.02)
    assert side._tasks and all(isinstance(one, e.LeaderSync) for one in offered)
    await side._read_transfers(0, "lead")
    side.credentials = {"lead": key}  # type: ignore[assignment,dict-item]
    side.renew_leader(0)
    await asyncio.gather(*side._tasks)
    assert side.leaders[0].synced and not side.leaders[0].stopped
    assert all(isinstance(one, e.LeaderSync) for one in offered)
