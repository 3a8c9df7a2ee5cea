"""The proof of a key that `multiprocessing.connection` asks for, without its I/O.

    listener                                    client
    #CHALLENGE# {sha256} nonce   ->
                                 <-             {sha256} HMAC of what is behind #CHALLENGE#
    #WELCOME# or #FAILURE#       ->

and then the same with the roles exchanged.  Up to Python 3.11 there is no name in braces, the
nonce has 20 bytes, and the HMAC is one of MD5.  An HMAC covers nothing but the other side's
challenge: who stands between two that have the key can pass everything on, and then has the
connection.  That is how this protocol is; `auth` has a better one.
"""

from __future__ import annotations

import hmac
import os
import re

from .errors import AuthenticationError

__all__ = ["LONGEST", "Handshake", "check_key"]

LONGEST = 256  # bytes of a message, which is what the other side takes too

_CHALLENGE, _WELCOME, _FAILURE = b"#CHALLENGE#", b"#WELCOME#", b"#FAILURE#"
_DIGEST = "sha256"  # that this side asks for
_SECURE = ("sha256", "sha384", "sha3_256", "sha3_384")
_NAMED = re.compile(rb"\{([0-9a-z_]{1,8})\}")
_MD5_NONCE, _MD5_MAC = 20, 16  # the bytes by which one knows the peer of Python 3.11
_RANDOM, _MARK = 24, 16  # bytes of a challenge's nonce

# What a side waits for, in the words of its errors.
_ANSWER = "an answer to its challenge"
_CHALLENGED = "a challenge"
_VERDICT = "the word that its key is right"

_LEGACY = (
    "MD5, which is all that Python 3.11 and older can do: use a newer Python there, or pass "
    "legacy=True to let MD5 do"
)


class Handshake:
    """One side of the proof; it takes the other side's messages and says what to send.

    `done` is True once each side has proved its key.  `awaited` names what comes next.
    When `take` has raised, `farewell` is the last message to send, if it is not empty.

    Args:
        authkey: the key, of at least one byte; 32 random ones make a good one.
        listening: whether this side has accepted the connection: it is the first to ask,
            and answers nobody who has not answered.
        legacy: whether MD5 will do too.

    Raises:
        TypeError, ValueError: *authkey* can be none.
    """

    done = False
    farewell = b""

    def __init__(self, authkey: bytes, *, listening: bool, legacy: bool = False) -> None:
        check_key(authkey)
        self._key = authkey
        self._listening = listening
        self._digests = (*_SECURE, "md5") if legacy else _SECURE
        self._asked = b""  # what the HMAC of the other side has to cover
        first, asked = (_ANSWER,), (_CHALLENGED, _VERDICT)
        self._steps: tuple[str, ...] = first + asked if listening else asked + first

    def begin(self) -> bytes:
        """Return what to send first; empty: the other side begins."""
        return self._ask() if self._listening else b""

    @property
    def awaited(self) -> str:
        """What has to come next, in words."""
        return self._steps[0] if self._steps else "nothing"

    def take(self, message: bytes) -> bytes:
        """Take the next message; return the one to send now, which may be empty.

        Raises:
            AuthenticationError: it is not what it must be, and all is over.
        """
        if not self._steps:
            raise AuthenticationError("nothing more can come in this proof of a key")
        step, *rest = self._steps
        self._steps = ()  # which they stay if anything is wrong
        take = {_ANSWER: self._judge, _CHALLENGED: self._respond, _VERDICT: self._heed}
        reply = take[step](message)
        self._steps = tuple(rest)
        self.done = not rest
        return reply

    def _ask(self) -> bytes:
        random = os.urandom(_RANDOM)
        # What a listener asks must tell nothing of the key to whoever connects.
        mark = os.urandom(_MARK) if self._listening else self._mark(random)
        self._asked = b"{%s}%s%s" % (_DIGEST.encode(), random, mark)
        return _CHALLENGE + self._asked

    def _mark(self, random: bytes) -> bytes:
        """Return what makes *random* the beginning of a challenge by a client of pysock."""
        return hmac.digest(self._key, b"pysock client" + random, _DIGEST)[:_MARK]

    def _respond(self, message: bytes) -> bytes:
        """Answer a challenge."""
        if not message.startswith(_CHALLENGE):
            raise AuthenticationError(
                f"no challenge came, the bytes are {message[:20]!r}: has the other side an "
                "authkey?"
            )
        asked = message[len(_CHALLENGE) :]
        if len(asked) < _MD5_NONCE:
            raise AuthenticationError(
                f"a challenge of {len(asked)} bytes came, expected {_MD5_NONCE} or more"
            )
        name, nonce = ("", asked) if len(asked) == _MD5_NONCE else _parse(asked, "challenge")
        if not self._listening and hmac.compare_digest(
            nonce[_RANDOM:], self._mark(nonce[:_RANDOM])
        ):
            # Each client answers before it asks: it could be made to answer for the listener.
            raise AuthenticationError(
                "the challenge is that of another client, which somebody has passed on"
            )
        mac = self._mac(asked, name or "md5", "the challenge is for")
        return b"{%s}%s" % (name.encode(), mac) if name else mac

    def _heed(self, message: bytes) -> bytes:
        if message == _FAILURE:
            raise AuthenticationError("the other side refused the key: it has another one")
        if message != _WELCOME:
            raise AuthenticationError(
                f"neither #WELCOME# nor #FAILURE# came, the bytes are {message[:20]!r}"
            )
        return b"" if self._listening else self._ask()

    def _judge(self, message: bytes) -> bytes:
        """Check the answer to our challenge."""
        self.farewell = _FAILURE
        name, mac = ("md5", message) if len(message) == _MD5_MAC else _parse(message, "answer")
        if not hmac.compare_digest(self._mac(self._asked, name, "the answer is"), mac):
            raise AuthenticationError(
                "the answer to a challenge is wrong: the other side has another key"
            )
        self.farewell = b""
        return _WELCOME

    def _mac(self, text: bytes, name: str, what: str) -> bytes:
        if name not in self._digests:
            raise AuthenticationError(
                f"{what} {_LEGACY}"
                if name == "md5"
                else f"{what} {name}, expected one of {', '.join(self._digests)}"
            )
        try:
            return hmac.digest(self._key, text, name)
        except ValueError as exc:  # MD5 where cryptography has to follow FIPS, say
            raise AuthenticationError(f"{what} {name}, which is not to be had: {exc}") from exc


def check_key(authkey: object) -> None:
    """Refuse what cannot be a key, before any I/O.

    Raises:
        TypeError, ValueError: it is not bytes, or has none.
    """
    if not isinstance(authkey, bytes):
        hint = ", as its encode() makes them" if isinstance(authkey, str) else ""
        raise TypeError(f"authkey is a {type(authkey).__name__}, expected bytes{hint}")
    if not authkey:
        raise ValueError("authkey is empty, which everybody has: expected a key, or None")


def _parse(message: bytes, what: str) -> tuple[str, bytes]:
    """Return the digest that *message* names, and what is behind the name."""
    found = _NAMED.match(message)
    if found is None:
        raise AuthenticationError(
            f"the {what} names no digest, the bytes are {message[:20]!r}: has the other side "
            "an authkey?"
        )
    return found[1].decode(), message[found.end() :]
