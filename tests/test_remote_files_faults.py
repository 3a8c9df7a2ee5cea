"""What fails while files are stored and fetched, and peers that break the rules (R36)."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import remote_links
from conftest import linux
from pysock import FramingError
from pysock.remote import filetree
from pysock.remote.conversation import State
from pysock.remote.protocol import CHUNK, Entry, Exec, Get, Kind, Put, offset
from remote_links import LOST, Progress, Served, content, parts, raising, scripted, usable

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="serves no files there")

MIB = 1 << 20
MTIME = 1_234_567_890_123_456_789

served, remote, here, there = (
    remote_links.served,
    remote_links.remote,
    remote_links.here,
    remote_links.there,
)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no mount here")
    if done.returncode:
        pytest.skip("nothing can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.case("R36")
def test_put_to_a_full_disk_is_an_error_and_leaves_nothing_r36(small_disk, tmp_path, here):
    with here.open("wb") as file:
        file.truncate(512 * MIB)
    with Served(small_disk) as served:
        remote, progress = served.client(), Progress()
        with pytest.raises(OSError, match="No space") as caught:
            remote.put(here, "there", progress=progress)
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "there")
        assert os.listdir(small_disk) == []
        assert progress.told[-1][0] < 64 * MIB  # no need to send all of it
        usable(remote, tmp_path)
        assert served.outcomes[0] == "ENOSPC"


@pytest.mark.case("R36")
def test_get_to_a_full_disk_is_an_error_and_leaves_nothing_r36(
    small_disk, served, remote, there, tmp_path
):
    with there.open("wb") as file:
        file.truncate(512 * MIB)
    target = small_disk / "here"
    with pytest.raises(OSError, match="No space") as caught:
        remote.get("there", target)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(target))
    assert os.listdir(small_disk) == []
    assert remote.connection.stats.bytes_in < 64 * MIB
    usable(remote, tmp_path)


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


CHANGES = {
    "shrinks": lambda path: os.truncate(path, 5 * MIB),
    "is emptied": lambda path: os.truncate(path, 0),
    "grows": grow,
    "is touched": lambda path: os.utime(path, ns=(0, MTIME)),
}


@pytest.mark.case("R36")
@pytest.mark.parametrize("change", CHANGES)
def test_file_that_changes_while_it_is_put_is_an_error_r36(
    remote, here, there, tmp_path, change
):
    here.write_bytes(bytes(8 * MIB))
    progress = Progress(lambda: CHANGES[change](here), MIB)
    with pytest.raises(OSError, match="was changed while it was sent") as caught:
        remote.put(here, "there", progress=progress)
    assert caught.value.filename == str(here)
    assert not there.exists()
    usable(remote, tmp_path)


@pytest.mark.case("R36")
@pytest.mark.parametrize("change", CHANGES)
def test_file_that_changes_while_it_is_got_is_an_error_r36(
    remote, here, there, tmp_path, change
):
    there.write_bytes(bytes(8 * MIB))
    progress = Progress(lambda: CHANGES[change](there), MIB)
    with pytest.raises(OSError, match="was changed while it was sent") as caught:
        remote.get("there", here, progress=progress)
    assert caught.value.filename == "there"
    assert not here.exists()
    usable(remote, tmp_path)


@linux
def test_file_that_does_not_tell_its_size_is_an_error_not_an_empty_file(
    remote, there, tmp_path
):
    with pytest.raises(OSError, match="was changed while it was sent"):
        remote.put("/proc/version", "there")
    assert not there.exists()
    usable(remote, tmp_path)


@pytest.mark.parametrize("mtime", [-(2**63), -1, 2**63 - 1])
def test_time_far_away_is_set_as_well_as_the_system_can(remote, there, here, tmp_path, mtime):
    put = Put(b"there", Entry(0, 0o7777, mtime)).encode()
    remote.link.begin(put)
    assert remote.link.receive()[0] is Kind.PUT
    remote.link.send(Kind.DONE(hashlib.sha256().digest()))
    assert remote.link.receive()[0] is Kind.DONE
    assert stat.S_IMODE(there.stat().st_mode) == 0o777
    remote.get("there", here)
    usable(remote, tmp_path)


@pytest.mark.case("R36")
def test_file_that_cannot_be_opened_is_an_error_r36(
    remote, here, there, tmp_path, monkeypatch
):
    for path in (here, there):
        path.write_bytes(b"x")
    opened = os.open

    def closed(path, *args, **options):
        if os.fsencode(path).endswith((b"here", b"there")):
            raise PermissionError(errno.EACCES, "Permission denied", os.fsdecode(path))
        return opened(path, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", closed)
        for call in (lambda: remote.put(here, "x"), lambda: remote.get("there", here)):
            with pytest.raises(PermissionError):
                call()
    usable(remote, tmp_path)


@pytest.mark.case("R36")
@pytest.mark.parametrize("what", ["put", "get"])
def test_read_error_in_mid_file_leaves_the_connection_usable_r36(
    remote, here, there, tmp_path, monkeypatch, what
):
    source, target = (here, there) if what == "put" else (there, here)
    source.write_bytes(content(4 * CHUNK))
    read = filetree.Source.read

    def failing(self):
        if self.done >= 2 * CHUNK:
            raise OSError(errno.EIO, "Input/output error")
        return read(self)

    with monkeypatch.context() as patched:
        patched.setattr(filetree.Source, "read", failing)
        with pytest.raises(OSError, match="Input/output error"):
            remote.put(here, "there") if what == "put" else remote.get("there", here)
    assert not target.exists()
    usable(remote, tmp_path)


@pytest.mark.case("R36")
def test_local_folder_that_is_missing_is_named_and_the_connection_usable_r36(
    remote, there, tmp_path
):
    there.write_bytes(bytes(2 * CHUNK))
    with pytest.raises(FileNotFoundError) as caught:
        remote.get("there", tmp_path / "missing" / "here")
    assert caught.value.filename == str(tmp_path / "missing" / "here")
    with pytest.raises(FileNotFoundError):
        remote.put(tmp_path / "missing", "x")
    with pytest.raises(IsADirectoryError):
        remote.get("there", tmp_path)
    with pytest.raises(IsADirectoryError):
        remote.put(tmp_path, "x")
    usable(remote, tmp_path)


@pytest.mark.case("R36")
def test_local_fifo_or_device_is_neither_sent_nor_replaced_r36(remote, there, here):
    there.write_bytes(b"x")
    os.mkfifo(here)
    for path in (str(here), os.devnull, "/dev/zero"):
        with pytest.raises(OSError, match="is no regular file"):
            remote.put(path, "x")
        with pytest.raises(OSError, match="is no regular file"):
            remote.get("there", path)
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


class CallbackError(Exception):
    pass


@pytest.mark.case("R36")
@pytest.mark.parametrize("at", [0, 1, CHUNK, 4 * CHUNK])
@pytest.mark.parametrize("what", ["put", "get"])
def test_exception_of_the_callback_ends_the_transfer_cleanly_r36(
    remote, here, there, tmp_path, what, at
):
    source, target = (here, there) if what == "put" else (there, here)
    source.write_bytes(content(4 * CHUNK))
    progress = Progress(raising(CallbackError()), at)
    with pytest.raises(CallbackError):
        if what == "put":
            remote.put(here, "there", progress=progress)
        else:
            remote.get("there", here, progress=progress)
    assert not target.exists()
    assert parts(target.parent) == []
    usable(remote, tmp_path)


@pytest.mark.case("R36")
@pytest.mark.parametrize("delay", [0.0005, 0.001, 0.003])
@pytest.mark.parametrize("what", ["put", "get"])
def test_signal_anywhere_in_a_transfer_leaves_no_broken_state_r36(
    remote, here, there, what, delay
):
    source, target = (here, there) if what == "put" else (there, here)
    source.write_bytes(bytes(24 * MIB))
    transfer = remote.put if what == "put" else remote.get
    ends = (here, "there") if what == "put" else ("there", here)
    alarm = Progress(lambda: signal.setitimer(signal.ITIMER_REAL, delay))
    before = signal.signal(signal.SIGALRM, lambda *_: raising(KeyboardInterrupt())())
    try:
        with pytest.raises(KeyboardInterrupt):
            transfer(*ends, progress=alarm)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert remote.link.closed
    assert not target.exists()
    transfer(*ends)
    assert target.stat().st_size == 24 * MIB


def test_transfer_while_something_else_goes_on_touches_nothing(remote, here, tmp_path):
    here.write_bytes(b"x")
    remote.mkdir("folder")
    remote.link._conversation.state = State.RUNNING
    for call in (
        lambda: remote.put(here, "there"),
        lambda: remote.get("folder", here),
        lambda: remote.listdir(),
    ):
        with pytest.raises(RuntimeError):
            call()
    remote.link._conversation.state = State.READY
    usable(remote, tmp_path)


# ---------------------------------------------------------------- peers that break the rules


def broken_put(served: Served, entry: Entry, *messages: bytes) -> str:
    remote = served.client()
    with pytest.raises(LOST):
        remote.link.begin(Put(b"there", entry).encode())
        remote.link.receive()
        for message in messages:
            remote.link.send(message)
        while True:
            remote.link.receive()
    remote.link.close()
    return str(served.broken.pop())


@pytest.mark.case("R36")
def test_client_that_breaks_the_rules_of_a_put_leaves_no_file_r36(served, there):
    data = Kind.DATA
    assert "DATA of 3 bytes, 2 were" in broken_put(served, Entry(4), data(b"ab"), data(b"cde"))
    assert "DATA of 0 bytes" in broken_put(served, Entry(4), data(b""))
    assert "DONE after 2 of 4" in broken_put(served, Entry(4), data(b"ab"), Kind.DONE(b"x"))
    assert not there.exists()
    assert parts(served.root) == []


def test_client_that_wants_bytes_beyond_the_end_breaks_the_rules(served, there):
    there.write_bytes(b"abcd")
    remote = served.client()
    with pytest.raises(LOST):
        remote.link.begin(Get(b"there").encode())
        remote.link.receive()
        remote.link.send(offset(Kind.GET, 5))
        remote.link.receive()
    assert "GET from byte 5 of a file of 4" in str(served.broken.pop())


@pytest.mark.case("R36")
def test_put_with_a_wrong_checksum_makes_no_file_r36(remote, there, tmp_path):
    remote.link.begin(Put(b"there", Entry(4)).encode())
    assert remote.link.receive()[0] is Kind.PUT
    remote.link.send(Kind.DATA(b"abcd"))
    remote.link.send(Kind.DONE(bytes(32)))
    with pytest.raises(OSError, match="checksum") as caught:
        remote.link.receive()
    assert caught.value.errno == errno.EBADMSG
    assert not there.exists()
    usable(remote, tmp_path)


GET = Kind.GET
HOSTILE = {
    "more than announced": (GET(Entry(4).pack()), Kind.GET, Kind.DATA(b"abcde")),
    "less than announced": (GET(Entry(4).pack()), GET, Kind.DATA(b"ab"), Kind.DONE(bytes(32))),
    "empty data": (GET(Entry(4).pack()), GET, Kind.DATA(b"")),
    "endless size": (GET(Entry(2**64 - 1).pack()), GET, Kind.DATA(b"ab"), Kind.DONE(b"")),
    "a folder": (GET(Entry(4, type="d").pack()),),
    "malformed": (GET(b"abc"),),
    "a listing": (Kind.DATA(b"abc"),),
}


@pytest.mark.case("R36")
@pytest.mark.parametrize("script", HOSTILE)
def test_server_that_breaks_the_rules_of_a_get_makes_no_file_r36(script, here, tmp_path):
    with scripted(Kind.GET, *HOSTILE[script]) as remote:
        with pytest.raises(FramingError):
            remote.get("there", here)
        assert remote.link.closed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.case("R36")
def test_get_with_a_wrong_checksum_makes_no_file_r36(here, tmp_path):
    script = (GET(Entry(2).pack()), Kind.GET, Kind.DATA(b"ab"), Kind.DONE(bytes(32)))
    with scripted(Kind.GET, *script) as remote:
        with pytest.raises(OSError, match="checksum") as caught:
            remote.get("there", here)
        assert caught.value.errno == errno.EBADMSG
        assert remote.ready
    assert list(tmp_path.iterdir()) == []


@pytest.mark.case("R36")
@pytest.mark.parametrize(
    "script",
    [
        (offset(Kind.PUT, 5),),
        (Kind.PUT(b"abc"),),
        (Kind.DONE(b""),),
        (offset(Kind.PUT, 0), Kind.DONE, Kind.DONE(bytes(32))),
    ],
)
def test_server_that_breaks_the_rules_of_a_put_is_left_r36(script, here):
    here.write_bytes(b"abcd")
    with scripted(Kind.PUT, *script) as remote:
        with pytest.raises(FramingError):
            remote.put(here, "there")
        assert remote.link.closed


@pytest.mark.case("R36")
def test_connection_lost_before_the_last_word_is_an_error_never_success_r36(here):
    here.write_bytes(b"abcd")
    with scripted(Kind.PUT, offset(Kind.PUT, 0), Kind.DATA) as remote:
        closing = Progress(lambda: remote.connection.socket.shutdown(2), 4)
        with pytest.raises(LOST):
            remote.put(here, "there", progress=closing)
        assert remote.link.closed


def test_link_takes_a_command_after_a_transfer(remote):
    remote.mkdir("folder")
    remote.link.begin(Exec((b"true",)).encode())
    assert remote.link.state is State.RUNNING
    remote.link.close()
