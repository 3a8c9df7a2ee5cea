"""The proof of a key that multiprocessing.connection asks for: its bytes, who passes, who not.

The transcripts are of Python 3.11 and 3.13 themselves (3.12 says the same as 3.13), with a
known key and nonces that count up; ours are zero.
"""

from __future__ import annotations

import hmac
from types import SimpleNamespace
from typing import Any

import pytest

from proofs import KEY, OTHER_KEY
from pysock import AuthenticationError, challenge
from pysock.challenge import LONGEST, Handshake
from pysock.formats import MULTIPROCESSING

ASK = "234348414c4c454e474523"  # #CHALLENGE#
SHA256 = "7b7368613235367d"
WELCOME = "000000092357454c434f4d4523"
ASK_11 = "0000001f" + ASK + bytes(range(20)).hex()
ASK_13 = "0000003b" + ASK + SHA256 + bytes(range(40)).hex()
OURS_AS_LISTENER = "0000003b" + ASK + SHA256 + "00" * 40
OURS_AS_CLIENT = f"0000003b{ASK}{SHA256}{'00' * 24}0cffa9882221d4662da245e0508a1b8d"
OUR_MD5 = "000000108baf5c46ff4ae089b325af0734d49618"
OUR_SHA256 = (
    f"00000028{SHA256}4bd0b230a4ec563c980a9dbdc68622ee9ddf26cc3f3c501292c844bd06ed483d"
)

# (whether we listen, [what the peer sends, what we send then], ...)
TRANSCRIPTS = {
    "3.11 listens": (
        False,
        [
            ("", ""),
            (ASK_11, OUR_MD5),
            (WELCOME, OURS_AS_CLIENT),
            ("000000104f464cde6cbee0d3ba0ea836a3e71985", WELCOME),
        ],
    ),
    "3.11 connects": (
        True,
        [
            ("", OURS_AS_LISTENER),
            ("0000001072aec44ecc596578be31784962a2901d", WELCOME),
            (ASK_11, OUR_MD5),
            (WELCOME, ""),
        ],
    ),
    "3.13 listens": (
        False,
        [
            ("", ""),
            (ASK_13, OUR_SHA256),
            (WELCOME, OURS_AS_CLIENT),
            (
                f"00000028{SHA256}"
                "7dfb648ecd47dd489b08cd9a472b6d4f21fd6eec3352afc95321aceed7213d2e",
                WELCOME,
            ),
        ],
    ),
    "3.13 connects": (
        True,
        [
            ("", OURS_AS_LISTENER),
            (
                f"00000028{SHA256}"
                "8ebc7961fa62bd3018c04efde8e3ce7565d4f85f8cc03f7c8ce5b1a7ee196352",
                WELCOME,
            ),
            (ASK_13, OUR_SHA256),
            (WELCOME, ""),
        ],
    ),
}


@pytest.fixture
def no_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our nonces are zero."""
    monkeypatch.setattr(challenge, "os", SimpleNamespace(urandom=bytes))


def payload(frame: str) -> bytes:
    """The message in a frame that is written in hex."""
    return bytes.fromhex(frame)[4:]


def reply_to(side: Handshake, message: bytes) -> str:
    """What *side* sends, in hex."""
    reply = side.take(message)
    return MULTIPROCESSING.encode(reply).hex() if reply else ""


def at(name: str, step: int, **options: Any) -> Handshake:
    """One side after so many steps of a transcript."""
    listening, steps = TRANSCRIPTS[name]
    side = Handshake(KEY, listening=listening, **options)
    side.begin()
    for came, _ in steps[1:step]:
        side.take(payload(came))
    return side


def refused(side: Handshake, message: bytes, why: str, farewell: bytes = b"") -> None:
    """*side* does not take the message, nor anything after it."""
    with pytest.raises(AuthenticationError, match=why):
        side.take(message)
    assert side.farewell == farewell
    assert not side.done
    with pytest.raises(AuthenticationError, match="nothing more can come"):
        side.take(payload(WELCOME))


# ------------------------------------------------------------ those that pass


@pytest.mark.case("I03")
@pytest.mark.usefixtures("no_chance")
@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_transcript_byte_by_byte(name):
    listening, steps = TRANSCRIPTS[name]
    side = Handshake(KEY, listening=listening, legacy="3.11" in name)
    decoder = MULTIPROCESSING.replace(max_frame=LONGEST).decoder()
    first = side.begin()
    assert (MULTIPROCESSING.encode(first).hex() if first else "") == steps[0][1]
    for came, expected in steps[1:]:
        assert not side.done
        data = bytes.fromhex(came)
        for i in range(len(data) - 1):
            assert decoder.feed(data[i : i + 1]) == []
        (message,) = decoder.feed(data[-1:])
        assert reply_to(side, message) == expected
    assert side.done
    assert side.awaited == "nothing"


@pytest.mark.case("I03")
@pytest.mark.parametrize("name", ["md5", "sha256", "sha384", "sha3_256", "sha3_384"])
def test_peer_may_choose_another_digest(name):
    listener = Handshake(KEY, listening=True, legacy=True)
    asked = listener.begin().removeprefix(b"#CHALLENGE#")
    listener.take(b"{%s}" % name.encode() + hmac.digest(KEY, asked, name))
    text = b"{%s}" % name.encode() + bytes(40)
    answer = listener.take(b"#CHALLENGE#" + text)
    assert answer == b"{%s}" % name.encode() + hmac.digest(KEY, text, name)


def test_two_of_ours():
    listener, client = Handshake(KEY, listening=True), Handshake(KEY, listening=False)
    assert client.begin() == b""
    message, takes = listener.begin(), [client, listener]
    sent = []
    while message:
        sent.append(message)
        message = takes[0].take(message)
        takes.reverse()
    assert len(sent) == 6
    assert listener.done and client.done


def test_no_two_challenges_are_the_same():
    asked = {Handshake(KEY, listening=True).begin() for _ in range(100)}
    assert len(asked) == 100
    assert len({one[-16:] for one in asked}) == 100  # the last part is random too


# ------------------------------------------------------------ those that do not


@pytest.mark.usefixtures("no_chance")
@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_any_changed_byte_is_refused(name):
    listening, steps = TRANSCRIPTS[name]
    for step, (came, _) in enumerate(steps[1:], 1):
        message = payload(came)
        # A nonce is what the peer likes it to be.
        fixed = {31: 11, 59: 19}.get(len(message), len(message))
        for i in range(fixed):
            side = at(name, step, legacy=True)
            changed = bytearray(message)
            changed[i] ^= 1
            with pytest.raises(AuthenticationError):
                side.take(bytes(changed))
            assert not side.done


@pytest.mark.usefixtures("no_chance")
@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_any_other_message_is_refused(name):
    _, steps = TRANSCRIPTS[name]
    due = [payload(came) for came, _ in steps]
    others = {*due[1:], b"", b"x", bytes(16), bytes(20), b"#FAILURE#", bytes(LONGEST)}
    for step, right in enumerate(due[1:], 1):
        for message in others - {right}:
            side = at(name, step, legacy=True)
            if message.startswith(b"#CHALLENGE#") and side.awaited == "a challenge":
                continue
            with pytest.raises(AuthenticationError):
                side.take(message)


def test_wrong_key_is_told_to_the_peer():
    side = Handshake(OTHER_KEY, listening=True)
    side.begin()
    answer = payload(TRANSCRIPTS["3.13 connects"][1][1][0])
    refused(side, answer, "the other side has another key", farewell=b"#FAILURE#")


def test_refusal_by_the_peer():
    refused(at("3.13 listens", 2), b"#FAILURE#", "the other side refused the key")


@pytest.mark.case("T20", "I03")
@pytest.mark.parametrize(
    ("name", "farewell"), [("3.11 listens", b""), ("3.11 connects", b"#FAILURE#")]
)
def test_md5_is_refused_unless_asked_for(name, farewell):
    message = payload(TRANSCRIPTS[name][1][1][0])
    why = r"MD5, which is all that Python 3\.11 .*legacy=True"
    refused(at(name, 1), message, why, farewell)


@pytest.mark.case("T20")
def test_md5_by_its_name_is_refused_too():
    why = "MD5, which is all"
    refused(at("3.13 listens", 1), b"#CHALLENGE#{md5}" + bytes(40), why)
    refused(at("3.13 connects", 1), b"{md5}" + bytes(16), why, b"#FAILURE#")


@pytest.mark.case("T20")
def test_answer_in_md5_to_a_challenge_for_sha256_is_refused():
    # Python 3.13 would take it.
    side = at("3.13 listens", 3)
    refused(side, bytes(16), "MD5", farewell=b"#FAILURE#")


@pytest.mark.parametrize("name", [b"sha1", b"sha512", b"shake_128", b"SHA256", b""])
def test_digest_that_is_not_among_them_is_refused(name):
    for side, message in (
        (at("3.13 listens", 1), b"#CHALLENGE#{%s}" % name + bytes(40)),
        (at("3.13 connects", 1), b"{%s}" % name + bytes(32)),
    ):
        with pytest.raises(AuthenticationError, match="expected one of|names no digest"):
            side.take(message)


def test_digest_that_the_system_does_not_have(monkeypatch):
    digest = hmac.digest

    def no_md5(key: bytes, text: bytes, name: str) -> bytes:
        if name == "md5":
            raise ValueError("disabled for FIPS")
        return digest(key, text, name)

    side = at("3.11 listens", 1, legacy=True)
    monkeypatch.setattr(challenge.hmac, "digest", no_md5)
    with pytest.raises(AuthenticationError, match="md5, which is not to be had: disabled"):
        side.take(payload(ASK_11))


def test_short_challenge_is_refused():
    for size in range(20):
        with pytest.raises(AuthenticationError, match=f"a challenge of {size} bytes came"):
            at("3.13 listens", 1).take(b"#CHALLENGE#" + b"{sha256}".ljust(size)[:size])


@pytest.mark.usefixtures("no_chance")
def test_data_instead_of_a_challenge():
    why = "^no challenge came, the bytes are b'hello': has the other side an authkey\\?$"
    # The second one has answered rightly before: it is not told that it has not.
    for name, step in (("3.13 listens", 1), ("3.13 connects", 2)):
        refused(at(name, step), b"hello", why, farewell=b"")


# ------------------------------------------------------------ nobody answers for another


def test_client_does_not_answer_what_another_client_asks():
    victim = at("3.13 listens", 2)
    asked = victim.take(b"#WELCOME#")
    refused(Handshake(KEY, listening=False), asked, "that of another client")
    # The listener, whom it is for, does.
    text = asked.removeprefix(b"#CHALLENGE#")
    assert victim.take(b"{sha256}" + hmac.digest(KEY, text, "sha256")) == b"#WELCOME#"


def test_listener_answers_nobody_before_it_has_been_answered():
    side = Handshake(KEY, listening=True)
    side.begin()
    refused(side, payload(ASK_13), "the answer names no digest", farewell=b"#FAILURE#")


@pytest.mark.usefixtures("no_chance")
def test_challenge_of_a_listener_tells_nothing_of_the_key():
    assert (
        Handshake(KEY, listening=True).begin() == Handshake(OTHER_KEY, listening=True).begin()
    )


# ------------------------------------------------------------ arguments


@pytest.mark.case("T16")
@pytest.mark.parametrize(
    ("key", "error", "why"),
    [
        (b"", ValueError, "authkey is empty"),
        ("text", TypeError, r"authkey is a str, expected bytes, as its encode\(\)"),
        (None, TypeError, "authkey is a NoneType"),
        (bytearray(b"x"), TypeError, "authkey is a bytearray"),
    ],
)
def test_what_is_no_key(key, error, why):
    with pytest.raises(error, match=why):
        Handshake(key, listening=True)


@pytest.mark.case("T29")
def test_errors_do_not_show_the_key():
    side = Handshake(KEY, listening=False)
    with pytest.raises(AuthenticationError) as caught:
        side.take(b"hello")
    assert KEY.hex() not in repr(caught.value)
    assert repr(KEY) not in repr(vars(caught.value))
