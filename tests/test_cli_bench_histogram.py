"""`pysock bench`: its histogram, against the latencies themselves, and how it is shown."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pysock.cli.bench_histogram import Histogram
from pysock.cli.bench_report import duration, picture

LATENCIES = st.lists(
    st.tuples(st.integers(1_000, 100 * 10**9), st.integers(1, 50)), min_size=1, max_size=60
)
PERCENTS = st.one_of(st.sampled_from([50.0, 90.0, 99.0, 99.9]), st.floats(0.1, 100))


@given(LATENCIES, PERCENTS)
@example([(1_000, 1)], 50.0)
@example([(1_000, 1), (100 * 10**9, 1)], 50.0)
@example([(128_000 + n, 1) for n in range(1000)], 99.9)
def test_percentiles_are_within_one_percent(latencies, percent):
    histogram = Histogram()
    for latency, count in latencies:
        histogram.record(latency, count)
    ordered = sorted(each for each, count in latencies for _ in range(count))
    exact = ordered[max(1, math.ceil(len(ordered) * percent / 100 - 1e-6)) - 1]
    assert histogram.percentile(percent) == pytest.approx(exact, rel=0.01)
    assert histogram.total == len(ordered)
    assert (histogram.smallest, histogram.largest) == (ordered[0], ordered[-1])
    assert histogram.mean == pytest.approx(sum(ordered) / len(ordered))


@given(LATENCIES, LATENCIES)
def test_histograms_added_are_one_of_everything(some, others):
    parts = Histogram(), Histogram()
    everything, sum_of_parts = Histogram(), Histogram()
    for part, latencies in zip(parts, (some, others), strict=True):
        for latency, count in latencies:
            part.record(latency, count)
            everything.record(latency, count)
        sum_of_parts.add(json.loads(json.dumps(part.packed())))
    assert sum_of_parts.packed() == everything.packed()


def test_histogram_takes_whatever_comes():
    histogram = Histogram()
    assert (histogram.total, histogram.mean, histogram.percentile(50)) == (0, 0, 0)
    assert list(histogram) == []
    for latency in (0, 1, 127, 128, 255, 256, 10**9, 10**11, 10**15):
        histogram.record(latency)
    assert histogram.total == 9
    assert (histogram.smallest, histogram.largest) == (0, 10**15)
    assert [middle for middle, _ in histogram][:6] == [0, 1, 127, 128, 255, 256.5]


@given(LATENCIES, st.integers(60, 250), st.booleans())
def test_picture_fits_and_counts_everything(latencies, width, blocks):
    histogram = Histogram()
    for latency, count in latencies:
        histogram.record(latency, count)
    lines = picture(histogram, width, blocks)
    assert len(lines) <= 16
    assert max(map(len, lines)) <= width - 5
    counted = sum(int(line.split()[-1].replace(",", "")) for line in lines if "%" in line)
    assert counted == histogram.total
    assert max(line.count("█" if blocks else "#") for line in lines) >= width - 45


@pytest.mark.parametrize(
    ("nanoseconds", "shown"),
    [
        (1, "1 ns"),
        (999.4, "999 ns"),
        (999.6, "1 us"),
        (1_234, "1.23 us"),
        (45_678, "45.7 us"),
        (999_600, "1 ms"),
        (123_456_789, "123 ms"),
        (99_960_000, "100 ms"),
        (1_500_000_000, "1.5 s"),
        (100_000_000_000, "100 s"),
    ],
)
def test_duration_has_three_digits(nanoseconds, shown):
    assert duration(nanoseconds) == shown
