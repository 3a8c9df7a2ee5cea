"""In each state one message may come: all others, all cuts and all damage, generated.

Servers have served what came before the proof, or believed a client that it was over:
CVE-2018-7749, CVE-2018-7750, CVE-2018-10933, CVE-2018-1000805, CVE-2025-32433.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proofs import (
    BINDING,
    CHALLENGE,
    FAIL,
    HEADER,
    HELLO,
    KEY,
    PROOF,
    READY,
    answer,
    give,
    hello,
    mac,
    message,
    prove,
)
from pysock.auth import Prover, Verifier
from pysock.errors import AuthenticationError

properties = settings(deadline=None, max_examples=300)

USER = "bob"
NONCE = bytes(range(32))

# Every state of both sides, and what may come there.
STATES: dict[tuple[str, str], tuple[int, ...]] = {
    ("client", "new"): (),
    ("client", "begun"): (CHALLENGE,),
    ("client", "proved"): (READY, FAIL),
    ("client", "done"): (),
    ("client", "failed"): (),
    ("client", "refused"): (),
    ("server", "begun"): (HELLO,),
    ("server", "challenged"): (PROOF,),
    ("server", "done"): (),
    ("server", "failed"): (),
    ("server", "refused"): (),
}
LIVE = [place for place, kinds in STATES.items() if kinds]
RIGHT = {HELLO: 1 + len(USER) + 32, CHALLENGE: 32, PROOF: 32, READY: 32, FAIL: 0}
POSSIBLE = {kind: {size} for kind, size in RIGHT.items()} | {HELLO: {*range(33, 289)}}
MATRIX = [(*place, kind) for place in STATES for kind in (*range(8), 255)]


def sizes(kind: int) -> list[int]:
    right = RIGHT.get(kind, 32)
    return sorted({0, right - 1, right, right + 1, 1024, 1025, 65535} - {-1})


def sides() -> tuple[Prover, Verifier]:
    return Prover(KEY, USER, BINDING), Verifier({USER: KEY}, BINDING)


def side_in(role: str, state: str) -> tuple[Any, dict[int, bytes]]:
    """A side in a state, and the body of each message as it would be right there."""
    side: Any = sides()[role == "server"]
    client_nonce = server_nonce = NONCE
    if role == "client" and state != "new":
        client_nonce = side.begin()[-32:]
    if role == "client" and state in ("proved", "done", "refused"):
        answer(side, message(CHALLENGE, NONCE))
    if role == "server" and state in ("challenged", "done", "refused"):
        server_nonce = answer(side, hello(USER.encode(), NONCE))[-32:]
    covered = (USER.encode(), client_nonce, server_nonce, BINDING)
    bodies = {
        HELLO: hello(USER.encode(), client_nonce)[HEADER:],
        CHALLENGE: server_nonce,
        PROOF: mac(KEY, b"client", *covered),
        READY: mac(KEY, b"server", *covered),
        FAIL: b"",
    }
    last = PROOF if role == "server" else READY
    if state == "done":
        answer(side, message(last, bodies[last]))
    if state in ("failed", "refused"):
        refuse(side, message(last, bytes(32)))
    return side, bodies


def refuse(side: Any, data: bytes) -> None:
    with pytest.raises(AuthenticationError):
        give(side, data)
    assert side.wanted == 0


def seen(side: Any) -> tuple[Any, ...]:
    return side.done, getattr(side, "farewell", None), getattr(side, "user", None)


@pytest.mark.case("T21", "T22")
@pytest.mark.parametrize(("role", "state", "kind"), MATRIX)
def test_only_the_step_that_is_due_is_taken_t21_t22(role, state, kind):
    for size in sizes(kind):
        side, bodies = side_in(role, state)
        before = seen(side)
        assert side.done == (state == "done")
        body = bodies.get(kind, b"")[:size].ljust(size, b"\0")
        if kind in STATES[role, state] and kind != FAIL and size == RIGHT[kind]:
            answer(side, message(kind, body))
            assert side.done == (kind in (PROOF, READY))
            assert side.wanted == (0 if side.done else HEADER)
            continue
        refuse(side, message(kind, body))
        for late in bodies:  # and then it is too late for what would have been right
            refuse(side, message(late, bodies[late]))
        assert seen(side) == before


@pytest.mark.case("T21")
@pytest.mark.parametrize(("role", "state", "kind"), MATRIX)
def test_header_is_judged_before_its_body_comes_t21(role, state, kind):
    for size in sizes(kind):
        side, _ = side_in(role, state)
        header = message(kind, length=size)
        if kind in STATES[role, state] and kind != FAIL and size in POSSIBLE[kind]:
            assert side.feed(header) == b""
            assert side.wanted == size
        else:
            refuse(side, header)
        assert side.done == (state == "done")


@pytest.mark.parametrize("which", range(4))
def test_every_flipped_bit_is_refused(which):
    """Of each message: where it comes, or at the other side's next step."""
    size = len(prove(*sides())[which])
    for bit in range(8 * size):
        prover, verifier = sides()
        messages = [prover.begin()]
        refused = None
        for at, side in enumerate((verifier, prover, verifier, prover)):
            data = messages[-1]
            if at == which:
                flipped = int.from_bytes(data, "big") ^ 1 << bit
                data = flipped.to_bytes(size, "big")
            try:
                sent, left = give(side, data)
                if len(left) < side.wanted != HEADER:  # it waits for a longer message now
                    give(side, left.ljust(side.wanted, b"\0"))
            except AuthenticationError:
                refused = at
                break
            messages.append(sent)
        assert refused is not None, bit
        assert which <= refused <= which + 1 + (which == 0)
        assert verifier.done == (which == 3)
        assert not prover.done


@pytest.mark.parametrize("which", range(4))
def test_stream_may_be_cut_anywhere(which):
    """What has come too early for `wanted` is kept outside, and nothing is sent for it."""
    for cut in range(len(prove(*sides())[which])):
        prover, verifier = sides()
        data = prover.begin()
        for at, side in enumerate((verifier, prover, verifier, prover)):
            if at != which:
                data = answer(side, data)
                continue
            sent, left = give(side, data[:cut])
            assert sent == b""
            assert side.wanted > len(left)
            assert not side.done
            data = answer(side, left + data[cut:])
        assert prover.done and verifier.done


@pytest.mark.parametrize(("role", "state"), LIVE)
def test_wrong_number_of_bytes_is_the_callers_fault(role, state):
    """It changes nothing: the right number is taken afterwards."""
    side, bodies = side_in(role, state)
    kind = STATES[role, state][0]
    data = message(kind, bodies[kind])
    for part in (data[:HEADER], data[HEADER:]):
        for size in {*range(64), 1024} - {len(part)}:
            with pytest.raises(
                ValueError, match=f"{size} bytes were fed, exactly {len(part)}"
            ):
                side.feed(bytes(size))
            assert side.wanted == len(part)
        side.feed(part)
    assert side.done == (kind in (PROOF, READY))


@pytest.mark.parametrize(("role", "state"), LIVE)
def test_beginning_is_judged_before_the_rest_comes(role, state):
    """Who speaks another protocol and waits need not be waited for."""
    name = b"\xffpysock"
    side, bodies = side_in(role, state)
    for size in range(len(name) + 1):
        side.check(name[:size])
    assert side.wanted == HEADER
    for size in range(1, len(name) + 1):
        side, _ = side_in(role, state)
        with pytest.raises(AuthenticationError, match="bytes are"):
            side.check(name[: size - 1] + b"!")
        assert side.wanted == 0


noise = st.binary(max_size=400) | st.builds(
    message,
    st.sampled_from([*RIGHT, 0, 6, 255]),
    st.binary(max_size=80) | st.binary(min_size=32, max_size=32),
    st.none() | st.integers(0, 300) | st.integers(0, 65535),
)


@pytest.mark.parametrize(("role", "state"), LIVE)
@properties
@given(data=st.lists(noise, max_size=4).map(b"".join))
def test_noise_is_refused_or_waits_for_more(role, state, data):
    side, _ = side_in(role, state)
    try:
        _, left = give(side, data)
    except AuthenticationError:
        assert side.wanted == 0
    else:
        assert len(left) < (side.wanted or 1)
    assert not side.done
