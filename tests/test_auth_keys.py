"""Keys: what may be one, where they come from, how they change while a server runs."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from proofs import FAIL, KEY, OTHER_KEY, answer, message, prove
from pysock.auth import Prover, Verifier, check_authkey, check_user, load_key, load_keys
from pysock.errors import AuthenticationError

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps no such modes")

THIRD_KEY = b"third key of thirty-three bytes  "

NOT_KEYS = [
    (b"", ValueError, "has 0 bytes, expected 32 or more"),
    (b"x" * 15, ValueError, "has 15 bytes, expected 32 or more"),
    (b"x" * 31, ValueError, "has 31 bytes, expected 32 or more"),
    ("x" * 32, TypeError, "is a str, expected bytes, as load_key(path) or encode() make them"),
    (bytearray(32), TypeError, "is a bytearray, expected bytes"),
    (None, TypeError, "is a NoneType, expected bytes"),
    (32, TypeError, "is a int, expected bytes"),
]


# ---------------------------------------------------------------- what may be a key


@pytest.mark.parametrize("key", [bytes(32), KEY, b"x" * 1000])
def test_key_of_32_bytes_or_more_will_do(key):
    check_authkey(key)
    check_authkey(key, mapping=True)
    prove(Prover(key), Verifier(key))


@pytest.mark.case("T16")
@pytest.mark.parametrize(("key", "kind", "what"), NOT_KEYS)
def test_what_cannot_be_a_key_is_refused_at_once_t16(key, kind, what):
    for function in (check_authkey, Prover, Verifier):
        with pytest.raises(kind, match=re.escape(f"authkey {what}")):
            function(key)
    for keys in (key, [KEY, key], (key,)):
        with pytest.raises(kind, match=re.escape(f"authkey['bob'] {what}")):
            check_authkey({"al": KEY, "bob": keys}, mapping=True)


def test_client_has_one_key():
    for authkey in ({"bob": KEY}, [KEY], (KEY,)):
        with pytest.raises(TypeError, match="authkey is a (dict|list|tuple), expected bytes"):
            check_authkey(authkey)
        with pytest.raises(TypeError, match="authkey is a (dict|list|tuple), expected bytes"):
            Prover(authkey)  # type: ignore[arg-type]


def test_list_of_keys_needs_a_user():
    for function in (lambda keys: check_authkey(keys, mapping=True), Verifier):
        with pytest.raises(TypeError, match="authkey is a list, expected bytes"):
            function([KEY])


def test_server_may_have_many_users_with_up_to_eight_keys():
    check_authkey({}, mapping=True)
    check_authkey({"": KEY, "bob": [KEY] * 8, "al": (KEY, OTHER_KEY)}, mapping=True)
    for count in (0, 9):
        with pytest.raises(
            ValueError, match=rf"authkey\['bob'\] has {count} keys, expected 1"
        ):
            check_authkey({"bob": [KEY] * count}, mapping=True)


@pytest.mark.parametrize("user", ["", "bob", "two words", "żółw", "x" * 255, "ü" * 127, "😀"])
def test_user_may_be_any_text_of_255_bytes(user):
    check_user(user)
    check_authkey({user: KEY}, mapping=True)


@pytest.mark.case("T23")
@pytest.mark.parametrize(
    ("user", "kind", "what"),
    [
        ("x" * 256, ValueError, "user has 256 bytes in UTF-8, expected 255 at most"),
        ("ü" * 128, ValueError, "user has 256 bytes in UTF-8, expected 255 at most"),
        ("x" * 1025, ValueError, "user has 1025 bytes in UTF-8, expected 255 at most"),
        ("bo\0b", ValueError, "user has a control character in it"),
        ("bob\n", ValueError, "user has a control character in it"),
        ("\x1b[2J", ValueError, "user has a control character in it"),
        ("\x7f", ValueError, "user has a control character in it"),
        ("\x80", ValueError, "user has a control character in it"),
        ("\x9f", ValueError, "user has a control character in it"),
        ("\udcff", ValueError, "surrogates not allowed"),
        (b"bob", TypeError, "user is a bytes, expected a str"),
        (None, TypeError, "user is a NoneType, expected a str"),
    ],
)
def test_what_cannot_be_a_user_is_refused_at_once_t23(user, kind, what):
    for check in (
        lambda: check_user(user),
        lambda: Prover(KEY, user),
        lambda: check_authkey({"bob": KEY, user: KEY}, mapping=True),
    ):
        with pytest.raises(kind, match=what):
            check()


# ---------------------------------------------------------------- while a server runs


def enters(users: Mapping[str, Any], key: bytes, user: str = "bob") -> bool:
    """Whether somebody with *key* comes in as *user*; the refused must all look the same."""
    prover, verifier = Prover(key, user), Verifier(users)
    proof = answer(prover, answer(verifier, prover.begin()))
    try:
        answer(prover, answer(verifier, proof))
    except AuthenticationError:
        assert not verifier.done
        assert verifier.farewell == message(FAIL)
        return False
    assert prover.done and verifier.done
    assert verifier.user == user
    return True


@pytest.mark.parametrize("kind", [list, tuple])
def test_each_of_several_keys_opens(kind):
    users = {"bob": kind([KEY, OTHER_KEY, THIRD_KEY]), "al": bytes(32)}
    assert [enters(users, key) for key in (KEY, OTHER_KEY, THIRD_KEY)] == [True] * 3
    assert not enters(users, bytes(32))
    assert enters(users, bytes(32), "al")
    assert not enters(users, KEY, "al")


def test_keys_may_change_while_the_server_runs():
    users: dict[str, Any] = {}
    assert not enters(users, KEY)
    users["bob"] = KEY
    assert enters(users, KEY)
    users["bob"] = [OTHER_KEY, KEY]
    assert enters(users, KEY) and enters(users, OTHER_KEY)
    users["bob"].remove(KEY)
    assert not enters(users, KEY) and enters(users, OTHER_KEY)
    del users["bob"]
    assert not enters(users, OTHER_KEY)


@pytest.mark.parametrize(
    ("before", "after", "entered"), [(None, KEY, True), (KEY, None, False)]
)
def test_key_counts_that_is_there_at_the_proof(before, after, entered):
    users = {"bob": before}
    prover, verifier = Prover(KEY, "bob"), Verifier(users)  # type: ignore[arg-type]
    proof = answer(prover, answer(verifier, prover.begin()))
    users["bob"] = after
    if entered:
        answer(verifier, proof)
    else:
        with pytest.raises(AuthenticationError):
            answer(verifier, proof)
    assert verifier.done == entered


class Directory(Mapping[str, bytes]):
    """A mapping that asks somewhere else, and knows no list of all users."""

    def __init__(self, found: Any) -> None:
        self._found = found

    def __getitem__(self, user: str) -> bytes:
        if isinstance(self._found, BaseException):
            raise self._found
        return self._found

    def __iter__(self) -> Iterator[str]:
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError


def test_any_mapping_will_do():
    assert enters(Directory(KEY), KEY)
    assert not enters(Directory(KeyError("bob")), KEY)


@pytest.mark.parametrize(("key", "kind", "what"), NOT_KEYS)
def test_what_cannot_be_a_key_opens_nothing_and_is_told_here_alone(key, kind, what):
    """The peer sees what a wrong key would get; so do users that have no entry."""
    error = lookup_error(Directory(key))
    if key is None:
        assert error.__cause__ is None
        return
    assert isinstance(error.__cause__, kind)
    assert str(error) == f"no key can be had for user 'bob': authkey {what}"


@pytest.mark.parametrize("kind", [OSError, ValueError, RuntimeError, RecursionError])
def test_mapping_that_fails_opens_nothing(kind):
    error = lookup_error(Directory(kind("the database is away")))
    assert isinstance(error.__cause__, kind)
    assert str(error) == "no key can be had for user 'bob': the database is away"


def test_interrupt_is_no_failure_of_the_mapping():
    with pytest.raises(KeyboardInterrupt):
        enters(Directory(KeyboardInterrupt()), KEY)


def lookup_error(users: Mapping[str, bytes]) -> AuthenticationError:
    prover, verifier = Prover(KEY, "bob"), Verifier(users)
    proof = answer(prover, answer(verifier, prover.begin()))
    with pytest.raises(AuthenticationError) as caught:
        answer(verifier, proof)
    assert not verifier.done
    assert verifier.farewell == message(FAIL)
    assert verifier.user == ""
    return caught.value


# ---------------------------------------------------------------- files


def private(folder: Path, text: str | bytes, mode: int = 0o600) -> Path:
    path = folder / "keys"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    "text", [KEY.hex(), KEY.hex().upper(), f"{KEY.hex()}\n", f"\r\n \t{KEY.hex()} \r\n\n"]
)
def test_key_is_read_from_64_hex_digits(tmp_path, text):
    path = private(tmp_path, text)
    assert load_key(path) == load_key(str(path)) == KEY


@pytest.mark.case("T29")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        KEY.hex()[1:],
        f"{KEY.hex()}0",
        f"{KEY.hex()}\n{KEY.hex()}",
        f"bob {KEY.hex()}",
        f"0x{KEY.hex()[2:]}",
        f"{KEY.hex()[:32]} {KEY.hex()[33:]}",
        f"{KEY.hex()[:-1]}g",
        f"{KEY.hex()[:-1]}٣",
        KEY,
        b"\xef\xbb\xbf" + KEY.hex().encode(),
    ],
)
def test_file_with_something_else_is_refused_and_not_shown(tmp_path, text):
    path = private(tmp_path, text)
    with pytest.raises(ValueError, match="expected a key of 64 hex digits") as caught:
        load_key(path)
    assert str(caught.value) == (
        f"{path}: expected a key of 64 hex digits, as openssl rand -hex 32 makes it"
    )
    assert caught.value.__context__ is None


LINES = f"""\
# users of the shell

bob   {KEY.hex()}
  al\t{OTHER_KEY.hex().upper()}  # since May
żółw {THIRD_KEY[:32].hex()} #{KEY.hex()}
bob {OTHER_KEY.hex()}
#bob {bytes(32).hex()}
x#y {KEY.hex()}
"""


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_keys_of_users_are_read_line_by_line(tmp_path, end):
    keys = load_keys(private(tmp_path, LINES.replace("\n", end)))
    assert keys == {
        "bob": (KEY, OTHER_KEY),
        "al": (OTHER_KEY,),
        "żółw": (THIRD_KEY[:32],),
        "x#y": (KEY,),
    }
    check_authkey(keys, mapping=True)
    assert enters(keys, KEY) and enters(keys, OTHER_KEY)


@pytest.mark.parametrize("text", ["", "\n\n", "# nobody yet"])
def test_file_of_keys_may_be_empty(tmp_path, text):
    assert load_keys(private(tmp_path, text)) == {}


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (KEY.hex(), "1 words, expected a user and a key"),
        (f"two words {KEY.hex()}", "3 words, expected a user and a key"),
        (f"bob {KEY.hex()} {KEY.hex()}", "3 words, expected a user and a key"),
        (f"bob # {KEY.hex()}", "1 words, expected a user and a key"),
        (f"bob {KEY.hex()[1:]}", "expected a key of 64 hex digits"),
        (f"bob {KEY.hex()}#", "expected a key of 64 hex digits"),
        (f"{KEY.hex()} bob", "expected a key of 64 hex digits"),
        (f"{5 * KEY.hex()} {KEY.hex()}", "user has 320 bytes in UTF-8, expected 255 at most"),
        (f"b\0b {KEY.hex()}", "user has a control character in it"),
        (
            b"b\xfcb " + KEY.hex().encode(),
            "'utf-8' codec can't decode byte 0xfc in position 1",
        ),
    ],
)
def test_malformed_line_is_told_by_its_number_and_not_shown(tmp_path, line, what):
    line = line if isinstance(line, bytes) else line.encode()
    path = private(tmp_path, f"al {OTHER_KEY.hex()}\n\n".encode() + line)
    with pytest.raises(ValueError, match=re.escape(f"{path}:3: {what}")) as caught:
        load_keys(path)
    assert KEY.hex()[:8] not in str(caught.value)


@posix
@pytest.mark.parametrize("load", [load_key, load_keys])
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_key_that_others_can_read_is_none(tmp_path, load, mode):
    path = private(tmp_path, KEY.hex(), mode)
    with pytest.raises(PermissionError, match=re.escape(f"run chmod 600 {path}")):
        load(path)


@pytest.mark.parametrize("load", [load_key, load_keys])
def test_missing_file_is_named(tmp_path, load):
    with pytest.raises(FileNotFoundError, match=re.escape(repr(os.fspath(tmp_path))[1:-1])):
        load(tmp_path / "none")
