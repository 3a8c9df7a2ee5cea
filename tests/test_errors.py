"""The tree of exceptions, what each carries and says, and that each pickles."""

from __future__ import annotations

import pickle

import pytest

from pysock import errors
from pysock.errors import (
    AuthenticationError,
    ConnectionClosed,
    Error,
    FrameTooLarge,
    FramingError,
    IncompleteFrame,
    InvalidHeader,
    RemoteError,
)

TREE = [
    (Error, (Exception,)),
    (FramingError, (Error, ValueError)),
    (FrameTooLarge, (FramingError,)),
    (InvalidHeader, (FramingError,)),
    (ConnectionClosed, (Error, EOFError)),
    (IncompleteFrame, (ConnectionClosed,)),
    (AuthenticationError, (Error,)),
    (RemoteError, (Error,)),
]

SAID = [
    (Error("reason"), "reason"),
    (FramingError("reason"), "reason"),
    (FrameTooLarge(70, 64), "length 70 exceeds 64"),
    (
        FrameTooLarge(1195725856, 67108864, "the bytes are 'GET ', an HTTP client?"),
        "length 1195725856 exceeds 67108864: the bytes are 'GET ', an HTTP client?",
    ),
    (InvalidHeader(b"\xff", "length -1 is negative"), "length -1 is negative"),
    (InvalidHeader(b"SSH-", "wrong magic", "an SSH peer?"), "wrong magic: an SSH peer?"),
    (ConnectionClosed(), "the peer closed the connection"),
    (ConnectionClosed("closed here"), "closed here"),
    (IncompleteFrame(3, 9), "the stream ended after 3 of 9 bytes of a frame"),
    (IncompleteFrame(3, None), "the stream ended inside a frame, after 3 bytes"),
    (
        IncompleteFrame(0, None),
        "the stream was cut off: it ended between frames, but TLS without its close_notify",
    ),
    (AuthenticationError("no proof"), "no proof"),
    (RemoteError("refused"), "refused"),
]


@pytest.mark.parametrize(("cls", "bases"), TREE)
def test_tree(cls: type[Error], bases: tuple[type, ...]) -> None:
    assert cls.__bases__ == bases


def test_tree_is_all_there_is() -> None:
    assert sorted(cls.__name__ for cls, _ in TREE) == errors.__all__


def test_no_error_of_ours_hides_a_system_error_or_a_timeout() -> None:
    assert not any(issubclass(cls, OSError) for cls, _ in TREE)


@pytest.mark.parametrize(("error", "text"), SAID)
def test_text(error: Error, text: str) -> None:
    assert str(error) == text


@pytest.mark.parametrize("error", [error for error, _ in SAID])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_with_all_it_carries(error: Error, protocol: int) -> None:
    copy = pickle.loads(pickle.dumps(error, protocol))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert copy.args == error.args
    assert vars(copy) == vars(error)


def test_numbers_are_attributes() -> None:
    large = FrameTooLarge(70, 64, "hint")
    assert (large.length, large.limit, large.hint) == (70, 64, "hint")
    invalid = InvalidHeader(b"\x05", "reason", "hint")
    assert (invalid.header, invalid.reason, invalid.hint) == (b"\x05", "reason", "hint")
    short = IncompleteFrame(3, 9)
    assert (short.received, short.expected) == (3, 9)
    remote = RemoteError("text", "busy")
    assert (remote.text, remote.code) == ("text", "busy")


def test_what_is_left_out_is_empty() -> None:
    assert FrameTooLarge(70, 64).hint == InvalidHeader(b"\x05", "reason").hint == ""
    assert ConnectionClosed().args == ("the peer closed the connection",)
    remote = RemoteError("text")
    assert (remote.code, remote.output, remote.stderr) == ("failed", None, None)


def test_ordinary_code_catches_what_it_already_catches() -> None:
    with pytest.raises(EOFError, match="3 of 9 bytes"):
        raise IncompleteFrame(3, 9)
    with pytest.raises(ValueError, match="70 exceeds 64"):
        raise FrameTooLarge(70, 64)
