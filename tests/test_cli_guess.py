"""`pysock guess` finds the format of captures, and says so where there is none to find."""

from __future__ import annotations

import json
import os
import random
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import captures
import certificates
import pysock
from pysock import formats
from pysock.cli import main
from pysock.cli.guess_notation import expression, framing_from
from pysock.cli.guess_rank import Proposal, propose

certs = certificates.certs

CASES = list(captures.CAPTURES)


def sure(data: bytes, start: int | None = None) -> list[Proposal]:
    return [found for found in propose(data, start, whole=True) if found.is_sure]


def frames_of(case: str) -> list[bytes]:
    return captures.CAPTURES[case][1]()


def protocol(case: str) -> str:
    return captures.CAPTURES[case][0]


@pytest.fixture
def guess(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command on bytes; return its status, its output and its complaint."""
    path = tmp_path / "capture"

    def guess(data: bytes, *options: str) -> tuple[int, str, str]:
        path.write_bytes(data)
        status = main(["guess", *options, str(path)])
        out, err = capsys.readouterr()
        return status, out, err

    return guess


# ---------------------------------------------------------------- known protocols


def test_captures_are_of_every_protocol() -> None:
    known = {name.lower().replace("_", "-") for name in formats.__all__}
    assert {protocol(case) for case in CASES} == known - {"named", "tls-record"} - {"NAMED"}


@pytest.mark.parametrize("case", CASES)
def test_protocol_comes_first(case: str) -> None:
    frames = frames_of(case)
    best = sure(b"".join(frames))[0]
    assert best.names[0] == protocol(case)
    assert best.walked.frames == len(frames)
    # What is proposed is the format itself, or one with the same frames.
    decoder = best.format.decoder()
    assert len(decoder.feed(b"".join(frames))) == len(frames)
    decoder.eof()


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=[pytest.mark.slow] * (i % 3 > 0)) for i, c in enumerate(CASES)],
)
def test_cut_capture_has_the_same_format(case: str) -> None:
    frames = frames_of(case)
    data = captures.PREFACES.get(case, b"") + b"".join(frames)
    best = sure(data[: -(len(frames[-1]) // 2 + 1)])[0]
    assert best.names[0] == protocol(case)
    assert best.walked.frames == len(frames) - 1
    assert best.start == len(captures.PREFACES.get(case, b""))


@pytest.mark.parametrize(
    "case",
    ["dns answers", "kafka", "thrift", "erlang4", "modbus", "tpkt", "bgp", "mongodb", "amqp"]
    + ["memcached", "cassandra", "postgres answers", "netstring", "lsp", "mysql commands"],
)
def test_two_frames_are_enough_for_most(case: str) -> None:
    best = sure(b"".join(frames_of(case)[2:4]))[0]
    assert protocol(case) in best.names
    assert best.walked.frames == 2


@pytest.mark.parametrize("case", ["kafka", "bgp", "mongodb", "memcached", "lsp", "netstring"])
def test_one_frame_is_enough_for_a_long_length(case: str) -> None:
    best = sure(frames_of(case)[2])[0]
    assert protocol(case) in best.names


def test_records_of_the_standard_library_s_tls(certs: certificates.Certificates) -> None:
    data = captures.tls_records(certs.server_context(), certs.client_context())
    best = sure(data)[0]
    assert best.names == ["tls-record"]
    assert best.walked.outcome == "exact"


def test_all_names_of_one_layout_are_told(guess: Any) -> None:
    status, out, _ = guess(b"".join(frames_of("thrift")))
    assert status == 0
    line = next(line for line in out.splitlines() if line.startswith("1. "))
    assert line.startswith("1. pysock.LengthField(4) = thrift, ")
    for name in ("kafka", "zookeeper", "erlang4", "multiprocessing", "length4"):
        assert re.search(rf"\b{name}\b", line)


# ---------------------------------------------------------------- what is no capture


@pytest.mark.parametrize("size", [1, 3, 20, 200, 1000])
@pytest.mark.parametrize("seed", range(4))
def test_noise_is_nothing(size: int, seed: int) -> None:
    assert sure(random.Random(seed).randbytes(size)) == []


def test_nothing_is_said_honestly(guess: Any) -> None:
    status, out, err = guess(random.Random(1).randbytes(500))
    assert (status, err) == (1, "")
    assert out.startswith("nothing tiles these 500 bytes well enough to be believed\n")
    assert "\n1. " not in out


@pytest.mark.parametrize("data", [bytes(3000), b"\xff" * 3000, b"A" * 3000])
def test_what_is_all_alike_is_nothing(data: bytes) -> None:
    assert sure(data) == []


def test_text_has_lines_and_no_binary_lengths() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    assert [one.format for one in sure(text.encode())] == [pysock.Delimiter(b"\n")]
    http = b"GET / HTTP/1.1\r\nHost: example.com\r\nAccept: */*\r\n\r\n"
    assert [one.format for one in sure(http * 3)] == [pysock.Delimiter(b"\r\n")]


def test_prose_without_an_end_of_line_is_nothing(guess: Any) -> None:
    status, out, _ = guess(b"the quick brown fox jumps over the lazy dog " * 20)
    assert status == 1
    assert out.startswith("nothing tiles")


def test_frame_that_breaks_off_is_told(guess: Any) -> None:
    """A good beginning is no answer, but it is shown."""
    data = b"".join(frames_of("amqp")[:6]) + b"\xff" * 7 + random.Random(5).randbytes(300)
    status, out, _ = guess(data)
    assert status == 1
    assert 'trailer=b"\\xce"' in out
    assert "6 frames up to offset" in out


# ---------------------------------------------------------------- formats of one's own


@st.composite
def own_formats(draw: st.DrawFn) -> pysock.LengthField:
    """Length fields as people make them."""
    width = draw(st.sampled_from([2, 3, 4, 8]))
    offset = draw(st.integers(0, 12))
    counts = draw(st.sampled_from(["rest", "with_length", "frame", "body"]))
    extra = draw(st.integers(0, 8)) if counts == "body" else 0
    order = draw(st.sampled_from(["big", "little"]))
    return pysock.LengthField(
        width, order, offset=offset, counts=counts, header=offset + width + extra
    )


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(framing=own_formats(), seed=st.integers(0, 1 << 30))
def test_any_length_field_is_found(framing: pysock.LengthField, seed: int) -> None:
    """Right is what has the same frames: one of 3 bytes may be one of 4 with a zero."""
    rng = random.Random(seed)
    data, edges = b"", [0]
    for _ in range(20):
        head = rng.randbytes(framing.header)
        payload = rng.randbytes(rng.randrange(200))
        message = framing.encode(head + payload if framing.strip == 0 else payload)
        data += message
        edges.append(len(data))
    best = sure(data)[0]
    assert best.walked.edges == edges


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_other_formats_are_found(data: st.DataObject) -> None:
    framing = data.draw(
        st.sampled_from(
            [
                pysock.Netstring(),
                pysock.ContentLength(),
                pysock.Decimal(b"\n"),
                pysock.Varint(),
            ]
        )
    )
    rng = random.Random(data.draw(st.integers(0, 1 << 30)))
    payloads = [rng.randbytes(rng.randrange(100, 300)) for _ in range(10)]
    best = sure(b"".join(map(framing.encode, payloads)))[0]
    if isinstance(framing, pysock.Varint):
        # How many bytes a length may have at most shows only in longer messages.
        framing = framing.replace(max_bytes=best.format.max_bytes)
    assert framing.replace(max_frame=None) == best.format.replace(max_frame=None)


def test_records_of_one_size_are_found() -> None:
    rng = random.Random(7)
    records = [b"\x01\x02ID" + rng.randbytes(9) + b"\0\0\0" for _ in range(50)]
    assert sure(b"".join(records))[0].format == pysock.Fixed(16)


def test_magic_and_trailer_become_part_of_the_format() -> None:
    framing = pysock.LengthField(
        2, offset=2, counts="body", magic=b"\xa5\x5a", trailer=b"\x0d\x0a"
    )
    rng = random.Random(3)
    data = b"".join(framing.encode(rng.randbytes(rng.randrange(90))) for _ in range(20))
    assert sure(data)[0].format == framing


# ---------------------------------------------------------------- the command


def test_what_it_tells_to_go_on_with_works(guess: Any, tmp_path: Path, capsys: Any) -> None:
    frames = frames_of("amqp")
    status, out, err = guess(captures.PREFACES["amqp"] + b"".join(frames))
    assert (status, err) == (0, "")
    words = next(line for line in out.splitlines() if "pysock dump" in line).split()
    assert words[:-1] == ["pysock", "dump", "--framing", "amqp", "--skip", "8"]
    assert main(words[1:]) == 0
    assert capsys.readouterr().out.count("\nframe ") == len(frames) - 1
    assert f"pysock.Client(ADDRESS, {expression(formats.AMQP)})" in out


def test_it_goes_on_with_pysock_s_own_format_where_no_protocol_shows(guess: Any) -> None:
    own = b"".join(pysock.LengthField().encode(b"message " + b"x" * n) for n in range(50))
    _, out, _ = guess(own)
    assert re.match(r"1\. pysock\.LengthField\(4\) = .*\bkafka\b.*, length4: ", out)
    assert "  pysock dump --framing length4 " in out
    _, out, _ = guess(b"".join(frames_of("kafka")))
    assert "  pysock dump --framing kafka " in out


def test_skip_says_where_the_frames_begin(guess: Any) -> None:
    data = b"HELLO SERVER\n" + b"".join(frames_of("dns answers"))
    status, out, _ = guess(data, "--skip", "13")
    assert status == 0
    assert "1. pysock.LengthField(2) = dns" in out
    assert "--framing dns --skip 13 " in out


def test_json(guess: Any) -> None:
    status, out, _ = guess(b"".join(frames_of("bgp")), "--json")
    found = json.loads(out)
    assert status == 0
    best = found["proposals"][0]
    assert (best["names"], best["end"], best["skip"]) == (["bgp"], "exact", 0)
    assert framing_from(best["expression"]) == formats.BGP.replace(max_frame=...)


def test_empty_file_is_a_line_on_stderr(guess: Any) -> None:
    assert guess(b"") == (1, "", "pysock guess: no bytes: nothing to guess from\n")
    assert guess(b"abc", "--skip", "5")[2] == (
        "pysock guess: only 3 bytes, --skip is 5: nothing to guess from\n"
    )


def test_only_the_beginning_of_a_large_file_is_looked_at(guess: Any, monkeypatch: Any) -> None:
    frames = frames_of("dns answers")
    monkeypatch.setattr("pysock.cli.guess.LOOK", 10_000)
    status, out, _ = guess(b"".join(frames) * 100)
    assert status == 0
    assert out.startswith(
        "only the first 10000 bytes were looked at\n1. pysock.LengthField(2)"
    )


def test_packets_are_no_stream(guess: Any) -> None:
    status, out, err = guess(bytes.fromhex("d4c3b2a1 0200 0400") + bytes(100))
    assert (status, out) == (2, "")
    assert err.startswith("pysock guess: this is a pcap file: packets, not the bytes of a")
    assert "tshark -r " in err
    assert err.count("\n") == 1


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=120))
def test_any_bytes_get_an_answer(data: bytes) -> None:
    """No traceback; and what is said to be sure parses the bytes."""
    assume(data)
    for found in sure(data):
        decoder = framing_from(expression(found.format)).decoder()
        assert len(decoder.feed(data[found.start :])) == found.walked.frames


def test_missing_file(tmp_path: Path, capsys: Any) -> None:
    assert main(["guess", os.fspath(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.endswith("none': No such file or directory\n")
