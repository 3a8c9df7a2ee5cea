"""The proof that two peers know the same key, of which nothing is sent.

    client                                   server
    HELLO   user, nonce          ->
                                 <-          CHALLENGE   nonce
    PROOF   the client's HMAC    ->
                                 <-          READY   the server's HMAC, or FAIL

No I/O but the files of keys: each side says how many bytes it wants next, and takes exactly
those.  In each state one message may come; whatever else comes ends the proof for good.
There is one algorithm, one version and one attempt.
"""

from __future__ import annotations

import hmac
import os
import re
from collections.abc import Mapping
from itertools import takewhile

from .errors import AuthenticationError
from .hints import explain
from .keyfile import read_private

TYPE_CHECKING = False  # typing itself is slow to import
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Prover", "Verifier", "check_authkey", "check_user", "load_key", "load_keys"]

_NAME, _VERSION = b"\xffpysock", 1
_MAGIC = _NAME + bytes([_VERSION])
_HEADER = len(_MAGIC) + 3  # bytes, with the kind and the length of the body
_NONCE = _MAC = 32  # bytes
_LONGEST_USER = 255  # bytes
_SHORTEST_KEY = 32  # bytes
_MOST_KEYS = 8  # of one user

_HELLO, _CHALLENGE, _PROOF, _READY, _FAIL = range(1, 6)
_NAMES = dict(enumerate(("HELLO", "CHALLENGE", "PROOF", "READY", "FAIL"), 1))
_SIZES = {  # how long the body of each kind may be
    _HELLO: range(1 + _NONCE, 1 + _LONGEST_USER + _NONCE + 1),
    _CHALLENGE: (_NONCE,),
    _PROOF: (_MAC,),
    _READY: (_MAC,),
    _FAIL: (0,),
}

_NO_KEY = os.urandom(_SHORTEST_KEY)  # nobody has it: it is there to take a key's time


class _Side:
    """One side of the proof: where it is, and what may come there."""

    wanted = 0
    done = False
    _kinds: tuple[int, ...] = ()  # that may come next
    _kind = 0  # whose body comes next; 0: a header does
    _fields: tuple[bytes, ...] = ()  # what the HMACs cover besides the role
    _missing = "no proof"
    _other = "the client"

    def __init__(self, binding: bytes) -> None:
        self._nonce = os.urandom(_NONCE)
        self._binding = binding

    def feed(self, data: bytes) -> bytes:
        """Take the next `wanted` bytes; return what to send now, which may be nothing.

        Raises:
            AuthenticationError: they are not what they must be, and all is over.
            ValueError: they are more or fewer.
        """
        if not self.wanted:
            raise AuthenticationError("nothing more can come in this proof")
        if len(data) != self.wanted:
            raise ValueError(f"{len(data)} bytes were fed, exactly {self.wanted} are wanted")
        self.wanted = 0  # which it stays if anything is wrong
        if self._kind:
            return self._take(self._kind, bytes(data))
        self._kind, length = self._read_header(bytes(data))
        if length == 0:
            return self._take(self._kind, b"")
        self.wanted = length
        return b""

    def check(self, part: bytes) -> None:
        """Refuse the beginning of what `feed` waits for, where it can become nothing.

        Raises:
            AuthenticationError: it cannot, and all is over.
        """
        if not self._kind and not _NAME.startswith(part[: len(_NAME)]):
            self.wanted = 0
            shown = f"the bytes are {part[:8]!r}, does {self._other} use authkey=?"
            raise self._refusal(explain(part) or shown)

    def _expect(self, *kinds: int) -> None:
        self._kinds = kinds
        self._kind = 0
        self.wanted = _HEADER

    def _read_header(self, header: bytes) -> tuple[int, int]:
        """Return kind and length of the message that *header* announces."""
        self.check(header)
        version, kind = header[-4], header[-3]
        length = int.from_bytes(header[-2:], "big")
        if version != _VERSION:
            raise self._refusal(f"version {version} of it, expected {_VERSION}")
        if kind not in self._kinds:
            came, due = _NAMES.get(kind, f"kind {kind}"), _NAMES[self._kinds[0]]
            raise self._refusal(f"{came}, expected {due}")
        if length not in _SIZES[kind]:
            raise self._refusal(f"{_NAMES[kind]} of {length} bytes")
        return kind, length

    def _take(self, kind: int, body: bytes) -> bytes:
        """Return the answer to a message that may come now and has a right length."""
        raise NotImplementedError

    def _mac(self, key: bytes, role: bytes) -> bytes:
        fields = (b"pysock/1 " + role, *self._fields)
        text = b"".join(len(field).to_bytes(4, "big") + field for field in fields)
        return hmac.digest(key, text, "sha256")

    def _refusal(self, what: str) -> AuthenticationError:
        return AuthenticationError(f"{self._missing} came: {what}")


class Prover(_Side):
    """The client's side.

    `wanted` is how many bytes `feed` takes next, 0 when nothing may come; `done` is True
    once each side knows that the other has the key.

    Args:
        key: at least 32 bytes.
        user: whose key it is.
        binding: the SHA-256 of the server's certificate in DER; empty without TLS.

    Raises:
        TypeError, ValueError: *key* or *user* cannot be one.
    """

    _missing = "no answer to a proof"
    _other = "the server"

    def __init__(self, key: bytes, user: str = "", binding: bytes = b"") -> None:
        check_authkey(key)
        check_user(user)
        super().__init__(binding)
        self._key = key
        self._user = user

    def begin(self) -> bytes:
        """Return what to send first.

        Raises:
            ValueError: it was called before.
        """
        if self._kinds:
            raise ValueError("this proof has begun before, make a new Prover")
        self._expect(_CHALLENGE)
        user = self._user.encode()
        return _message(_HELLO, bytes([len(user)]) + user + self._nonce)

    def _take(self, kind: int, body: bytes) -> bytes:
        if kind == _CHALLENGE:
            self._fields = (self._user.encode(), self._nonce, body, self._binding)
            self._expect(_READY, _FAIL)
            return _message(_PROOF, self._mac(self._key, b"client"))
        if kind == _FAIL:
            or_so = ", or TLS ends at a proxy before it" if self._binding else ""
            raise AuthenticationError(
                f"the server refused the key (user {self._user!r}): it has another one, or "
                f"no such user{or_so}"
            )
        if not hmac.compare_digest(self._mac(self._key, b"server"), body):
            raise AuthenticationError(
                f"the server does not know the key (user {self._user!r}), is it the right one?"
            )
        self.done = True
        return b""


class Verifier(_Side):
    """The server's side.

    `wanted` is how many bytes `feed` takes next, 0 when nothing may come; `done` is True
    once the client has proved that it has a key of `user`.  When `feed` has raised,
    `farewell` is what to send before closing; it is empty for what did not look like a
    client with a key.

    Args:
        authkey: a key of at least 32 bytes, for the user ""; or a mapping from each user
            to a key or up to eight of them, looked into at each proof.
        binding: the SHA-256 of the server's certificate in DER; empty without TLS.

    Raises:
        TypeError, ValueError: *authkey* cannot be one.
    """

    user = ""
    farewell = b""
    _claimed = ""  # by a client that has proved nothing yet

    def __init__(
        self,
        authkey: bytes | Mapping[str, bytes | list[bytes] | tuple[bytes, ...]],
        binding: bytes = b"",
    ) -> None:
        if not isinstance(authkey, Mapping):
            check_authkey(authkey)
            authkey = {"": authkey}
        super().__init__(binding)
        self._authkey = authkey
        self._expect(_HELLO)

    def _take(self, kind: int, body: bytes) -> bytes:
        return self._challenge(body) if kind == _HELLO else self._judge(body)

    def _challenge(self, hello: bytes) -> bytes:
        user, nonce = hello[1:-_NONCE], hello[-_NONCE:]
        if len(user) != hello[0]:
            raise self._refusal(f"HELLO with {len(user)} bytes for a user of {hello[0]}")
        try:
            self._claimed = user.decode()
            check_user(self._claimed)
        except ValueError as exc:
            raise self._refusal(f"HELLO, but {exc}") from None
        self._fields = (user, nonce, self._nonce, self._binding)
        self._expect(_PROOF)
        return _message(_CHALLENGE, self._nonce)

    def _judge(self, proof: bytes) -> bytes:
        self.farewell = _message(_FAIL)
        key = self._fitting_key(proof)
        if key is None:
            raise AuthenticationError(
                f"the proof of user {self._claimed!r} is wrong: no such user, another key "
                "or another certificate"
            )
        self.farewell = b""
        self.user = self._claimed
        self.done = True
        return _message(_READY, self._mac(key, b"server"))

    def _fitting_key(self, proof: bytes) -> bytes | None:
        """Return the key that made *proof*; each user, known or not, is the same work."""
        keys = self._keys()
        tried = (*keys, *[_NO_KEY] * (_MOST_KEYS - len(keys)))
        fits = [hmac.compare_digest(self._mac(key, b"client"), proof) for key in tried]
        return next((key for key, fit in zip(keys, fits, strict=False) if fit), None)

    def _keys(self) -> tuple[bytes, ...]:
        try:
            found = self._authkey.get(self._claimed)
            return () if found is None else _checked(found)
        except Exception as exc:  # what a live mapping holds, or raises, may be anything
            text = f"no key can be had for user {self._claimed!r}: {exc}"
            raise AuthenticationError(text) from exc


def check_authkey(authkey: object, mapping: bool = False) -> None:
    """Refuse what cannot be an authkey, before any I/O.

    Args:
        authkey: a key, which is bytes, at least 32 of them.
        mapping: whether a mapping from users to keys will do too; each user has a key or
            a list or tuple of up to eight, for as long as an old one is being replaced.

    Raises:
        TypeError, ValueError: it is something else; the text does not show it.
    """
    if mapping and isinstance(authkey, Mapping):
        for user, keys in authkey.items():
            check_user(user)
            _checked(keys, f"authkey[{user!r}]")
    else:
        _checked((authkey,))


def check_user(user: object) -> None:
    """Refuse what cannot be a user's name.

    Raises:
        TypeError: it is no str.
        ValueError: it has control characters, no form in UTF-8, or one of more than 255 bytes.
    """
    if not isinstance(user, str):
        raise TypeError(f"user is a {type(user).__name__}, expected a str")
    if any(char < " " or "\x7f" <= char <= "\x9f" for char in user):
        raise ValueError("user has a control character in it")
    size = len(user.encode())
    if size > _LONGEST_USER:
        raise ValueError(f"user has {size} bytes in UTF-8, expected {_LONGEST_USER} at most")


def load_key(path: str | os.PathLike[str]) -> bytes:
    """Return the key in the file at *path*, which holds it as 64 hex digits.

    Raises:
        PermissionError: others than its owner may use the file.
        OSError: it cannot be read.
        ValueError: it holds something else.
    """
    return _key_of(read_private(path).strip(), os.fspath(path))


def load_keys(path: str | os.PathLike[str]) -> dict[str, tuple[bytes, ...]]:
    """Return the keys of each user in the file at *path*.

    Its lines have a user, blanks, and a key as 64 hex digits; a user may have several
    lines.  What follows a `#` that begins a word is a comment.

    Raises:
        PermissionError: others than its owner may use the file.
        OSError: it cannot be read.
        ValueError: a line is malformed; the text has its number and does not show it.
    """
    keys: dict[str, tuple[bytes, ...]] = {}
    for number, line in enumerate(read_private(path).splitlines(), 1):
        where = f"{os.fspath(path)}:{number}"
        words = list(takewhile(lambda word: not word.startswith(b"#"), line.split()))
        if not words:
            continue
        if len(words) != 2:
            raise ValueError(f"{where}: {len(words)} words, expected a user and a key")
        try:
            user = words[0].decode()
            check_user(user)
        except ValueError as exc:
            raise ValueError(f"{where}: {exc}") from None
        keys[user] = (*keys.get(user, ()), _key_of(words[1], where))
    return keys


def _key_of(digits: bytes, where: str) -> bytes:
    if not re.fullmatch(rb"[0-9A-Fa-f]{64}", digits):
        raise ValueError(
            f"{where}: expected a key of 64 hex digits, as openssl rand -hex 32 makes it"
        )
    return bytes.fromhex(digits.decode())


def _checked(keys: object, name: str = "authkey") -> tuple[bytes, ...]:
    """Return all keys that *keys*, which is one or several, holds."""
    several: tuple[Any, ...] = tuple(keys) if isinstance(keys, list | tuple) else (keys,)
    if not 1 <= len(several) <= _MOST_KEYS:
        raise ValueError(f"{name} has {len(several)} keys, expected 1 to {_MOST_KEYS}")
    for key in several:
        if not isinstance(key, bytes):
            hint = ", as load_key(path) or encode() make them" if isinstance(key, str) else ""
            raise TypeError(f"{name} is a {type(key).__name__}, expected bytes{hint}")
        if len(key) < _SHORTEST_KEY:
            raise ValueError(f"{name} has {len(key)} bytes, expected {_SHORTEST_KEY} or more")
    return several


def _message(kind: int, body: bytes = b"") -> bytes:
    return _MAGIC + bytes([kind]) + len(body).to_bytes(2, "big") + body
