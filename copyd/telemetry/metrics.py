"""Metrics: plain integers and log-linear histograms on the hot path, Prometheus text only when somebody asks.

The registry hands out slots of one compiled counter block; adding to a slot is an array write. ``prometheus_client`` only
formats: a custom collector reads the block at scrape time, so nothing on the path of an order ever touches it. Labels have
few, fixed values (an outcome, a reason, a venue): never a follower, an account or an order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import generate_latest

from copyd._fast.meters import Counters, Histogram

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SLOTS = 1_024
SERIES_PER_FAMILY_MAX = 200
FORBIDDEN_LABELS = frozenset({"follower", "follower_id", "account", "client_order_id", "exec_id", "plan"})

#: Upper bounds of exported histograms, ns: 1-2-5 steps from 10 us to 10 s.
BOUNDS_NS: tuple[int, ...] = (
    *(step * 10**power for power in range(4, 10) for step in (1, 2, 5)),
    10**10,
)


class Family(NamedTuple):
    """One metric name: what it is and which label it carries."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    label: str


class Metrics:
    """Every metric of the process. `counter` and `histogram` bind once; what they return is for the hot path."""

    def __init__(self) -> None:
        self.counters = Counters(SLOTS)
        self._families: dict[str, Family] = {}
        self._slots: dict[tuple[str, str], int] = {}
        self._reads: dict[tuple[str, str], Callable[[], float]] = {}
        self._histograms: dict[str, tuple[str, Histogram]] = {}

        self.fanout_first = self.histogram(
            "copyd_fanout_first_latency_seconds", "Leader event received to first follower order handed to the kernel."
        )
        self.fanout_last = self.histogram(
            "copyd_fanout_latency_seconds", "Leader event received to last follower order handed to the kernel."
        )
        self.ingest_lag = self.histogram(
            "copyd_ingest_lag_seconds", "Venue time of a leader event to its receipt; a clock set back counts as 0."
        )
        self.commit = self.histogram("copyd_journal_commit_seconds", "One journal commit, until it is durable.")
        self.loop_lag = self.histogram("copyd_loop_lag_seconds", "How late the loop's own timer fires.")

        self.leader_events = self.counter("copyd_leader_events_total", "Leader events decided.")
        self.orders_sent = self.counter("copyd_orders_sent_total", "Orders handed to the kernel.")
        self.reload_ok = self.gauge_slot("copyd_config_last_reload_successful", "1 after a good reload, 0 after a refused one.")
        self.counters.set(self.reload_ok, 1)
        self.instructions = CounterGroup(
            self,
            "copyd_instructions_total",
            "Parts of decisions by what became of them.",
            "outcome",
            ("order", "deferred", "carried", "rounded", "forgone"),
        )

    def skipped(self, reasons: Iterable[str]) -> CounterGroup:
        """Forgone parts by reason; the caller brings the reasons, in the order of its enum."""
        name = "copyd_instructions_skipped_total"
        return CounterGroup(self, name, "Parts of decisions forgone, by the rule that bound.", "reason", reasons)

    def loss_stops(self, reasons: Iterable[str]) -> CounterGroup:
        """Plans stopped, by the limit that was reached."""
        return CounterGroup(self, "copyd_loss_stops_total", "Plans stopped by a loss limit.", "reason", reasons)

    # binding

    def counter(self, name: str, help: str, label: str = "", value: str = "") -> int:
        """The slot of a counter (one label value of it); the same arguments give the same slot."""
        if not name.endswith("_total"):
            raise ValueError(f"{name}: a counter's name ends in _total")
        return self._slot(Family(name, "counter", help, label), value)

    def gauge_slot(self, name: str, help: str, label: str = "", value: str = "") -> int:
        """The slot of a gauge that the owner sets with ``counters.set``."""
        return self._slot(Family(name, "gauge", help, label), value)

    def gauge(self, name: str, help: str, read: Callable[[], float], label: str = "", value: str = "") -> None:
        """A gauge read when scraped."""
        self._family(Family(name, "gauge", help, label), value)
        self._reads[name, value] = read

    def counter_read(self, name: str, help: str, read: Callable[[], float], label: str = "", value: str = "") -> None:
        """A counter somebody else already keeps, read when scraped."""
        self._family(Family(name, "counter", help, label), value)
        self._reads[name, value] = read

    def histogram(self, name: str, help: str) -> Histogram:
        """A latency histogram in ns, exported in seconds; the same name gives the same histogram."""
        self._check_name(name)
        if not name.endswith("_seconds"):
            raise ValueError(f"{name}: a latency's name ends in _seconds")
        if name in self._families:
            raise ValueError(f"{name} is already a {self._families[name].kind}")
        return self._histograms.setdefault(name, (help, Histogram()))[1]

    def inc(self, slot: int, n: int = 1) -> None:
        self.counters.inc(slot, n)

    def _slot(self, family: Family, value: str) -> int:
        self._family(family, value)
        slot = self._slots.get((family.name, value))
        if slot is None:
            slot = len(self._slots)
            if slot >= SLOTS:
                raise ValueError("no counter slots left: a label has too many values")
            self._slots[family.name, value] = slot
        return slot

    @staticmethod
    def _check_name(name: str) -> None:
        if not name.startswith("copyd_"):
            raise ValueError(f"{name}: metric names begin with copyd_")

    def _family(self, family: Family, value: str) -> None:
        self._check_name(family.name)
        if family.label in FORBIDDEN_LABELS:
            raise ValueError(f"{family.name}: {family.label} is not a label; it has as many values as there are followers")
        if bool(family.label) != bool(value):
            raise ValueError(f"{family.name}: a label needs a value, and a value a label")
        if family.name in self._histograms:
            raise ValueError(f"{family.name} is already a histogram")
        known = self._families.setdefault(family.name, family)
        if (known.kind, known.label) != (family.kind, family.label):
            raise ValueError(f"{family.name} is already a {known.kind} with label {known.label!r}")
        if sum(name == family.name for name, _ in (*self._slots, *self._reads)) >= SERIES_PER_FAMILY_MAX:
            raise ValueError(f"{family.name}: more than {SERIES_PER_FAMILY_MAX} series")

    # reading

    def value(self, name: str, value: str = "") -> float:
        """The present value of one series (status, tests)."""
        if (name, value) in self._reads:
            return self._reads[name, value]()
        return self.counters.get(self._slots[name, value])

    def collect(self) -> Iterator[Any]:
        """For prometheus_client."""
        for name, family in self._families.items():
            series = [(value, float(self.counters.get(slot))) for (n, value), slot in self._slots.items() if n == name]
            series += [(value, float(read())) for (n, value), read in self._reads.items() if n == name]
            labels = [family.label] if family.label else []
            made = (CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily)(
                name.removesuffix("_total") if family.kind == "counter" else name, family.help, labels=labels
            )
            for value, number in series:
                made.add_metric([value] if labels else [], number)
            yield made
        for name, (help, histogram) in self._histograms.items():
            exported = HistogramMetricFamily(name, help)
            counts = histogram.cumulative(BOUNDS_NS)
            buckets: Sequence[Any] = [
                *((_seconds(bound), float(count)) for bound, count in zip(BOUNDS_NS, counts, strict=True)),
                ("+Inf", float(histogram.count)),
            ]
            exported.add_metric([], buckets, sum_value=histogram.total_ns / 1e9)
            yield exported

    def text(self) -> bytes:
        """The Prometheus exposition of everything; a few milliseconds, never on the path of an order."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry)


def _seconds(ns: int) -> str:
    return repr(ns / 1e9)


class CounterGroup:
    """One counter with one label whose values are known beforehand: ``group.slot[index]`` for kernels, names for people."""

    def __init__(self, metrics: Metrics, name: str, help: str, label: str, values: Iterable[str]) -> None:
        self._metrics = metrics
        self.values = tuple(values)
        self.slots = tuple(metrics.counter(name, help, label, value) for value in self.values)
        self._by_value = dict(zip(self.values, self.slots, strict=True))

    def inc(self, value: str, n: int = 1) -> None:
        self._metrics.counters.inc(self._by_value[value], n)

    def get(self, value: str) -> int:
        return self._metrics.counters.get(self._by_value[value])
