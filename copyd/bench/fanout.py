"""``copyd bench fanout``: leader event bytes received → first and last follower order handed to the kernel.

The daemon's own path on real sockets: codec, pump with its gate, engine, journal, encoder with one HMAC key per follower,
order gateway. The other end is a draining peer in its own process (``copyd.bench.peer``), which also plays the leader's
stream on an open-loop schedule: each event has a planned time, and a late one does not move the next.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import os
import sys
import tempfile
import time
from array import array
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from copyd._fast.columns import ReportBatch, keep_memory
from copyd._fast.decimals import format_scaled
from copyd._fast.encode import Encoder
from copyd._fast.meters import Histogram
from copyd.bench import peer as peer_module
from copyd.bench import world
from copyd.bench.conditions import conditions, file_system, percentiles
from copyd.core import engine as core
from copyd.core.engine import Engine, Outputs
from copyd.core.rows import NamedOrder
from copyd.errors import UsageError, WorldError
from copyd.journal import Journal
from copyd.kinds import KEPT_BYTES, kind_of
from copyd.runtime.clock import SystemClock
from copyd.runtime.pump import Pump, Sent
from copyd.venues.binance_usdm import codec
from copyd.venues.binance_usdm.contract import CONTRACT
from copyd.venues.binance_usdm.gateway import OrderGateway, pin_of
from copyd.venues.common import facts
from copyd.venues.common.connection import Link, Session
from copyd.venues.common.limits import VenueClock

MAP_BYTES = 64 << 30
RETIRE_EVERY = 4
"""Events between two retirements of finished orders, made between bursts as the daemon makes them."""
START_S = 1.0
SETTLE_S = 30.0
#: Orders per second the peer and the reply path certainly keep up with; the default rate follows from it.
PACE_ORDERS_PER_S = 12_500
EXCLUDED = (
    "network and venue: the peer is on loopback and only drains; its answers come in bulk after each burst",
    "TLS (but with --tls)", "the leader feed's duplicate and order checks (a few us per event)",
    "follower user streams, REST polls and metrics of a running daemon", "checkpoints (measured by: copyd bench restart)",
    "the venue's limit on orders per account (lifted)",
)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be measured. ``rate``: leader events per second; 0 = as fast as the answers are surely digested."""

    followers: int = 1_000
    connections: int = 4
    events: int = 50
    warmup: int = 9
    rate: float = 0.0
    durability: str = "strict"
    journal: Path | None = None
    seed: int = 1
    sample: int = 16
    threads: int = 1
    tls: bool = False

    @property
    def scheme(self) -> str:
        """Of the peer's addresses."""
        return "wss" if self.tls else "ws"

    @property
    def events_per_s(self) -> float:
        return self.rate or min(10.0, PACE_ORDERS_PER_S / self.followers)


class Event(msgspec.Struct):
    """Times of one leader event: ns by the wall clock, and ns spent in each stage."""

    trade: world.LeaderTrade
    received: int = 0
    cpu: int = 0
    decode: int = 0
    step: int = 0
    append: int = 0
    count: int = 0
    durable: int = 0
    render: int = 0
    send: int = 0
    first: int = 0
    last: int = 0
    orders: int = 0
    buffered: int = 0  # bytes that the kernel had not taken when the last order was reported sent
    named: bytes = b""
    overlapped: bool = False


class MemoryJournal:
    """Durability ``none``: what the rest costs without a journal."""

    def __init__(self) -> None:
        self.durable_seq = 0

    def append(self, kind: int, ts_ns: int, parts: Sequence[bytes]) -> int:
        """Counts."""
        self.durable_seq += 1
        return self.durable_seq


class Stages:
    """Stands between the pump and its parts, and notes what each call took for the event under way."""

    def __init__(self, path: Path_) -> None:
        self.path = path
        self.names = path.engine.names
        self.columns = path.engine.columns

    @property
    def durable_seq(self) -> int:
        return self.path.journal.durable_seq

    @property
    def announced(self) -> tuple[int, core.LeaderFill] | None:
        return self.path.engine.announced

    def announces(self, value: Any, legs_least: int) -> bool:
        """Engine."""
        return self.path.engine.announces(value, legs_least)

    def step(self, now: int, value: Any, ready: core.Ready | None = None) -> Outputs | None:
        """Engine; what is rendered and sent in between is not its time."""
        event = self.path.event
        others = event.render + event.send
        began = time.perf_counter_ns()
        outputs = self.path.engine.step(now, value, ready)
        event.step += time.perf_counter_ns() - began - (event.render + event.send - others)
        return outputs

    def append(self, kind: int, ts_ns: int, parts: Sequence[bytes]) -> int:
        """Journal."""
        began = time.perf_counter_ns()
        seq = self.path.journal.append(kind, ts_ns, parts)
        self.path.event.append += time.perf_counter_ns() - began
        self.path.appended = self.path.appended or time.time_ns()
        return seq

    chunk_max = 1_024

    def arrange(self, slots: array, turn: int) -> array:
        """Encoder."""
        path = self.path
        began = time.perf_counter_ns()
        arranged = array("I", path.encoder.arrange(path.engine.columns, slots, turn))
        path.event.render += time.perf_counter_ns() - began
        return arranged

    def render(self, slots: array) -> Any:
        """Encoder."""
        path = self.path
        began = time.perf_counter_ns()
        rendered = path.encoder.encode(path.engine.columns, slots, path.venue_clock.timestamp_ms())
        path.event.render += time.perf_counter_ns() - began
        return rendered

    def send(self, rendered: Any) -> None:
        """Gateway."""
        began = time.perf_counter_ns()
        self.path.gateway.send(rendered)
        self.path.event.send += time.perf_counter_ns() - began


class Path_:
    """The data path of the daemon, wired as ``copyd.app`` and ``copyd.venue_side`` wire it."""

    def __init__(self, settings: Settings, journal: Any, port: int, host: str = "127.0.0.1") -> None:
        self.settings = settings
        self.clock = SystemClock()
        self.instruments = world.instruments()
        self.executions = codec.executions(self.instruments)
        self.engine = Engine()
        self.journal = journal
        self.venue_clock = VenueClock(CONTRACT, self.clock.now_ns)
        self.gateway = OrderGateway(
            url=f"{settings.scheme}://{host}:{port}/ws-fapi/v1", connections=settings.connections, instruments=self.instruments,
            contract=CONTRACT, clock=self.clock.now_ns, venue_clock=self.venue_clock, on_reports=self._reports,
        )
        self.encoder = Encoder(CONTRACT.recv_window_ms, self.clock.now_ns() & 0xFFFFFFFF)
        if settings.threads > 1:
            self.encoder.start_helper()
        self.instruments.teach_encoder(self.encoder)
        for account in range(settings.followers):
            self.gateway.register(self.encoder, account, world.key(settings.seed, account), self.gateway.pin_of(account))
        self.trades = {trade.exec_id: trade for trade in world.schedule(settings.warmup + settings.events, settings.seed)}
        self.event = Event(world.LeaderTrade(0, 0, 0, 0))
        self.events: list[Event] = []
        self.appended = self.cpu_began = 0
        self.decided: list[bytes] = []
        self.problems: list[str] = []
        stages: Any = Stages(self)
        self.pump = Pump(stages, stages, stages, self.clock, kind_of, self._outputs, self._sent)

    def offer_world(self) -> None:
        """Plans, accounts, leader: journaled like everything else."""
        for value in world.opening_inputs(self.settings.followers, self.settings.seed):
            self.pump.offer(value)

    # -- in ---------------------------------------------------------------------------------------------------------

    def leader_frame(self, session: Session, payload: bytes) -> None:
        """Bytes of the leader's stream, all the way to its followers."""
        received = self.clock.now_ns()
        self.cpu_began = time.thread_time_ns()
        self.appended = 0
        began = time.perf_counter_ns()
        execution = self.executions.execution(payload, received)
        assert execution is not None, payload
        fill = facts.leader_fill_of(execution, 0)
        value = core.LeaderFill(
            fill.leader, fill.instrument, fill.position_side, int(fill.exec_id), int(fill.order_id), fill.side, fill.qty,
            fill.px, fill.order_qty, fill.live, False, fill.cause, fill.ts_event, fill.ts_recv, fill.raw,
        )
        decoded = time.perf_counter_ns() - began
        overlapped = bool(self.gateway.in_flight)
        trade = self.trades[value.exec_id]
        self.event = Event(trade, received=received, decode=decoded, overlapped=overlapped)
        self.events.append(self.event)
        self.pump.quote(0, trade.px - 1, trade.px + 1, trade.px, received)
        self.pump.offer(value)

    def durable(self, seq: int) -> None:
        """The gate."""
        self.pump.durable(seq)

    def failed(self, error: BaseException) -> None:
        """Nothing is acknowledged any more."""
        self.problems.append(f"journal: {error}")
        self.pump.stop()

    def _reports(self, batch: ReportBatch, ts_recv: int) -> None:
        self.event, event = Event(world.LeaderTrade(0, 0, 0, 0)), self.event  # its stages are not the fan-out's
        self.pump.offer(core.Reports(batch.to_bytes()))
        if not self.gateway.in_flight and len(self.events) % RETIRE_EVERY == 0:
            self.pump.offer(core.Command("retire", {"before_seq": self.engine.names.seq - 1}))
        self.engine.make_room()
        self.event = event

    # -- out --------------------------------------------------------------------------------------------------------

    def _outputs(self, outputs: Outputs) -> None:
        if outputs.decisions or outputs.ends:
            began = time.perf_counter_ns()
            self.engine.kernel.tally()
            self.event.count += time.perf_counter_ns() - began
        if outputs.named:
            self.decided.append(outputs.named)
        if isinstance(outputs.input, core.LeaderFill):
            self.event.named = outputs.named

    def _sent(self, times: Sent) -> None:
        if not times.exec_id:
            return  # openings that waited for the answers to an earlier event: rate too high for this machine
        event = next(event for event in reversed(self.events) if event.trade.exec_id == times.exec_id)
        event.orders, event.first, event.last = times.orders, times.first, times.last
        event.cpu = time.thread_time_ns() - self.cpu_began
        event.durable = max(0, times.durable - self.appended)
        event.buffered = sum(
            link.session.transport.underlying_transport.get_write_buffer_size()
            for link in self.gateway._links if link.session is not None and link.session.transport is not None)


class Child:
    """The peer's process and the lines to it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(
        cls, seed: int, sample: int, module: str = peer_module.__name__, certificate: Path | None = None,
    ) -> tuple[Child, int]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            limit=1 << 24,
        )
        child = cls(process)
        answer = await child.ask({"seed": seed, "sample": sample, "certificate": str(certificate or "")})
        return child, answer["port"]

    def tell(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message).encode() + b"\n")

    async def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        self.tell(message)
        assert self.process.stdout is not None
        text = await asyncio.wait_for(self.process.stdout.readline(), 60)
        if not text:
            raise WorldError("the draining peer ended early")
        answer: dict[str, Any] = json.loads(text)
        return answer

    async def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            await asyncio.wait_for(self.process.wait(), 10)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()


def certify(directory: Path) -> Path:
    """A certificate of 127.0.0.1 with its key in one file, which this process trusts from now on.

    Raises:
        UsageError: there is nothing here that makes one.
    """
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError:
        raise UsageError("--tls needs a certificate, and to make one: pip install copyd[test]") from None
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "copyd bench")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = directory / "peer.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM))
    path.chmod(0o600)
    os.environ["SSL_CERT_FILE"] = str(path)
    return path


async def measure(settings: Settings, directory: Path) -> dict[str, Any]:
    """One run; the report as it is written to JSON, with raw times under ``_events``."""
    loop = asyncio.get_running_loop()
    certificate = certify(directory) if settings.tls else None
    child, port = await Child.start(settings.seed, settings.sample, certificate=certificate)
    journal: Any = MemoryJournal()
    if settings.durability != "none":
        durability: Any = settings.durability
        journal = Journal.open(directory / "journal", site=world.SITE, map_size=MAP_BYTES, durability=durability)
    keep_memory(KEPT_BYTES)
    path = Path_(settings, journal, port)
    opened = asyncio.Event()
    leader = Link(
        "bench-leader", lambda: _url(f"{settings.scheme}://127.0.0.1:{port}/leader"), on_frame=path.leader_frame,
        on_open=lambda session: opened.set(), on_lost=lambda session: None, rng=_rng(settings.seed),
        life_s=86_400, frame_bytes_max=1 << 20,
    )
    try:
        if isinstance(journal, Journal):
            journal.attach(loop, on_durable=path.durable, on_failed=path.failed)
        path.offer_world()
        if isinstance(journal, Journal):
            await journal.committed(journal.last_seq)
        await path.gateway.start()
        leader.start()
        await asyncio.wait_for(opened.wait(), 10)
        path.engine.make_room()
        gc.collect()
        gc.freeze()
        await asyncio.sleep(0.2)  # the journal's runway is prepared while idle
        interval = int(1e9 / settings.events_per_s)
        start = time.time_ns() + int(START_S * 1e9)
        load = os.getloadavg()[0]
        frames = [world.leader_frame(trade, 0).decode().replace('"E":0,"T":0', '"E":"@ms","T":"@ms"').replace(
            '"T":0,"t"', '"T":"@ms","t"') for trade in path.trades.values()]
        child.tell({"events": frames, "start_ns": start, "interval_ns": interval})
        await _until_done(path, start + interval * len(frames))
        answer = await child.ask({"report": True})
    finally:
        gc.unfreeze()
        await leader.stop()
        await path.gateway.stop(0.0)
        path.encoder.stop_helper()
        await child.stop()
        if isinstance(journal, Journal):
            journal.close()
    return _report(settings, path, answer, start, interval, load, directory)


async def _url(url: str) -> str:
    return url


def _rng(seed: int) -> Any:
    import random

    return random.Random(seed)


async def _until_done(path: Path_, last_ns: int) -> None:
    """Every event seen, every order answered; or the time is over, which the check will show."""
    deadline = last_ns / 1e9 + SETTLE_S
    while time.time() < deadline and not path.problems:
        await asyncio.sleep(0.05)
        if len(path.events) == len(path.trades) and path.events[-1].last and not path.gateway.in_flight:
            await asyncio.sleep(0.1)
            return


def _lanes(settings: Settings, path: Path_) -> dict[str, list[Any]]:
    """What each connection must have received: number of orders and digest, from what was decided; keyed by its first account."""
    item = path.instruments[0]
    lanes: dict[int, Any] = {}
    for named in path.decided:
        for order in NamedOrder.unpack_all(named):
            lane = lanes.setdefault(pin_of(order.account, settings.connections), [order.account, 0, hashlib.sha256()])
            lane[1] += 1
            lane[2].update(peer_module.line(
                order.cid.hex(), item.symbol, "BUY" if order.side > 0 else "SELL",
                _shortest(format_scaled(order.order_qty * item.lot, item.qty_decimals)),
                _shortest(format_scaled(order.limit_px * item.tick, item.price_decimals)) if order.limit_px else "",
                bool(order.reduce_only),
            ))
    return {str(first): [count, digest.hexdigest()] for first, count, digest in lanes.values()}


def _shortest(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def _report(
    settings: Settings, path: Path_, answer: dict[str, Any], start: int, interval: int, load: float, directory: Path
) -> dict[str, Any]:
    decided = hashlib.sha256()
    for named in path.decided:
        decided.update(named)
    measured = path.events[settings.warmup :]
    problems = list(path.problems)
    lanes = _lanes(settings, path)
    if len(path.events) != len(path.trades):
        problems.append(f"{len(path.events)} of {len(path.trades)} leader events arrived")
    overlapped = sum(event.overlapped for event in path.events)
    if not overlapped and any(event.orders != settings.followers for event in path.events):
        counts = sorted({event.orders for event in path.events})
        problems.append(f"events with {counts} orders instead of {settings.followers}")
    if answer["lanes"] != lanes:
        got = sum(count for count, _ in answer["lanes"].values())
        problems.append(f"the peer received {got} orders, or others, than the {sum(n for n, _ in lanes.values())} decided")
    if answer["signatures_bad"] or not answer["signatures_checked"]:
        problems.append(f"{answer['signatures_bad']} of {answer['signatures_checked']} sampled signatures are wrong")
    if answer["malformed"]:
        problems.append(f"the peer could not read {answer['malformed']} frames")
    planned = [start + (settings.warmup + index) * interval for index in range(len(measured))]
    sent = answer["sent"][settings.warmup :]
    stage = {
        name: percentiles([getattr(event, name) for event in measured])
        for name in ("decode", "step", "append", "count", "durable", "render", "send", "cpu")
    }
    stage["wake"] = percentiles([max(0, e.received - s) for e, s in zip(measured, sent, strict=False)])
    return {
        "bench": "fanout", "followers": settings.followers, "connections": settings.connections, "signed": True,
        "durability": settings.durability, "events": len(measured), "warmup": settings.warmup,
        "rate_per_s": settings.events_per_s, "seed": settings.seed, "orders": sum(event.orders for event in measured),
        "first_us": percentiles([e.first - e.received for e in measured]),
        "last_us": percentiles([e.last - e.received for e in measured], (50, 99, 99.9)),
        "first_from_planned_us": percentiles([e.first - p for e, p in zip(measured, planned, strict=True)]),
        "last_from_planned_us": percentiles([e.last - p for e, p in zip(measured, planned, strict=True)], (50, 99, 99.9)),
        "stages_us": stage, "events_with_bytes_left": sum(event.buffered > 0 for event in measured),
        "bytes_left_max": max((event.buffered for event in measured), default=0), "overlapped": overlapped,
        "checked": not problems, "problems": problems, "signatures_checked": answer["signatures_checked"],
        "result_hash": decided.hexdigest(),
        "conditions": conditions(
            EXCLUDED, rate=settings.events_per_s, load_before=round(load, 2),
            journal_file_system=file_system(directory) if settings.durability != "none" else None),
        "_events": measured, "_planned": planned,
    }


def run(settings: Settings) -> dict[str, Any]:
    """Measure on uvloop with the daemon's interpreter settings, in a journal made for it and removed afterwards."""
    if settings.journal is not None and not settings.journal.is_dir():
        raise UsageError(f"{settings.journal} is no directory")
    if settings.followers < 1 or settings.connections < 1 or settings.events < 1:
        raise UsageError("followers, connections and events are positive")
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0002)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="copyd-bench-", dir=settings.journal) as directory,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            return runner.run(measure(settings, Path(directory)))
    finally:
        sys.setswitchinterval(before)


def histograms(report: dict[str, Any]) -> dict[str, Histogram]:
    """First and last order, from receipt, for an HDR log."""
    first, last = Histogram(), Histogram()
    for event in report["_events"]:
        first.record_ns(event.first - event.received)
        last.record_ns(event.last - event.received)
    return {"first": first, "last": last}


def table(report: dict[str, Any]) -> str:
    """The report for a person."""
    rows = [
        f"fan-out: {report['followers']} followers over {report['connections']} connections, signed, "
        f"journal {report['durability']}, {report['events']} leader events at {report['rate_per_s']:g}/s "
        f"after {report['warmup']} of warm-up",
        "", f"{'us':<40}{'p50':>10}{'p99':>10}{'p99.9':>10}{'max':>10}",
    ]

    def row(name: str, figures: dict[str, float]) -> None:
        cells = "".join(f"{figures[k]:>10.1f}" if k in figures else f"{'':>10}" for k in ("p50", "p99", "p999", "max"))
        rows.append(f"{name:<40}{cells}")

    row("received -> first order", report["first_us"])
    row("received -> last order", report["last_us"])
    row("planned -> first order", report["first_from_planned_us"])
    row("planned -> last order", report["last_from_planned_us"])
    names = {
        "wake": "  wake: leader's write -> received", "decode": "  decode", "step": "  step (incl. market)",
        "append": "  append (incl. market)", "count": "  count", "durable": "  appended -> gate open",
        "render": "  render and sign", "send": "  send", "cpu": "  processor time of the loop's thread",
    }
    for name, title in names.items():
        row(title, report["stages_us"][name])
    facts = report["conditions"]
    rows += ["", "checked" if report["checked"] else "NOT checked: " + "; ".join(report["problems"]),
             f"{report['orders']} orders, {report['signatures_checked']} signatures sampled, result {report['result_hash'][:16]}"]
    if report["events_with_bytes_left"]:
        rows.append(f"{report['events_with_bytes_left']} events ended with up to {report['bytes_left_max']} bytes still in our "
                    "own buffers: the kernel took them later than 'last order' says")
    if report["overlapped"]:
        rows.append(f"{report['overlapped']} events arrived before the answers to the one before: the result hash may differ")
    rows += ["", "conditions: " + ", ".join(f"{k} {v}" for k, v in facts.items() if k != "excluded" and v is not None)]
    rows += ["excluded: " + facts["excluded"][0]] + [f"          {text}" for text in facts["excluded"][1:]]
    return "\n".join(rows)
