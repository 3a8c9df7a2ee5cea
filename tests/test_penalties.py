"""Sources that fail to prove a key: what counts together, how long, and how many of them."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pysock.penalties import Penalties, source_of

NOW = 12345.75  # seconds of a clock whose zero means nothing

properties = settings(deadline=None)


def after(*times: float, source: str = "192.0.2.1") -> Penalties:
    """A table in which *source* has failed at these times."""
    table = Penalties()
    for time in times:
        table.add(source, time)
    return table


def left(table: Penalties, now: float) -> float:
    return table.left("192.0.2.1", now)


# ---------------------------------------------------------------- the source


@pytest.mark.parametrize(
    ("client_address", "source"),
    [
        (("192.0.2.7", 1), "192.0.2.7"),
        (("0.0.0.0", 1), "0.0.0.0"),
        (("128.0.0.1", 1), "128.0.0.1"),
        (("12.7.0.0", 1), "12.7.0.0"),
        (("127.0.0.1", 1), None),
        (("127.255.255.254", 1), None),
        (("::1", 1, 0, 0), None),
        (("0:0:0:0:0:0:0:1", 1), None),
        (("::ffff:127.0.0.1", 1, 0, 0), None),
        (("::ffff:7f01:203", 1, 0, 0), None),
        (("::ffff:192.0.2.7", 1, 0, 0), "192.0.2.7"),
        (("::fffe:192.0.2.7", 1, 0, 0), "::/64"),
        (("::", 1, 0, 0), "::/64"),
        (("::2", 1, 0, 0), "::/64"),
        (("1::1", 1, 0, 0), "1::/64"),
        (("2001:db8:1:2:3:4:5:6", 1, 0, 0), "2001:db8:1:2::/64"),
        (("2001:DB8:1:2::", 1, 0, 0), "2001:db8:1:2::/64"),
        (("2001:db8:1:3::", 1, 0, 0), "2001:db8:1:3::/64"),
        (("fe80::1%eth0", 1, 0, 2), "fe80::/64"),
        (("2001:db8::1", 1), "2001:db8::/64"),  # as a PROXY header has it
        ("", None),
        ("/run/client", None),
        ("\0abstract", None),
        (b"\0abstract", None),
        (b"", None),
        (None, None),
        ((), None),
        ((None, None), None),
        ((2, 1000), None),  # vsock
        (("", 0), None),
        ((":", 0), None),
        ((":\0", 0), None),
        ((":\udcff", 0), None),
    ],
)
def test_source_of_every_kind_of_address(client_address, source):
    assert source_of(client_address) == source


@properties
@given(st.ip_addresses())
def test_source_is_the_number_or_its_network(number):
    source = source_of((str(number), 1))
    mapped = getattr(number, "ipv4_mapped", None)
    if number.is_loopback or (mapped and mapped.is_loopback):
        assert source is None
    elif number.version == 4 or mapped:
        assert source == str(mapped or number)
    else:
        assert source == str(ipaddress.ip_network((number, 64), strict=False))


@properties
@given(st.text(max_size=20) | st.text("0123456789abcdef:.%", max_size=40))
def test_source_of_anything_is_no_error(host):
    assert isinstance(source_of((host, 1)), str | None)


# ---------------------------------------------------------------- the penalty


@pytest.mark.case("L04")
def test_source_is_refused_from_the_third_failure_on():
    assert left(after(), NOW) == 0.0
    assert left(after(NOW), NOW) == 0.0
    assert left(after(NOW, NOW), NOW) == 0.0
    assert left(after(NOW, NOW, NOW), NOW) == 15.0
    assert left(after(NOW, NOW, NOW, NOW), NOW) == 20.0


def test_failures_add_up_only_where_they_come_together():
    assert left(after(*(NOW + 5 * n for n in range(1000))), NOW + 5000) == 0.0
    assert left(after(NOW, NOW + 1, NOW + 2), NOW + 2) == 0.0
    assert left(after(NOW, NOW + 1, NOW + 2, NOW + 3), NOW + 3) == pytest.approx(17)


@pytest.mark.case("L04")
def test_refusal_lasts_until_the_time_is_over():
    table = after(NOW, NOW, NOW)
    assert left(table, NOW + 3) == pytest.approx(12)
    assert left(table, NOW + 14.5) == pytest.approx(0.5)  # less than what it begins with
    assert left(table, NOW + 15) == 0.0
    assert left(table, NOW + 1e6) == 0.0


def test_failure_while_refused_makes_it_longer():
    table = after(NOW, NOW, NOW)
    table.add("192.0.2.1", NOW + 14)
    assert left(table, NOW + 14) == pytest.approx(6)


@pytest.mark.parametrize("others", [0, 5])
def test_source_begins_anew_when_its_time_is_over(others):
    """Whether the table has forgotten it by then or not."""
    table = Penalties()
    for number in range(others):
        for _ in range(10):
            table.add(f"source {number}", NOW)
    for _ in range(3):
        table.add("192.0.2.1", NOW)
    for time in (15.0, 16.0):
        table.add("192.0.2.1", NOW + time)
        assert left(table, NOW + time) == 0.0


@pytest.mark.case("L04")
def test_penalty_has_an_end():
    table = after(*([NOW] * 1000))
    assert left(table, NOW) == 600.0
    table.add("192.0.2.1", NOW + 100)
    assert left(table, NOW + 100) == pytest.approx(505)
    assert left(table, NOW + 605) == 0.0


@pytest.mark.case("L04")
def test_sources_do_not_answer_for_each_other():
    table = after(NOW, NOW, NOW)
    table.add("192.0.2.2", NOW)
    assert table.left("192.0.2.2", NOW) == 0.0
    assert left(table, NOW) == 15.0


def test_local_peers_are_never_refused():
    table = Penalties()
    for _ in range(10):
        table.add(None, NOW)
    assert table.left(None, NOW) == 0.0
    assert len(table) == 0


@properties
@given(st.lists(st.tuples(st.integers(0, 80), st.booleans()), max_size=60))
def test_penalty_is_what_a_plain_account_of_it_says(steps):
    """Each step waits some quarters of a second, then fails or only looks."""
    table, now, until, refused = Penalties(), NOW, NOW, False
    for quarters, fails in steps:
        now += quarters / 4
        if until <= now:
            until, refused = now, False
        if fails:
            table.add("192.0.2.1", now)
            until = min(until + 5, now + 600)
            refused = refused or until - now >= 15
        assert left(table, now) == (until - now if refused else 0.0)


# ---------------------------------------------------------------- the table


@pytest.mark.case("L04")
def test_table_holds_so_many_sources_and_no_more():
    table = after(NOW, NOW, NOW)
    for number in range(100_000):
        table.add(f"source {number}", NOW)
    assert len(table) == 65_536
    assert left(table, NOW) == 0.0
    table.add("source 99999", NOW)
    table.add("source 99999", NOW)
    assert table.left("source 99999", NOW) == 15.0


def test_source_that_goes_on_failing_is_not_forgotten_for_others():
    table = after(NOW, NOW, NOW)
    for number in range(100_000):
        table.add(f"source {number}", NOW)
        if number % 1000 == 0:
            table.add("192.0.2.1", NOW)
    assert len(table) == 65_536
    assert left(table, NOW) == 515.0


def test_table_shrinks_when_penalties_are_over():
    table = Penalties()
    for number in range(1000):
        table.add(f"source {number}", NOW)
    for number in range(1000):
        table.add("192.0.2.1", NOW + 6 + number)
    assert len(table) == 1


def test_looking_up_leaves_no_trace():
    table = Penalties()
    for number in range(1000):
        assert table.left(f"source {number}", NOW) == 0.0
    assert len(table) == 0
