"""The Prometheus exposition, read back by Prometheus' own parser."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from copyd.telemetry.metrics import Metrics


def _families(metrics):
    return {family.name: family for family in text_string_to_metric_families(metrics.text().decode())}


def test_counters_gauges_and_histograms_come_out_as_prometheus_reads_them():
    metrics = Metrics()
    group = metrics.instructions
    group.inc("order", 3)
    group.inc("forgone")
    metrics.gauge("copyd_journal_bytes", "Size of the journal.", lambda: 4096)
    metrics.fanout_last.record_ns(1_500_000)
    metrics.fanout_last.record_ns(30_000_000_000)
    families = _families(metrics)
    values = {s.labels["outcome"]: s.value for s in families["copyd_instructions"].samples if s.name.endswith("_total")}
    assert values == {"order": 3.0, "deferred": 0.0, "carried": 0.0, "rounded": 0.0, "forgone": 1.0}
    assert families["copyd_journal_bytes"].samples[0].value == 4096
    samples = families["copyd_fanout_latency_seconds"].samples
    buckets = {s.labels["le"]: s.value for s in samples if s.name.endswith("_bucket")}
    assert buckets["0.001"] == 0
    assert buckets["0.002"] == 1
    assert buckets["10.0"] == 1
    assert buckets["+Inf"] == 2
    assert next(s.value for s in samples if s.name.endswith("_sum")) == pytest.approx(30.0015)
    assert group.get("order") == 3


def test_a_metric_never_carries_a_follower():
    """As many series as followers would be a memory leak and a privacy one."""
    metrics = Metrics()
    for label in ("follower", "account", "client_order_id"):
        with pytest.raises(ValueError, match="is not a label"):
            metrics.counter("copyd_x_total", "x", label, "v")


@pytest.mark.parametrize(("name", "words"), [("requests_total", "begin with copyd_"), ("copyd_requests", "ends in _total")])
def test_names_follow_the_conventions(name, words):
    with pytest.raises(ValueError, match=words):
        Metrics().counter(name, "x")


def test_reasons_are_counted_by_name():
    metrics = Metrics()
    skipped = metrics.skipped(["kill_switch", "below_minimum"])
    skipped.inc("below_minimum", 4)
    assert skipped.get("below_minimum") == metrics.value("copyd_instructions_skipped_total", "below_minimum") == 4
    assert metrics.value("copyd_config_last_reload_successful") == 1


def test_one_name_is_one_kind():
    metrics = Metrics()
    slot = metrics.counter("copyd_a_total", "a")
    assert metrics.counter("copyd_a_total", "a") == slot
    with pytest.raises(ValueError, match="already"):
        metrics.gauge("copyd_a_total", "a", lambda: 0)
    with pytest.raises(ValueError, match="more than"):
        for n in range(300):
            metrics.counter("copyd_b_total", "b", "reason", str(n))


def test_values_are_read_by_name():
    metrics = Metrics()
    metrics.inc(metrics.counter("copyd_a_total", "a", "kind", "x"), 2)
    metrics.gauge("copyd_g", "g", lambda: 1.5)
    assert metrics.value("copyd_a_total", "x") == 2
    assert metrics.value("copyd_g") == 1.5
