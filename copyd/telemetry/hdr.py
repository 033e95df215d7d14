"""Histograms out of the process in the HdrHistogram log format, for tools that plot and compare it.

``hdrhistogram`` belongs to tests and benchmarks only; without it this module says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from copyd._fast.meters import Histogram
from copyd.errors import OperatorError

HIGHEST_NS = 3_600 * 10**9  # an hour; longer latencies are recorded as an hour


def to_hdr(histogram: Histogram) -> Any:
    """The same records as an ``HdrHistogram`` of three digits; each at the middle of its bucket, the largest exact."""
    try:
        from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]
    except ImportError:
        raise OperatorError("an HDR file needs the package hdrhistogram: pip install 'copyd[test]'") from None
    made = HdrHistogram(1, HIGHEST_NS, 3)
    for low, high, count in histogram.buckets():
        value = histogram.max_ns if high >= histogram.max_ns else (low + high) // 2
        made.record_value(min(max(value, 1), HIGHEST_NS), count)
    return made


def write_hdr(path: Path, histograms: dict[str, Histogram], start_s: float, end_s: float) -> None:
    """One tagged interval line per histogram; times in s since 1970, values in ns."""
    lines = [
        "#[Histogram log format version 1.2]",
        '"StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"',
    ]
    for tag, histogram in histograms.items():
        payload = to_hdr(histogram).encode().decode()
        largest = histogram.max_ns / 1e9
        lines.append(f"Tag={tag},{start_s:.3f},{max(end_s - start_s, 0):.3f},{largest:.6f},{payload}")
    path.write_text("\n".join(lines) + "\n")
