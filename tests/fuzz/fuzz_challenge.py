"""The proof of a key that `multiprocessing.connection` knows, either side."""

from __future__ import annotations

import hmac
import socket
from typing import Any
from unittest import mock

from fuzz.source import Source, cut
from pysock import challenge
from pysock.challenge import LONGEST, Handshake
from pysock.connection import Connection
from pysock.errors import AuthenticationError
from pysock.formats import MULTIPROCESSING
from pysock.mpconnection import _Proof

KEY, OTHER_KEY = b"secret", b"another"
NAMES = ("sha256", "sha384", "sha3_256", "sha3_384", "md5", "sha1", "sha512")
WORDS = (b"#CHALLENGE#", b"#WELCOME#", b"#FAILURE#", b"{sha256}", b"{md5}")


class NoChance:
    """In the place of `os`: what was right once is so again."""

    @staticmethod
    def urandom(count: int) -> bytes:
        return bytes(range(count))


def target(data: bytes) -> None:
    source = Source(data)
    listening, legacy = source.flag(), source.flag()
    with mock.patch.object(challenge, "os", NoChance):
        if source.flag():
            over_a_socket(source, listening, legacy)
        else:
            Exchange(Handshake(KEY, listening=listening, legacy=legacy), source).hold()


class Exchange:
    """One side, its messages, and whether the other has shown that it has the key."""

    def __init__(self, side: Handshake, source: Source) -> None:
        self.side, self.source = side, source
        self.asked = side.begin()[len(challenge._CHALLENGE) :]
        self.proved = False

    def hold(self) -> None:
        while self.source.left and not self.side.done:
            message = self.next_message()
            try:
                reply = self.side.take(message)
            except AuthenticationError as exc:
                assert str(exc).isprintable() and not self.side.done
                self.stays_over()
                return
            assert len(reply) <= LONGEST
            if reply.startswith(challenge._CHALLENGE):
                self.asked = reply[len(challenge._CHALLENGE) :]
        assert self.proved or not self.side.done

    def next_message(self) -> bytes:
        """Return one that is right, has something wrong, or is none at all."""
        source = self.source
        how = source.number(3)
        if how == 0:
            name, key = source.pick(NAMES), source.pick((KEY, OTHER_KEY))
            mac = hmac.digest(key, self.asked, name)
            self.proved |= key is KEY and bool(self.asked)
            return mac if name == "md5" and source.flag() else b"{%s}%s" % (name.encode(), mac)
        if how == 1:
            return source.pick(WORDS) + source.short()
        if how == 2:
            return (
                challenge._CHALLENGE + b"{%s}" % source.pick(NAMES).encode() + source.short()
            )
        return source.short()

    def stays_over(self) -> None:
        for message in (challenge._WELCOME, b"", challenge._CHALLENGE + bytes(20)):
            try:
                self.side.take(message)
            except AuthenticationError:
                continue
            raise AssertionError("went on after a failure")


def over_a_socket(source: Source, listening: bool, legacy: bool) -> None:
    """The same with frames, which may be cut, too long, or none."""
    sizes = source.sizes()
    near, far = socket.socketpair()
    with far, Connection(near, MULTIPROCESSING, timeout=0, linger=0.0) as connection:
        side: Any = Handshake(KEY, listening=listening, legacy=legacy)
        proof = _Proof(connection, side)
        for piece in cut(source.bytes(4096), sizes):
            far.sendall(piece)
            if not goes_on(proof):
                return
        far.shutdown(socket.SHUT_WR)
        assert not goes_on(proof)


def goes_on(proof: _Proof) -> bool:
    """Take the steps that can be taken; return whether there may be more."""
    try:
        while not proof.done:
            proof.step()
    except BlockingIOError:
        return True
    except AuthenticationError as exc:
        assert str(exc).isprintable() and not proof.done
    return False
