"""The proof of a key: who passes, who does not, and what each side tells."""

from __future__ import annotations

import hmac
import logging
import pickle
import re
import traceback
from typing import Any

import pytest

from proofs import (
    BINDING,
    CHALLENGE,
    FAIL,
    HEADER,
    HELLO,
    KEY,
    OTHER_KEY,
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

NO_PROOF = "no proof came: "
NO_ANSWER = "no answer to a proof came: "
REFUSED = "the server refused the key (user ''): it has another one, or no such user"


def failure(side: Any, data: bytes) -> AuthenticationError:
    """Return the error with which *side* refuses *data*; it takes nothing after that."""
    with pytest.raises(AuthenticationError) as caught:
        give(side, data)
    assert side.wanted == 0
    assert not side.done
    return caught.value


def challenged(verifier: Verifier, prover: Prover) -> bytes:
    """Go as far as the proof, and return it."""
    return answer(prover, answer(verifier, prover.begin()))


# ---------------------------------------------------------------- who passes


@pytest.mark.case("T16")
@pytest.mark.parametrize("binding", [b"", BINDING])
@pytest.mark.parametrize("user", ["", "bob", "żółw", "two words", "x" * 255])
def test_key_is_proved_by_both_t16(user, binding):
    prover, verifier = Prover(KEY, user, binding), Verifier({user: KEY}, binding)
    assert (prover.wanted, verifier.wanted, prover.done, verifier.done) == (
        0,
        11,
        False,
        False,
    )
    prove(prover, verifier)
    assert (prover.wanted, verifier.wanted, prover.done, verifier.done) == (0, 0, True, True)
    assert verifier.user == user
    assert verifier.farewell == b""


def test_plain_key_of_the_server_is_that_of_the_user_without_a_name():
    verifier = Verifier(KEY)
    prove(Prover(KEY), verifier)
    assert verifier.user == ""
    verifier = Verifier(KEY)
    failure(verifier, challenged(verifier, Prover(KEY, "bob")))


@pytest.mark.parametrize("user", ["", "bob", "ü" * 127])
@pytest.mark.parametrize("binding", [b"", BINDING])
def test_bytes_are_those_of_the_design(user, binding):
    prover = Prover(KEY, user, binding)
    first, second, third, fourth = prove(prover, Verifier({user: KEY}, binding))
    name, client_nonce, server_nonce = user.encode(), first[-32:], second[-32:]
    assert first == hello(name, client_nonce)
    assert second == message(CHALLENGE, server_nonce)
    covered = (name, client_nonce, server_nonce, binding)
    assert third == message(PROOF, mac(KEY, b"client", *covered))
    assert fourth == message(READY, mac(KEY, b"server", *covered))
    assert max(map(len, (first + third, second + fourth))) <= 1024


def test_bytes_stay_the_same_from_release_to_release(monkeypatch):
    """The bytes as OpenSSL's command line makes the HMACs of the same text."""
    nonces = iter([b"c" * 32, b"s" * 32])
    monkeypatch.setattr("os.urandom", lambda size: next(nonces))
    prover, verifier = (
        Prover(b"k" * 32, "bob", b"b" * 32),
        Verifier({"bob": b"k" * 32}, b"b" * 32),
    )
    assert [one.hex() for one in prove(prover, verifier)] == [
        "ff7079736f636b01" + "01" + "0024" + "03" + "626f62" + "63" * 32,
        "ff7079736f636b01" + "02" + "0020" + "73" * 32,
        "ff7079736f636b01"
        + "03"
        + "0020"
        + "af8ca9dafd44ee1406328a8eb0a149c8bc24b9499443b1cfb5b12cba099afebd",
        "ff7079736f636b01"
        + "04"
        + "0020"
        + "0bda92cae800c284b9a50e54de25fd3dc5874b95d1dd36fb3e5a9d01ab1f3c60",
    ]


def test_fields_of_the_hmac_do_not_run_together():
    """A user that ends as the nonce begins is another user."""
    nonce = b"n" * 32
    verifier = Verifier({"bob": KEY, "bobn": KEY})
    server_nonce = answer(verifier, hello(b"bobn", nonce))[-32:]
    proof = message(PROOF, mac(KEY, b"client", b"bob", b"n" + nonce, server_nonce))
    assert "bobn" in str(failure(verifier, proof))


def test_bytes_may_come_in_any_buffer():
    verifier = Verifier(KEY)
    data = Prover(KEY).begin()
    assert verifier.feed(bytearray(data[:HEADER])) == b""
    assert verifier.feed(memoryview(data)[HEADER:])


# ---------------------------------------------------------------- who does not


@pytest.mark.case("T16")
def test_wrong_key_is_refused_and_both_are_told_why_t16():
    prover, verifier = Prover(OTHER_KEY, "bob"), Verifier({"bob": KEY})
    error = failure(verifier, challenged(verifier, prover))
    assert str(error) == (
        "the proof of user 'bob' is wrong: no such user, another key or another certificate"
    )
    assert verifier.user == ""
    assert verifier.farewell == message(FAIL)
    assert str(failure(prover, verifier.farewell)) == REFUSED.replace("''", "'bob'")


def test_server_without_the_key_is_refused():
    prover = Prover(KEY, "bob")
    prover.begin()
    answer(prover, message(CHALLENGE, bytes(32)))
    error = failure(prover, message(READY, bytes(32)))
    assert str(error) == (
        "the server does not know the key (user 'bob'), is it the right one?"
    )


@pytest.mark.case("T17")
def test_replayed_proof_is_refused_by_a_new_verifier_t17():
    first, _, third, _ = prove(Prover(KEY, "bob"), Verifier({"bob": KEY}))
    verifier = Verifier({"bob": KEY})
    answer(verifier, first)
    assert "is wrong" in str(failure(verifier, third))


@pytest.mark.case("T17")
def test_replayed_server_is_refused_by_a_new_prover_t17():
    _, second, _, fourth = prove(Prover(KEY, "bob"), Verifier({"bob": KEY}))
    prover = Prover(KEY, "bob")
    prover.begin()
    answer(prover, second)
    assert "does not know the key" in str(failure(prover, fourth))


@pytest.mark.case("T18")
def test_reflected_messages_are_refused_t18():
    prover = Prover(KEY)
    assert "HELLO, expected CHALLENGE" in str(failure(prover, prover.begin()))
    verifier = Verifier(KEY)
    challenge = answer(verifier, hello(b""))
    assert "CHALLENGE, expected PROOF" in str(failure(verifier, challenge))
    prover = Prover(KEY)
    prover.begin()
    proof = answer(prover, message(CHALLENGE, bytes(32)))
    assert "PROOF, expected READY" in str(failure(prover, proof))


@pytest.mark.case("T18")
def test_hmac_of_one_role_is_none_of_the_other_t18():
    """Even for the same nonces, which a peer that reflects them could bring about."""
    prover = Prover(KEY)
    nonce = prover.begin()[-32:]
    proof = answer(prover, message(CHALLENGE, nonce))
    failure(prover, message(READY, proof[HEADER:]))

    verifier = Verifier(KEY)
    server_nonce = answer(verifier, hello(b"", nonce))[-32:]
    failure(verifier, message(PROOF, mac(KEY, b"server", b"", nonce, server_nonce)))


@pytest.mark.case("T18")
def test_two_provers_or_two_verifiers_come_to_nothing_t18():
    one, other = Prover(KEY), Prover(KEY)
    hellos = one.begin(), other.begin()
    failure(one, hellos[1])
    failure(other, hellos[0])
    one, other = Verifier(KEY), Verifier(KEY)
    failure(one, answer(other, hello(b"")))


@pytest.mark.case("T19")
@pytest.mark.parametrize(
    ("seen_by_client", "seen_by_server"),
    [(b"m" * 32, BINDING), (BINDING, b"m" * 32), (BINDING, b""), (b"", BINDING)],
)
def test_relay_with_another_certificate_is_refused_t19(seen_by_client, seen_by_server):
    prover, verifier = Prover(KEY, "", seen_by_client), Verifier(KEY, seen_by_server)
    failure(verifier, challenged(verifier, prover))
    hint = ", or TLS ends at a proxy before it" if seen_by_client else ""
    assert str(failure(prover, verifier.farewell)) == REFUSED + hint


MP_OLD = b"\0\0\0\x1f#CHALLENGE#" + bytes(range(20))
MP_NEW = b"\0\0\0\x3b#CHALLENGE#{sha256}" + bytes(range(40))


@pytest.mark.case("T20", "I09")
@pytest.mark.parametrize(
    ("data", "what"),
    [
        (MP_OLD, r"the bytes are b'\x00\x00\x00\x1f#CHA', does {} use authkey=?"),
        (MP_NEW, r"the bytes are b'\x00\x00\x00;#CHA', does {} use authkey=?"),
        (b"\0\0\0\x10" + bytes(16), "the bytes are b'"),
        (b"\xffpysock\0\1\0\x21", "version 0 of it, expected 1"),
        (b"\xffpysock\2\1\0\x21", "version 2 of it, expected 1"),
        (b"\xffpysocK\1\1\0\x21", "the bytes are b'\\xffpysocK\\x01', does {} use authkey=?"),
        (b"GET / HTTP/1.1\r\n", "the bytes are 'GET ', an HTTP client?"),
        (b"\x16\x03\x01\2\0\1\0\1\xfc\3\3", r"the bytes are '\x16\x03\x01', a TLS peer?"),
        (bytes(11), "the bytes are b'"),
    ],
)
def test_other_and_older_proofs_are_refused_at_their_first_bytes_t20(data, what):
    verifier, prover = Verifier(KEY), Prover(KEY)
    prover.begin()
    error = failure(verifier, data[:HEADER])
    assert str(error).startswith(NO_PROOF + what.format("the client"))
    assert verifier.farewell == b""
    error = failure(prover, data[:HEADER])
    assert str(error).startswith(NO_ANSWER + what.format("the server"))


@pytest.mark.case("T20")
@pytest.mark.parametrize("size", [16, 32, 16 + 4])
def test_bare_answer_is_refused_t20(size):
    """As multiprocessing takes one of 16 bytes for HMAC-MD5, to this day."""
    verifier = Verifier(KEY)
    server_nonce = answer(verifier, hello(b""))[-32:]
    bare = hmac.digest(KEY, server_nonce, "md5" if size < 32 else "sha256").rjust(size, b"\0")
    failure(verifier, bare)
    assert verifier.farewell == b""


# ---------------------------------------------------------------- what is a user


@pytest.mark.case("T23")
@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"\3bo" + bytes(32), "HELLO with 2 bytes for a user of 3"),
        (b"\3bobb" + bytes(32), "HELLO with 4 bytes for a user of 3"),
        (b"\xff" + bytes(32), "HELLO with 0 bytes for a user of 255"),
        (b"\0x" + bytes(32), "HELLO with 1 bytes for a user of 0"),
        (b"\4b\0ob" + bytes(32), "HELLO, but user has a control character in it"),
        (b"\4b\nob" + bytes(32), "HELLO, but user has a control character in it"),
        (b"\1\x7f" + bytes(32), "HELLO, but user has a control character in it"),
        (b"\2\xc2\x85" + bytes(32), "HELLO, but user has a control character in it"),
        (b"\2\xff\xfe" + bytes(32), "HELLO, but 'utf-8' codec can't decode byte 0xff"),
        (b"\2\xc0\x80" + bytes(32), "HELLO, but 'utf-8' codec can't decode byte 0xc0"),
        (b"\3\xed\xa0\x80" + bytes(32), "HELLO, but 'utf-8' codec can't decode byte 0xed"),
    ],
)
def test_malformed_user_is_refused_and_gets_no_answer_t23(body, what):
    verifier = Verifier({"bob": KEY})
    assert str(failure(verifier, message(HELLO, body))).startswith(NO_PROOF + what)
    assert verifier.farewell == b""


@pytest.mark.case("T23")
@pytest.mark.parametrize("length", [0, 32, 289, 1023, 1024, 1025, 1 + 1025 + 32, 65535])
def test_hello_that_cannot_be_one_is_refused_before_its_body_t23(length):
    verifier = Verifier(KEY)
    error = failure(verifier, message(HELLO, length=length))
    assert str(error) == f"{NO_PROOF}HELLO of {length} bytes"


def test_name_of_a_user_cannot_write_into_the_log():
    """What is not printable is escaped, also where it is no control character."""
    name = "\u2028\u202ebob'\"\\"
    verifier, prover = Verifier(KEY), Prover(KEY, name)
    error = failure(verifier, challenged(verifier, prover))
    assert repr(name) in str(error)
    assert str(error).isprintable()


# ---------------------------------------------------------------- what cannot be told


@pytest.mark.case("T25")
def test_unknown_user_looks_like_a_wrong_key_t25(monkeypatch):
    """The same bytes, the same work, the same words, however many keys there are."""
    calls: list[int] = []
    digest = hmac.digest

    def counting(key: bytes, text: bytes, name: str) -> bytes:
        calls.append(len(text))
        return digest(key, text, name)

    monkeypatch.setattr(hmac, "digest", counting)
    users: dict[str, Any] = {
        "one": KEY,
        "two": [KEY, OTHER_KEY],
        "all": [KEY] * 8,
        "off": None,
    }
    seen = set()
    for user in ("one", "two", "all", "off", "nob"):
        verifier = Verifier(users)
        sent = answer(verifier, hello(user.encode()))
        calls.clear()
        error = failure(verifier, message(PROOF, bytes(32)))
        words = str(error).replace(repr(user), "")
        seen.add((len(sent), tuple(calls), verifier.farewell, words, verifier.user))
    assert len(seen) == 1
    assert len(calls) == 8
    assert verifier.farewell == message(FAIL)


def test_key_that_stands_in_for_a_missing_one_opens_nothing(monkeypatch):
    monkeypatch.setattr("pysock.auth._NO_KEY", KEY)
    for users in ({}, {"bob": OTHER_KEY}):
        verifier = Verifier(users)
        failure(verifier, challenged(verifier, Prover(KEY, "bob")))


@pytest.mark.case("T24")
def test_hmacs_are_compared_in_constant_time_t24(monkeypatch):
    compared: list[bytes] = []
    compare = hmac.compare_digest

    def recording(one: bytes, other: bytes) -> bool:
        compared.append(other)
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", recording)
    _, _, third, fourth = prove(Prover(KEY), Verifier(KEY))
    assert compared == [third[HEADER:]] * 8 + [fourth[HEADER:]]


def test_nonces_never_repeat():
    nonces = {Prover(KEY).begin()[-32:] for _ in range(500)}
    nonces |= {answer(Verifier(KEY), hello(b""))[-32:] for _ in range(500)}
    assert len(nonces) == 1000


def test_proof_begins_once():
    prover = Prover(KEY)
    prover.begin()
    with pytest.raises(ValueError, match="has begun before"):
        prover.begin()


@pytest.mark.case("T29")
def test_secrets_are_in_no_text_t29(caplog):
    caplog.set_level(logging.DEBUG)
    key, other = b"correct horse battery staple 1234", b"incorrect horse battery staple 12"
    texts = []
    for server_key in (key, other):
        prover, verifier = Prover(key, "bob"), Verifier({"bob": [server_key], "al": other})
        proof = challenged(verifier, prover)
        try:
            answer(prover, answer(verifier, proof))
        except AuthenticationError as exc:
            texts += [repr(exc), repr(pickle.loads(pickle.dumps(exc)))]
            texts += traceback.format_exception(exc)
        texts += [repr(prover), str(prover), repr(verifier), str(verifier)]
        texts += [
            repr(failure(Prover(key), b"x" * 11)),
            repr(failure(Verifier(key), b"x" * 11)),
        ]
    text = "\n".join([*texts, caplog.text])
    for secret in (key, other, proof[HEADER:]):
        assert secret.hex() not in text
        assert repr(secret)[2:-1] not in text
    assert not re.search("horse|staple", text)
