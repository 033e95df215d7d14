"""The compiled counters and histograms against exact arithmetic and against HdrHistogram."""

import math

import pytest
from hdrh.histogram import HdrHistogram
from hypothesis import given, settings
from hypothesis import strategies as st

from copyd._fast.meters import Counters, Histogram

VALUES = st.lists(st.one_of(st.integers(0, 300), st.integers(0, 10**9), st.integers(0, 2**63 - 1)), min_size=1, max_size=200)


@given(VALUES, st.floats(0, 100))
@settings(max_examples=200, deadline=None)
def test_a_percentile_is_never_below_the_exact_one_and_at_most_a_64th_above(values, percent):
    histogram = Histogram()
    for value in values:
        histogram.record_ns(value)
    rank = max(1, min(len(values), math.ceil(percent / 100.0 * len(values))))
    exact = sorted(values)[rank - 1]
    got = histogram.percentile_ns(percent)
    assert exact <= got <= exact + exact // 64 + 1
    assert got <= histogram.max_ns == max(values)
    assert histogram.min_ns == min(values)
    assert histogram.count == len(values)
    assert histogram.total_ns == min(sum(values), 2**63 - 1)


@given(st.integers(0, 2**63 - 1))
def test_every_value_lies_in_its_bucket(value):
    histogram = Histogram()
    histogram.record_ns(value)
    [(low, high, count)] = histogram.buckets()
    assert low <= value <= high
    assert count == 1
    assert (high - low) * 64 <= max(low, 64)


@given(VALUES, VALUES)
@settings(max_examples=50, deadline=None)
def test_merging_two_is_recording_both(a, b):
    one, two, both = Histogram(), Histogram(), Histogram()
    for value in a:
        one.record_ns(value)
        both.record_ns(value)
    for value in b:
        two.record_ns(value)
        both.record_ns(value)
    one.merge(two)
    assert one.buckets() == both.buckets()
    facts = [(h.count, h.total_ns, h.min_ns, h.max_ns) for h in (one, both)]
    assert facts[0] == facts[1]


def test_hdr_histogram_agrees_within_the_bucket_width():
    histogram, oracle = Histogram(), HdrHistogram(1, 10**12, 4)
    value = 17
    for _ in range(20_000):
        value = value * 6364136223846793005 % 2_000_000_011
        histogram.record_ns(value)
        oracle.record_value(value)
    for percent in (1, 50, 90, 99, 99.9, 100):
        expected = oracle.get_value_at_percentile(percent)
        assert abs(histogram.percentile_ns(percent) - expected) <= expected / 50


def test_buckets_export_into_an_hdr_histogram():
    """What `bench --hdr` does: no record is lost on the way."""
    histogram, hdr = Histogram(), HdrHistogram(1, 10**12, 3)
    for value in range(1, 5_000_000, 997):
        histogram.record_ns(value)
    for low, high, count in histogram.buckets():
        hdr.record_value((low + high) // 2, count)
    assert hdr.get_total_count() == histogram.count


@given(VALUES)
@settings(max_examples=50, deadline=None)
def test_recording_one_at_a_time_is_recording_many_at_once(values):
    one, many = Histogram(), Histogram()
    for value in values:
        one.record_ns(value)
        one.record_ns(value)
        many.record_ns_many(value, 2)
    assert one.buckets() == many.buckets()
    assert (one.count, one.total_ns, one.min_ns, one.max_ns) == (many.count, many.total_ns, many.min_ns, many.max_ns)


def test_an_empty_histogram_says_zero_and_a_negative_latency_counts_as_zero():
    histogram = Histogram()
    assert histogram.percentile_ns(99) == 0
    histogram.record_ns(-5)
    assert (histogram.count, histogram.max_ns, histogram.percentile_ns(50)) == (1, 0, 0)
    histogram.record_ns_many(1_000, 9)
    assert histogram.count == 10
    histogram.reset()
    assert (histogram.count, histogram.buckets()) == (0, [])


def test_cumulative_counts_ascend_to_the_total():
    histogram = Histogram()
    for value in (10, 1_000, 10**6, 10**9):
        histogram.record_ns(value)
    assert histogram.cumulative([5, 500, 5_000, 2 * 10**6, 2 * 10**9]) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="ascend"):
        histogram.cumulative([5, 4])


def test_counters_check_their_slots():
    counters = Counters(2)
    counters.inc(0)
    counters.inc(1, 5)
    counters.set(0, 7)
    assert (counters.get(0), counters.get(1), counters.size) == (7, 5, 2)
    for call in (counters.inc, counters.get):
        with pytest.raises(IndexError):
            call(2)
    with pytest.raises(ValueError, match="slots"):
        Counters(0)


def test_a_histogram_log_reads_back_with_the_tools_of_others(tmp_path):
    """Written line by line, read by hdrhistogram's own reader: count, median and maximum survive."""
    from hdrh.log import HistogramLogReader

    from copyd.telemetry.hdr import write_hdr

    histogram = Histogram()
    for value in range(1_000, 3_000_000, 1_009):
        histogram.record_ns(value)
    path = tmp_path / "out.hdr"
    write_hdr(path, {"first": histogram, "last": histogram}, 1_000.0, 1_010.0)
    reader = HistogramLogReader(str(path), HdrHistogram(1, 10**12, 3))
    for tag in ("first", "last"):
        read = reader.get_next_interval_histogram()
        assert read.get_tag() == tag
        assert read.get_total_count() == histogram.count
        assert abs(read.get_value_at_percentile(50) - histogram.percentile_ns(50)) <= histogram.percentile_ns(50) / 40
        assert abs(read.get_max_value() - histogram.max_ns) <= histogram.max_ns / 500
