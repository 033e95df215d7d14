"""What a metric costs where it is taken: counters and histograms from Python, and the exposition of all of them."""

from copyd._fast.meters import Counters, Histogram
from copyd.telemetry.metrics import CounterGroup, Metrics


def test_record_one_latency(benchmark):
    histogram = Histogram()
    benchmark(histogram.record_ns, 123_456)
    assert histogram.max_ns == 123_456


def test_count_one_event(benchmark):
    counters = Counters(16)
    benchmark(counters.inc, 3)
    assert counters.get(3) > 0


def test_read_a_percentile(benchmark):
    histogram = Histogram()
    for value in range(1, 1_000_000, 101):
        histogram.record_ns(value)
    assert benchmark(histogram.percentile_ns, 99.0) >= 980_000


def test_write_the_exposition(benchmark):
    """On the loop while followers wait: it must stay in the low milliseconds."""
    metrics = Metrics()
    CounterGroup(metrics, "copyd_instructions_skipped_total", "Skipped.", "reason", [f"reason_{n}" for n in range(40)])
    assert b"copyd_instructions_skipped_total" in benchmark(metrics.text)
