"""One seed at level B: a daemon, an exchange and a network between them, from start to verdict.

First the safety phase with every fault the seed allows, then the fair phase: faults end, connections that lead nowhere are
reset, and within a limit everything must be settled. Judged from the exchange's own books.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec

from copyd import app
from copyd._fast import sim_engine as eng
from copyd.control.protocol import Actor
from copyd.core.engine import (
    ACCOUNT_INSTRUMENTS,
    LEGS,
    ORDERS,
    POSITIONS,
    Announced,
    Recorded,
    Reports,
    check_law,
    decode_payload,
)
from copyd.core.fixed import ONE
from copyd.core.rows import (
    UNFINISHED_MASK,
    AccountInstrumentRow,
    LeaderPositionRow,
    LegRow,
    NamedOrder,
    OrderRow,
    OrderState,
    ReportKind,
    ReportRow,
)
from copyd.errors import BrokenInvariant, OperatorError, VenueUnavailable
from copyd.exchange.host import dialect_of
from copyd.followers import PlanSpec
from copyd.sim.draws import Draws, Fired
from copyd.sim.wire.book import Book, our_id
from copyd.sim.wire.hosted import HostVenue
from copyd.sim.wire.loop import START_S, Stuck, VirtualLoop
from copyd.sim.wire.node import Medium, VirtualClock, config_of, credential, daemon_of, installed
from copyd.sim.wire.transport import MemoryTransport, Network
from copyd.sim.wire.venue import Venue

E8 = 10**8
ACTOR = Actor(1, 0, 0, "wire")
READY_S, SETTLE_S, START_TRIES = 20.0, 120.0, 40
STEPS_MAX = 400_000
#: (least, up to so many more) lots of a leader's order, by instrument: some 1,000 to 50,000 USD on either market.
SIZES = ((20, 900), (400, 18_000))
SPOT_SIZES = ((2_000, 90_000), (4_000, 180_000))
#: The collector rests within a run; between runs it is let loose now and then.
COLLECT_EVERY = 8
SETTLED = (OrderState.NEW, OrderState.PARTIALLY_FILLED, OrderState.FILLED)

BINANCE_USDM = "binance_usdm"

Trace = Callable[[str], None]


class Violation(NamedTuple):
    """A rule that did not hold: which, when (simulated ns), in words."""

    invariant: str
    t: int
    text: str


class Result(NamedTuple):
    """What one seed came to."""

    seed: int
    steps: int
    sim_ns: int
    faults: dict[str, int]
    crash_points: dict[str, int]
    violations: list[Violation]
    digest: str
    fired: list[Fired]
    counters: dict[str, int]


class Options(msgspec.Struct, frozen=True):
    """What can be said of a world beside its seed."""

    venue: str = BINANCE_USDM  # whose words its venue speaks


def venue_of(
    kind: str, draws: Draws, clock: Callable[[], int], seed: int, trace: Callable[..., None]
) -> Venue | HostVenue:
    """The venue of a world. UsageError: there is none of that kind."""
    if kind == BINANCE_USDM:
        return Venue(draws, clock, seed, trace)
    return HostVenue(draws, clock, seed, trace, dialect_of(kind))


class World:
    """Everything of one run."""

    def __init__(
        self, seed: int, draws: Draws, loop: VirtualLoop, trace: Trace | None, kind: str = BINANCE_USDM,
    ) -> None:
        """``kind``: whose words the venue speaks."""
        self.kind = kind
        self.seed, self.draws, self.loop = seed, draws, loop
        self._say = trace
        self._hash = blake2b(digest_size=16)
        self.counters: Counter[str] = Counter()
        self.violations: list[Violation] = []
        self.network = loop.network = Network(loop, draws, self.trace)
        self.network.written = self._written
        self.true_clock = VirtualClock(loop)
        # The node's clock may be off by less than the venue takes; the adapter measures the rest away.
        self.clock = VirtualClock(
            loop, (draws.draw("clock.offset", 1_200) - 600) * 10**6 if draws.fault("L14/offset", 300_000) else 0,
            draws.draw("clock.drift", 401) - 200 if draws.fault("L14/drift", 300_000) else 0)
        self.book = Book()
        self.medium = Medium()
        self.medium.on_append, self.medium.on_durable = self._appended, self.book.committed
        self.venue = venue_of(kind, draws, self.true_clock.true_ns, seed, self.trace)
        self.venue.heard = self._heard
        self.daemon: app.Daemon | None = None
        self.killed = asyncio.Event()
        self.crashes: dict[str, int] = {}
        #: No faults are wanted now: a good start, and the fair phase.
        self.calm = False
        self.names: list[str] = []
        self.handled: set[str] = set()  # who has traded or moved coins by hand
        self.accounts: dict[str, int] = {}
        self.spot = self.venue.spot
        self.hedge = draws.chance("leader.hedge", 150_000) and not self.spot
        self.connections = 1 + draws.draw("node.connections", 3)

    # -- words ----------------------------------------------------------------------------------------------------------
    def trace(self, what: str, who: str = "", detail: Any = "") -> None:
        """One event of the run: into the digest, and to whoever listens."""
        now = self.loop.time() - START_S
        self._hash.update(f"{now:.6f} {what} {who} {detail}".encode())
        if self._say is not None and what not in ("close", "lost", "eof"):
            self._say(f"{now:11.6f}  {what[:9]:<9} {who} {detail}")

    def violate(self, invariant: str, text: str) -> None:
        """Note a rule that did not hold; the first hundred are kept."""
        self.trace("VIOLATION", invariant, text)
        if len(self.violations) < 100:
            self.violations.append(Violation(invariant, int((self.loop.time() - START_S) * 1e9), text))

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    # -- what is observed -----------------------------------------------------------------------------------------------
    def _appended(self, seq: int, kind: int, payload: bytes) -> None:
        self.counters["records"] += 1
        self.trace("record", f"{seq}/{kind}", blake2b(payload, digest_size=8).hexdigest())
        recorded = decode_payload(payload)
        if self._say is not None:
            self._tell(recorded, self._say)
        if not self.book.appended(seq, isinstance(recorded.input, Announced), recorded.named, self.medium.durable):
            self.violate("S2", f"record {seq} is not what orders may have been sent by before it was written")

    def _tell(self, recorded: Recorded, say: Callable[[str], None]) -> None:
        """What a record says, for whoever reads the history."""
        now = self.loop.time() - START_S
        value = recorded.input
        text = f"{type(value).__name__} {value}" if not isinstance(value, Reports) else "Reports " + "; ".join(
            f"{ReportKind(row.kind).name} {row.cid.hex()[:14]} {row.status} cum {row.cum_qty}"
            for row in ReportRow.unpack_all(value.rows))
        say(f"{now:11.6f}  {'core':<9} {text[:240]}")
        for row in NamedOrder.unpack_all(recorded.named):
            say(f"{now:11.6f}  {'core':<9}   order {row}")

    def _written(self, transport: MemoryTransport, data: bytes) -> None:
        self.counters["bytes"] += len(data)

    def _heard(self, event: tuple[Any, ...]) -> None:
        """An event of the exchange's engine: every acceptance under one of our ids is held against the journal."""
        if event[0] != eng.EV_NEW or event[3] < 0:
            return
        order = self.venue.engine.order(event[3])
        cid = our_id(order)
        if cid is None:
            return
        self.counters["accepted"] += 1
        account = self.accounts.get(self.venue.accounts.name(order[2]), -1)
        state = self._belief(cid)
        for invariant, text in self.book.accept(cid, order, account, state):
            self.violate(invariant, text)

    def _order(self, cid: bytes) -> OrderRow | None:
        daemon = self.daemon
        if daemon is None or not hasattr(daemon, "engine"):
            return None
        slot = daemon.engine.columns.order_slot(cid)
        return None if slot is None else OrderRow.unpack(daemon.engine.columns.get(ORDERS, slot))

    def _belief(self, cid: bytes) -> OrderState | None:
        row = self._order(cid)
        return None if row is None else OrderState(row.state)

    def _problem(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What nobody caught: the daemon's handler decides, and it is a finding."""
        error = context.get("exception")
        message = str(context.get("message", ""))
        if "never retrieved" in message:
            return
        self.violate("P12", f"{message}: {error!r}")
        if self.daemon is not None:
            self.daemon.loop_problem(loop, context)

    # -- the node -------------------------------------------------------------------------------------------------------
    async def start_node(self) -> None:
        """Start the daemon as its supervisor would: again after a start that found no venue."""
        for attempt in range(START_TRIES):
            # A venue that is never reached is no history: at last the weather lets one start through.
            self.draws.healthy = self.calm or attempt >= 8
            self.clock.read_again()
            daemon = self.daemon = daemon_of(self.config, self.credentials, self.clock)
            self.trace("start", str(self.medium.epoch + 1), attempt)
            self.counters["starts"] += 1
            try:
                start = asyncio.ensure_future(daemon.start())
                either: set[asyncio.Future[Any]] = {start, daemon.exit}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if start.cancelled():
                    continue  # killed while it started
                if start.done():
                    start.result()
                    if not daemon.exit.done():
                        self.draws.healthy = self.calm
                        return
                start.cancel()
                await asyncio.gather(start, return_exceptions=True)
            except (VenueUnavailable, OperatorError) as problem:
                self.trace("start failed", "", f"{type(problem).__name__}: {problem}")
                if isinstance(problem, OperatorError) and "refuses the credential" not in str(problem):
                    self.violate("L4", f"the start was given up: {problem}")
            self._died(daemon)
            await self.stop_node(0.0)
            await asyncio.sleep(1.0)
        raise Stuck("the daemon did not start")

    def _died(self, daemon: app.Daemon) -> None:
        if daemon.exit.done() and daemon.exit.result() != 0:
            self.violate("P12", f"the daemon ended itself with {daemon.exit.result()}")

    async def stop_node(self, drain_s: float) -> None:
        """SIGTERM: drain, close, write the state."""
        daemon, self.daemon = self.daemon, None
        if daemon is not None:
            self.trace("stop", "", drain_s)
            await daemon.stop(drain_s)

    def kill_soon(self, name: str) -> None:
        """SIGKILL between two callbacks, some way on."""
        self.killed.clear()
        self.loop.interrupt = (self.loop.steps + self.draws.param(name, "steps", 1, 400), self.kill)

    def kill(self) -> None:
        """Nothing of the process runs on, nothing it had not given away gets out, nobody in it is told."""
        daemon, self.daemon = self.daemon, None
        self.trace("kill")
        self.crashes["kill"] = self.crashes.get("kill", 0) + 1
        self.killed.set()
        if daemon is None:
            return
        if hasattr(daemon, "pump"):
            daemon.pump.stop()
        if hasattr(daemon, "journal"):
            daemon.journal.die()  # type: ignore[attr-defined]
        for transport in list(self.network.living.values()):
            if transport.at_node:
                transport.die()
        for task in self.loop.tasks():
            if of_the_node(task):
                task.cancel()

    async def import_plans(self) -> None:
        """The operator's import."""
        draws = self.draws
        specs = [
            PlanSpec(
                follower=name, leader="L", account=name, allocation_e8=(500 + draws.draw("plan.allocation", 20_000)) * E8,
                mode=("proportional", "fixed_ratio")[draws.draw("plan.mode", 2)], leverage=5, leverage_max=20,
                max_position_bps=10_000, max_loss_per_trade_bps=0, slippage_bps=200, slippage_mid_bps=200,
                min_policy=("carry", "skip", "raise")[draws.draw("plan.min", 3)],
                ratio_snapshot=("position_open", "each_order", "follow")[draws.draw("plan.snapshot", 3)],
            )
            for name in self.names
        ]
        assert self.daemon is not None
        async for _ in self.daemon.import_followers(specs, ACTOR):
            pass

    # -- the leader and the others --------------------------------------------------------------------------------------
    def held(self, name: str, symbol: int, side: int = 0) -> int:
        """The exchange's word on a position."""
        return int(self.venue.engine.position(self.venue.accounts.index[name], symbol, side)[0])

    def leader_move(self, flat: bool = False) -> None:
        """Open, add, reduce, close, flip; on spot he buys and sells what he holds."""
        draws, venue = self.draws, self.venue
        account = venue.accounts.index["leader"]
        symbol = draws.draw("leader.symbol", 2)
        for index in (0, 1) if flat else (symbol,):
            if self.spot:
                self._buy_or_sell(account, index, flat)
                continue
            if self.hedge:
                side = 1 + draws.draw("leader.side", 2)
                for position_side in (1, 2) if flat else (side,):
                    have = self.held("leader", index, position_side)
                    sign = 1 if position_side == 1 else -1
                    if flat or (have and draws.chance("leader.reduce", 450_000)):
                        qty = abs(have) if flat or draws.chance("leader.all", 400_000) else 1 + draws.draw(
                            "leader.part", max(1, abs(have)))
                        if have:
                            venue.trade(account, index, -sign, min(qty, abs(have)), position_side=position_side)
                    else:
                        venue.trade(account, index, sign, self._size(index), position_side=position_side)
                continue
            have = self.held("leader", index)
            sign = 1 if have > 0 else -1
            what = draws.draw("leader.what", 10)
            if flat:
                if have:
                    venue.trade(account, index, -sign, abs(have), reduce_only=True)
            elif not have:
                venue.trade(account, index, 1 if what < 5 else -1, self._size(index))
            elif what < 3:
                venue.trade(account, index, sign, self._size(index))
            elif what < 6:
                venue.trade(account, index, -sign, 1 + draws.draw("leader.part", abs(have)))
            elif what < 8:
                venue.trade(account, index, -sign, abs(have), reduce_only=True)
            else:
                draws.count("L22")
                venue.trade(account, index, -sign, abs(have) + self._size(index))
        self.counters["leader_moves"] += 1

    def _size(self, symbol: int) -> int:
        least, more = (SPOT_SIZES if self.spot else SIZES)[symbol]
        return least + self.draws.draw("leader.size", more)

    def _buy_or_sell(self, account: int, symbol: int, flat: bool) -> None:
        """Of an asset: more of it, some, or all of what is held. A rest that the venue would not take is never left."""
        draws, venue = self.draws, self.venue
        have, least = self.held("leader", symbol), self._least(symbol)
        what = draws.draw("leader.what", 10)
        if (not flat and (not have or what < 4)) or 0 < have < least:
            venue.trade(account, symbol, 1, self._size(symbol))
        have = self.held("leader", symbol) if flat else have
        if not have or not (flat or what >= 4):
            return
        part = have if flat or what >= 7 else least + draws.draw("leader.part", have)
        venue.trade(account, symbol, -1, part if have - part >= least else have)

    def _least(self, symbol: int) -> int:
        """Lots of an asset that the venue surely takes, whatever the price becomes meanwhile."""
        engine = self.venue.engine
        return int(2 * engine.specs[symbol].min_notional_e8 // (engine.mark(symbol) * engine.specs[symbol].value_mul)) + 1

    async def leader(self) -> None:
        """The safety phase's moves."""
        draws = self.draws
        for _ in range(4 + draws.draw("leader.moves", 9)):
            self.leader_move()
            if draws.fault("L23/burst", 100_000):
                for _ in range(draws.param("L23/burst", "n", 2, 8)):
                    self.leader_move()
            ms = (0, 30, 300, 1_500, 4_000)[draws.draw("leader.pace", 5)]
            await asyncio.sleep((1 + draws.draw("leader.wait", ms + 200)) / 1000)

    async def weather(self) -> None:
        """Accidents that belong to no request."""
        draws, venue = self.draws, self.venue
        fault, param = draws.fault, draws.param
        while True:
            await asyncio.sleep((50 + draws.draw("weather.wait", 900)) / 1000)
            if self.calm:
                return
            anyone = self.names[draws.draw("weather.who", len(self.names))]
            account = venue.accounts.index[anyone]
            if fault("O21/cut_api", 40_000):
                venue.cut_one("api", True)
            if fault("L12/cut_private", 40_000):
                venue.cut_one("private", param("L12/cut_private", "hard", 0, 1) == 1)
            if fault("L12/cut_market", 20_000):
                venue.cut_one("public", True)
                venue.cut_one("market", True)
            if fault("L12/key_leader", 15_000):
                venue.expire_key(venue.accounts.index["leader"])
            if fault("L12/key_follower", 30_000):
                venue.expire_key(account)
            if fault("L14/venue_steps", 10_000):
                venue.set_skew((param("L14/venue_steps", "ms", 0, 600) - 300) * 10**6)
            if fault("P08/step", 10_000):
                back = self.clock.stepped_ns
                self.clock.stepped_ns = (param("P08/step", "ms", 0, 600) - 300) * 10**6 if not back else 0
            if fault("P06/stall", 15_000):
                self.loop.stall(param("P06/stall", "ms", 100, 4_000) / 1000)
            if fault("P07/suspend", 2_000):
                self.loop.stall(param("P07/suspend", "s", 5, 120))
            if fault("L21/leader_money", 20_000):
                venue.equity(venue.accounts.index["leader"], (param("L21/leader_money", "usd", 0, 40_000) - 20_000) * E8)
            if fault("A09/money", 20_000):
                venue.equity(account, (param("A09/money", "usd", 0, 4_000) - 2_000) * E8)
            if not self.spot and fault("A12/leverage", 15_000):
                venue.lever(account, 0, param("A12/leverage", "x", 2, 20))
            if fault("A08/manual", 25_000):
                draws.count("O32")
                self._by_hand(account)
            if fault("A10/revoked", 8_000):
                venue.forbid(account, True)
                self.loop.call_later(param("A10/revoked", "ms", 300, 6_000) / 1000, venue.forbid, account, False)
            if fault("A15/slow", 10_000):
                venue.faults.slow = (anyone, param("A15/slow", "ms", 1_000, 30_000))
            if fault("A09/all", 5_000):
                have = int(venue.engine.account_state(account)[8])
                venue.equity(account, -have * 97 // 100)
                self.loop.call_later(8.0, venue.equity, account, have * 97 // 100)
            if fault("L15/price", 15_000):
                venue.move_market(draws.draw("weather.symbol", 2), param("L15/price", "bps", 0, 500) - 250, None)
                venue.flush()
            if fault("O40/down", 6_000):
                self._outage(param("O40/down", "ms", 200, 15_000) / 1000)
            if fault("P01/kill", 12_000):
                self.kill_soon("P01/kill")
                await self.killed.wait()
                if fault("P02/kill_again", 300_000):
                    self.kill_soon("P02/kill_again")
                await self.start_node()
            if fault("P03/sigterm", 6_000) and self.daemon is not None and "starting" not in self.daemon.reasons:
                await self.stop_node(param("P03/sigterm", "drain", 0, 3))
                await self.start_node()

    def _by_hand(self, account: int) -> None:
        """A follower's own trade: mostly a partial close, sometimes something else."""
        draws, venue = self.draws, self.venue
        symbol = draws.draw("hand.symbol", 2)
        have = int(venue.engine.position(account, symbol, 0)[0])
        if self.spot:
            self._by_hand_on_spot(account, symbol, have)
        elif have and draws.chance("hand.close", 700_000):
            venue.trade(account, symbol, -1 if have > 0 else 1, 1 + draws.draw("hand.part", abs(have)), reduce_only=True)
        else:
            venue.trade(account, symbol, 1 if draws.chance("hand.side", 500_000) else -1, 5 + draws.draw("hand.size", 40))

    def _by_hand_on_spot(self, account: int, symbol: int, have: int) -> None:
        """He sells of what is there, takes coins away or brings some, or buys."""
        draws, venue = self.draws, self.venue
        engine: Any = venue.engine
        spec = engine.specs[symbol]
        self.handled.add(venue.accounts.name(account))
        what = draws.draw("hand.what", 10)
        if have and what < 5:
            venue.trade(account, symbol, -1, 1 + draws.draw("hand.part", have))
        elif what < 8:
            amount = 1 + draws.draw("hand.coins", (1 + (have if what < 7 else 100)) * spec.lot_e8)
            engine.transfer(account, amount if what == 7 else -amount, venue.now_ns(), spec.base)
            venue.changed()
            venue.flush()
        else:
            venue.trade(account, symbol, 1, self._least(symbol) + draws.draw("hand.size", 1_000))

    def _outage(self, seconds: float) -> None:
        """Everything is cut and nobody gets through for a while."""
        ports, self.network.ports = self.network.ports, {}
        for transport in list(self.network.living.values()):
            if transport.at_node:
                self.network.reset(transport, ConnectionResetError(104, "Connection reset by peer"))

        def over() -> None:
            self.network.ports.update(ports)

        self.loop.call_later(seconds, over)

    # -- one life -------------------------------------------------------------------------------------------------------
    async def play(self) -> None:
        """Start, safety phase, fair phase, verdict."""
        draws, venue = self.draws, self.venue
        self.loop.set_exception_handler(self._problem)
        ports = await venue.start()
        self.network.areas = {ports["ws"]: "w", ports["rest"]: "r", ports["control"]: "c"}
        made = [("leader", venue.add_account("leader", "leader", 1_000_000 * E8, self.hedge)[1])]
        if self.spot and draws.chance("leader.free", 500_000):
            venue.engine.set_fees(venue.accounts.index["leader"], 0, 0)  # else they are kept back of what he buys
        for n in range(2 + draws.draw("followers", 3)):
            name = f"f{n}"
            self.names.append(name)
            made.append((name, venue.add_account(name, "follower", (2_000 + draws.draw("money", 60_000)) * E8, self.hedge)[1]))
            self.accounts[name] = n
        self.credentials = [credential(*row) for row in made]
        announce_legs = 1 if draws.draw("node.announce", 2) == 0 else 256
        self.config = config_of(self.kind, ports, self.connections, 700 + draws.draw("node.timeout", 1_500), announce_legs)
        # Most histories begin on a good day; the others learn what a start in bad weather is.
        self.calm = draws.healthy = draws.chance("start.healthy", 750_000)
        await self.start_node()
        await self.import_plans()
        await self._until(self._ready, READY_S)
        self.calm = draws.healthy = False
        weather = self.loop.create_task(self.weather())
        leader = self.loop.create_task(self.leader())
        await asyncio.wait({weather, leader}, return_when=asyncio.FIRST_COMPLETED)
        await leader
        await asyncio.sleep(draws.draw("safety.tail", 3_000) / 1000)
        self.calm = draws.healthy = True
        self.trace("fair")
        await weather
        self.network.heal()
        self.venue.set_skew(0)
        if self.daemon is None or self.daemon.exit.done():
            if self.daemon is not None:
                self._died(self.daemon)
            await self.stop_node(0.0)
            await self.start_node()
        flat = draws.chance("fair.flat", 600_000)
        await self._until(self._ready, SETTLE_S)
        self.leader_move(flat)
        await asyncio.sleep(0.5)
        await self._until(lambda: self.settled(flat), SETTLE_S)
        self._verdict(flat)
        self._died_at_end()
        await self.stop_node(1.0)
        await venue.stop()

    def _died_at_end(self) -> None:
        if self.daemon is not None:
            self._died(self.daemon)

    async def _until(self, condition: Callable[[], bool], seconds: float) -> bool:
        until = self.loop.time() + seconds
        while not condition():
            if self.loop.time() >= until:
                return False
            await asyncio.sleep(0.1)
        return True

    def _ready(self) -> bool:
        return self.daemon is not None and not self.daemon.not_ready()

    # -- verdict --------------------------------------------------------------------------------------------------------
    def settled(self, flat: bool) -> bool:
        """Nothing unfinished, nothing in doubt, belief equal to the books, flat where the leader is."""
        daemon = self.daemon
        if daemon is None or daemon.not_ready():
            return False
        unfinished, in_doubt, waiting, excess = daemon.engine.kernel.census()[:4]
        return not (unfinished or in_doubt or waiting or excess or self.disagreements() or self.leader_disagreements()
                    or (flat and self.still_held()))

    def _rows(self) -> Iterator[tuple[str, int, int, AccountInstrumentRow]]:
        daemon = self.daemon
        assert daemon is not None
        stride = daemon.engine.columns.instruments_max
        for name in self.names:
            index = daemon.engine.by_account.get(name, -1)
            for symbol in (0, 1):
                if index >= 0:
                    yield name, index, symbol, AccountInstrumentRow.unpack(
                        daemon.engine.columns.get(ACCOUNT_INSTRUMENTS, index * stride + symbol))

    def disagreements(self) -> list[str]:
        """Accounts whose position at the exchange is not what the engine believes."""
        found = []
        for name, _, symbol, row in self._rows():
            if self.hedge:
                true, believed = (self.held(name, symbol, 1), self.held(name, symbol, 2)), (row.net, row.net_short)
            else:
                true, believed = (self.held(name, symbol), 0), (row.net, row.net_short)
            if true != believed:
                found.append(f"{name}/{symbol}: the exchange holds {true}, believed are {believed}")
            elif self.spot and name not in self.handled:
                found += self._overclaimed(name, symbol)
        return found

    def _overclaimed(self, name: str, symbol: int) -> list[str]:
        """Where legs hold more of an asset, to its last fraction, than there is of it: what was charged has not left them."""
        daemon = self.daemon
        assert daemon is not None
        columns = daemon.engine.columns
        engine: Any = self.venue.engine
        legs = (LegRow.unpack(columns.get(LEGS, index)) for index in range(columns.count(LEGS)))
        account = daemon.engine.by_account[name]
        claimed = sum(
            leg.attributed * ONE + leg.dust_q32 for leg in legs if leg.account == account and leg.instrument == symbol)
        there = sum(engine.balance(self.venue.accounts.index[name], engine.specs[symbol].base))
        if claimed * engine.specs[symbol].lot_e8 <= there * ONE:
            return []
        return [f"{name}/{symbol}: legs hold {claimed / ONE} lots, the exchange {there / engine.specs[symbol].lot_e8}"]

    def leader_disagreements(self) -> list[str]:
        """What the leader holds at the exchange and is not what the fold says."""
        daemon = self.daemon
        assert daemon is not None
        found = []
        for book in daemon.engine.names.books:
            believed = LeaderPositionRow.unpack(daemon.engine.columns.get(POSITIONS, book.position)).qty
            true = self.held("leader", book.instrument, int(book.side))
            if believed != true:
                found.append(f"leader/{book.instrument}/{int(book.side)}: the exchange has {true}, the fold {believed}")
        return found

    def still_held(self) -> list[str]:
        """Legs that hold something, for when the leader is flat."""
        daemon = self.daemon
        assert daemon is not None
        columns = daemon.engine.columns
        rows = [(index, LegRow.unpack(columns.get(LEGS, index))) for index in range(columns.count(LEGS))]
        return [f"the leader is flat, leg {index} holds {leg.attributed}" for index, leg in rows if leg.attributed]

    def _verdict(self, flat: bool) -> None:
        daemon = self.daemon
        if daemon is None:
            self.violate("L6", "the daemon is not there")
            return
        for reason in daemon.not_ready():
            self.violate("L4", f"not ready: {reason}")
        unfinished, in_doubt, waiting, excess = daemon.engine.kernel.census()[:4]
        if in_doubt:
            self.violate("L2", f"{in_doubt} orders are in doubt")
        if unfinished:
            self.violate("L2", f"{unfinished} orders are unfinished: {self._open_orders()}")
        for text in self.disagreements():
            self.violate("L1", text)
        if excess:
            self.violate("L1", f"{excess} legs hold too much")
        if waiting:
            self.violate("L1", f"{waiting} legs wait with an opening")
        for text in self.leader_disagreements():
            self.violate("L3", text)
        for text in self.still_held() if flat else []:
            self.violate("L1", text)
        try:
            check_law(daemon.engine)
        except BrokenInvariant as problem:
            self.violate("S5", str(problem))
        self._end_states()

    def _open_orders(self) -> list[str]:
        daemon = self.daemon
        assert daemon is not None
        columns = daemon.engine.columns
        found = []
        for name in self.names:
            for slot in columns.orders_in_state(UNFINISHED_MASK, daemon.engine.by_account[name]):
                row = OrderRow.unpack(columns.get(ORDERS, slot))
                found.append(f"{row.cid.hex()} {OrderState(row.state).name}")
        return found

    def _end_states(self) -> None:
        """Every order named in the journal: what we believe of it against what the exchange did."""
        truth: dict[bytes, Any] = {}
        for known in self.venue.engine.orders_after(-1, 1_000_000):
            if (cid := our_id(known)) is not None:
                truth[cid] = known
        for cid in self.book.named:
            state = self._belief(cid)
            if state is None:
                continue  # retired
            order: Any = truth.get(cid)
            if order is not None and state in (OrderState.DEAD, OrderState.REJECTED):
                self.violate("S4", f"{cid.hex()} is {state.name} to us; the exchange has {order}")
            row = self._order(cid)
            if order is not None and row is not None and row.cum_qty != order[14]:
                self.violate("S6", f"{cid.hex()} filled {order[14]} at the exchange, {row.cum_qty} to us ({state.name})")
            if order is None and state in SETTLED:
                self.violate("S3", f"{cid.hex()} is {state.name} to us and the exchange never had it")
        for cid in truth:
            if cid not in self.book.named:
                self.violate("S3", f"{cid.hex()} is at the exchange and in no record")


@contextmanager
def _quiet() -> Iterator[None]:
    """No collector and no log lines within a run."""
    was, level = gc.isenabled(), logging.root.manager.disable
    gc.disable()
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(level)
        if was:
            gc.enable()


def run_seed(
    seed: int, trace: Trace | None = None, keep: Iterable[Fired] | None = None, factor: int = 100,
    options: Options | None = None,
) -> Result:
    """One history, from nothing to its verdict. ``factor`` 0: a world without faults."""
    draws = Draws(seed, keep=keep, factor=factor)
    pick = None if draws.chance("loop.fifo", 250_000) else lambda n: draws.draw("loop.pick", n)
    with _quiet():
        loop = VirtualLoop(pick, STEPS_MAX)
        world = World(seed, draws, loop, trace, (options or Options()).venue)
        try:
            with installed(loop, world.medium, draws, world.clock):
                try:
                    loop.run_until_complete(world.play())
                except Stuck as problem:
                    world.violate("L6", str(problem))
                except Exception as problem:
                    world.violate("P12", f"{type(problem).__name__}: {problem} {_place(problem)}")
                _end_tasks(loop)
        finally:
            loop.close()
            asyncio.set_event_loop(None)
    counters = dict(world.counters) | {"reordered": loop.reordered, "connections": world.network.made}
    result = Result(
        seed, loop.steps, int((loop.time() - START_S) * 1e9), dict(draws.counts), world.crashes, world.violations, world.digest,
        draws.fired, counters)
    if seed % COLLECT_EVERY == 0:
        gc.collect()
    return result


def of_the_node(task: asyncio.Task[Any]) -> bool:
    """Whether a task belongs to the daemon: neither to the world nor to the exchange in it."""
    code = getattr(task.get_coro(), "cr_code", None)
    name = "" if code is None else code.co_filename
    return not any(part in name for part in ("/sim/", "/exchange/", "/web_protocol.py", "/web_", "/asyncio/"))


def _place(problem: BaseException) -> str:
    """Where it was raised."""
    at = problem.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    return "" if at is None else f"({at.tb_frame.f_code.co_filename.rpartition('/copyd/')[2]}:{at.tb_lineno})"


def _end_tasks(loop: VirtualLoop) -> None:
    """What is still running when the verdict is spoken."""
    loop.set_exception_handler(lambda loop, context: None)
    loop.steps_max = loop.steps + 200_000
    for _ in range(5):
        tasks = loop.tasks()
        if not tasks:
            return
        for task in tasks:
            task.cancel()
        with contextlib.suppress(Stuck):
            loop.run_until_complete(asyncio.wait(tasks, timeout=2.0))


__all__ = ["Result", "Violation", "run_seed"]
