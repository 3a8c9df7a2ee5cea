"""Files stored and fetched: whole or not at all, gone on with after a cut (R36)."""

from __future__ import annotations

import errno
import os
import stat
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import pytest

import remote_links
from pysock import RemoteError
from pysock.remote import filetree, part
from pysock.remote.protocol import CHUNK, Entry, Get, Kind, Put, Refusal, offset
from pysock.testing import Faults
from remote_links import LONG, LOST, Progress, Remote, Served, content, parts, raising, usable

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="serves no files there")

MIB = 1 << 20
SIZES = [0, 1, 32767, 32768, 32769, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5]
CUTS = [1, 1000, CHUNK - 1, CHUNK + 20, 3 * CHUNK]
MTIME = 1_234_567_890_123_456_789

served, remote, here, there = (
    remote_links.served,
    remote_links.remote,
    remote_links.here,
    remote_links.there,
)


@pytest.fixture
def soon_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part, "PATIENCE", 0.0)


# ---------------------------------------------------------------- whole files


@pytest.mark.case("R36")
@pytest.mark.parametrize("size", SIZES)
def test_file_of_any_size_comes_whole_with_mode_and_time_r36(remote, here, there, size):
    data, progress, back = content(size), Progress(), Progress()
    here.write_bytes(data)
    here.chmod(0o640)
    os.utime(here, ns=(0, MTIME))
    remote.put(here, "there", progress=progress)
    info = there.stat()
    assert there.read_bytes() == data
    assert (stat.S_IMODE(info.st_mode), info.st_mtime_ns) == (0o640, here.stat().st_mtime_ns)
    here.unlink()
    remote.get("there", here, progress=back)
    info = here.stat()
    assert here.read_bytes() == data
    assert (stat.S_IMODE(info.st_mode), info.st_mtime_ns) == (0o640, there.stat().st_mtime_ns)
    for told in (progress.told, back.told):
        assert told[0] == (0, size) and told[-1] == (size, size)
        assert told == sorted(set(told))


def sparse_both_ways(remote: Remote, here: Path, there: Path, size: int) -> int:
    """Return the most memory that was in use, both sides and their messages."""
    with here.open("wb") as file:
        file.truncate(size)
        file.seek(size // 2)
        file.write(b"in the midst")
    tracemalloc.start()
    try:
        remote.put(here, "there")
        here.unlink()
        remote.get("there", here)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert here.stat().st_size == there.stat().st_size == size
    with here.open("rb") as file:
        file.seek(size // 2)
        assert file.read(16) == b"in the midst\0\0\0\0"
    return most


@pytest.mark.case("R36")
def test_memory_does_not_grow_with_the_file_r36(remote, here, there):
    assert sparse_both_ways(remote, here, there, 24 * MIB) < 8 * MIB


@pytest.mark.case("R36")
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_sparse_file_of_a_gib_in_constant_memory_r36(remote, here, there):
    assert sparse_both_ways(remote, here, there, 1024 * MIB) < 8 * MIB


@pytest.mark.case("R36")
def test_setuid_setgid_and_sticky_are_not_kept_r36(remote, here, there):
    here.write_bytes(b"x")
    here.chmod(0o7751)
    remote.put(here, "there")
    assert stat.S_IMODE(there.stat().st_mode) == 0o751
    there.chmod(0o7711)
    remote.get("there", here)
    assert stat.S_IMODE(here.stat().st_mode) == 0o711


def test_put_replaces_a_file_only_if_it_may(remote, here, there, tmp_path):
    here.write_bytes(b"new")
    there.write_bytes(b"old")
    with pytest.raises(FileExistsError) as caught:
        remote.put(here, "there", overwrite=False)
    assert caught.value.filename == "there"
    assert there.read_bytes() == b"old"
    remote.put(here, "there")
    assert there.read_bytes() == b"new"
    remote.put(here, "other", overwrite=False)
    assert (there.parent / "other").read_bytes() == b"new"
    usable(remote, tmp_path)


def test_get_replaces_a_file_only_if_it_may(remote, here, there, tmp_path):
    here.write_bytes(b"old")
    there.write_bytes(b"new")
    with pytest.raises(FileExistsError):
        remote.get("there", here, overwrite=False)
    assert here.read_bytes() == b"old"
    remote.get("there", here)
    assert here.read_bytes() == b"new"
    remote.get("there", tmp_path / "other", overwrite=False)
    usable(remote, tmp_path)


@pytest.mark.case("R36")
@pytest.mark.parametrize("linked", [True, False])
def test_file_that_appears_meanwhile_is_not_replaced_r36(
    remote, here, there, tmp_path, monkeypatch, linked
):
    if not linked:  # as on a file system without second names
        monkeypatch.delattr(os, "link")
        monkeypatch.setattr(os, "link", raising_link, raising=False)
    here.write_bytes(bytes(2 * CHUNK))
    meanwhile = Progress(lambda: there.write_bytes(b"another's"))
    with pytest.raises(FileExistsError):
        remote.put(here, "there", overwrite=False, progress=meanwhile)
    assert there.read_bytes() == b"another's"
    target = tmp_path / "target"
    with pytest.raises(FileExistsError):
        meanwhile = Progress(lambda: target.write_bytes(b"mine"))
        remote.get("there", target, overwrite=False, progress=meanwhile)
    assert target.read_bytes() == b"mine"
    usable(remote, tmp_path)
    remote.put(here, "new", overwrite=False)


def raising_link(*_: object, **__: object) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


def test_get_follows_a_symlink_of_the_caller_as_cp_does(remote, here, there, tmp_path):
    there.write_bytes(b"new")
    here.symlink_to(tmp_path / "real")
    remote.get("there", here)
    assert here.is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


# ---------------------------------------------------------------- cut and gone on with


@pytest.mark.case("R36")
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("how", ["end_at", "reset_at"])
def test_put_that_was_cut_goes_on_where_it_ended_r36(served, remote, here, there, cut, how):
    data = content(4 * CHUNK + 7)
    here.write_bytes(data)
    served.faults = {how: 100 + cut, "back": Faults()}
    with pytest.raises(LOST):
        remote.put(here, "there")
    assert remote.link.closed
    assert not there.exists()
    progress = Progress()
    remote.put(here, "there", progress=progress)
    start = progress.told[0][0]
    assert start <= cut + 100 and (how == "reset_at" or cut < CHUNK or start >= CHUNK)
    assert not start % CHUNK
    assert there.read_bytes() == data


@pytest.mark.case("R36")
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("how", ["end_at", "reset_at"])
def test_get_that_was_cut_goes_on_where_it_ended_r36(served, remote, here, there, cut, how):
    data = content(4 * CHUNK + 7)
    there.write_bytes(data)
    served.faults = {"back": Faults(**{how: 100 + cut})}
    with pytest.raises(LOST):
        remote.get("there", here)
    assert remote.link.closed
    assert not here.exists()
    progress = Progress()
    remote.get("there", here, progress=progress)
    start = progress.told[0][0]
    assert start <= cut + 100 and (how == "reset_at" or cut < CHUNK or start >= CHUNK)
    assert here.read_bytes() == data
    assert served.connected == 2


def cut_put(served: Served, remote: Remote, here: Path, at: int) -> Path:
    """Put a file that is cut after *at* bytes; return what is left of it."""
    with pytest.raises(KeyboardInterrupt):
        remote.put(here, "there", progress=Progress(raising(KeyboardInterrupt()), at))
    deadline = time.monotonic() + LONG
    while not served.root.joinpath("there").exists() and time.monotonic() < deadline:
        (left,) = parts(served.root)
        if left.stat().st_size >= at:
            return left
        time.sleep(0.001)
    raise AssertionError("nothing of it is left")


def cut_get(remote: Remote, here: Path, at: int) -> Path:
    with pytest.raises(KeyboardInterrupt):
        remote.get("there", here, progress=Progress(raising(KeyboardInterrupt()), at))
    (left,) = parts(here.parent)
    return left


@pytest.mark.case("R36")
def test_interrupted_put_drops_the_connection_and_goes_on_r36(served, remote, here, there):
    here.write_bytes(content(4 * CHUNK))
    left = cut_put(served, remote, here, 2 * CHUNK)
    assert remote.link.closed
    assert stat.S_IMODE(left.stat().st_mode) == 0o600
    assert remote.names() == []
    progress = Progress()
    remote.put(here, "there", progress=progress)
    assert progress.told[0] == (2 * CHUNK, 4 * CHUNK)
    assert there.read_bytes() == here.read_bytes()


@pytest.mark.case("R36")
def test_interrupted_get_drops_the_connection_and_goes_on_r36(remote, here, there):
    there.write_bytes(content(4 * CHUNK))
    cut_get(remote, here, 2 * CHUNK)
    assert remote.link.closed
    assert not here.exists()
    progress = Progress()
    remote.get("there", here, progress=progress)
    assert progress.told[0] == (2 * CHUNK, 4 * CHUNK)
    assert there.read_bytes() == here.read_bytes()


def damage(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"damaged")


@pytest.mark.case("R36")
def test_put_begins_again_where_the_first_bytes_are_damaged_r36(served, remote, here, there):
    here.write_bytes(content(4 * CHUNK))
    damage(cut_put(served, remote, here, 2 * CHUNK))
    progress = Progress()
    remote.put(here, "there", progress=progress)
    starts = [told for told in progress.told if told[0] in (0, 2 * CHUNK)]
    assert starts == [(2 * CHUNK, 4 * CHUNK), (0, 4 * CHUNK), (2 * CHUNK, 4 * CHUNK)]
    assert there.read_bytes() == here.read_bytes()
    assert served.connected == 2


@pytest.mark.case("R36")
def test_get_begins_again_where_the_first_bytes_are_damaged_r36(served, remote, here, there):
    there.write_bytes(content(4 * CHUNK))
    damage(cut_get(remote, here, 2 * CHUNK))
    progress = Progress()
    remote.get("there", here, progress=progress)
    assert progress.told[0] == (2 * CHUNK, 4 * CHUNK)
    assert (0, 4 * CHUNK) in progress.told
    assert there.read_bytes() == here.read_bytes()
    assert served.connected == 2


def test_put_cut_before_its_last_word_sends_nothing_again(served, remote, here, there):
    here.write_bytes(content(2 * CHUNK))
    cut_put(served, remote, here, 2 * CHUNK)
    progress = Progress()
    remote.put(here, "there", progress=progress)
    assert progress.told == [(2 * CHUNK, 2 * CHUNK)]
    assert there.read_bytes() == here.read_bytes()


def test_file_changed_since_the_cut_begins_anew(served, remote, here, there):
    here.write_bytes(content(4 * CHUNK))
    left = cut_put(served, remote, here, 2 * CHUNK)
    os.utime(here, ns=(0, MTIME))
    progress = Progress()
    remote.put(here, "there", progress=progress)
    assert progress.told[0] == (0, 4 * CHUNK)
    assert parts(served.root) == [left]
    left.unlink()


def test_what_was_cut_a_week_ago_is_removed(served, remote, here):
    here.write_bytes(content(4 * CHUNK))
    left = cut_put(served, remote, here, 2 * CHUNK)
    other = left.with_name(".other.0123456789abcdef.pysock-part")
    recent = left.with_name(".recent.0123456789abcdef.pysock-part")
    other.write_bytes(b"old")
    recent.write_bytes(b"new")
    long_ago = time.time() - 8 * 86400
    for path in (left, other):
        os.utime(path, (long_ago, long_ago))
    os.mkfifo(left.with_name(".fifo.pysock-part"))
    served.files._swept.clear()
    progress = Progress()
    remote.put(here, "there", progress=progress)
    assert progress.told[0] == (0, 4 * CHUNK)
    assert recent in parts(served.root) and other not in parts(served.root)
    for path in parts(served.root):
        path.unlink()


def test_get_that_was_cut_a_week_ago_begins_anew(remote, here, there):
    there.write_bytes(content(4 * CHUNK))
    os.utime(cut_get(remote, here, 2 * CHUNK), (0, 0))
    progress = Progress()
    remote.get("there", here, progress=progress)
    assert progress.told[0] == (0, 4 * CHUNK)


@pytest.mark.parametrize("fate", ["finished", "removed", "replaced"])
def test_part_that_loses_its_name_before_it_is_locked_is_not_written_to(
    remote, here, there, monkeypatch, fate
):
    lock, happened = part._lock, []

    def late(fd: int) -> bool:
        if not happened:
            (name,) = happened[:] = parts(there.parent)
            if fate == "finished":
                name.rename(there)
            else:
                name.unlink()
            if fate == "replaced":
                name.touch(0o600)
        return lock(fd)

    monkeypatch.setattr(part, "_lock", late)
    here.write_bytes(b"whole")
    if fate == "finished":
        with pytest.raises(FileExistsError):
            remote.put(here, "there", overwrite=False)
        assert there.read_bytes() == b""
    else:
        remote.put(here, "there", overwrite=False)
        assert there.read_bytes() == b"whole"


def test_old_part_in_use_is_not_swept(served, tmp_path):
    entry = Entry(10)
    fd = os.open(served.root, os.O_RDONLY)
    try:
        with part.Part(b"x", entry, ("", b"x"), fd) as making:
            (path,) = parts(served.root)
            os.utime(path, (0, 0))
            part.sweep(fd)
            assert parts(served.root) == [path]
            making.discard()
    finally:
        os.close(fd)


@pytest.mark.parametrize("what", ["put", "get"])
def test_pings_are_answered_while_the_server_reads_what_it_does_not_send(
    remote, here, there, monkeypatch, what
):
    there.write_bytes(b"abcd")
    answered = threading.Event()
    step = "catch_up" if what == "put" else "skip"
    monkeypatch.setattr(
        part.Part if what == "put" else filetree.Source,
        step,
        lambda self, *_: not answered.wait(0.001),
    )
    if what == "put":
        remote.link.begin(Put(b"new", Entry(0)).encode())
    else:
        remote.link.begin(Get(b"there").encode())
        remote.link.receive()
        remote.link.send(offset(Kind.GET, 0))
    remote.link.send(Kind.PING(b"there?"))
    assert remote.connection.recv() == Kind.PONG(b"there?")
    answered.set()
    assert remote.link.receive()[0] is (Kind.PUT if what == "put" else Kind.DATA)
    if what == "put":
        remote.link.send(Refusal("failed", "enough").encode())
        with pytest.raises(RemoteError, match="given up"):
            remote.link.receive()


@pytest.mark.parametrize("plant", ["hardlink", "symlink", "fifo", "readonly"])
def test_what_others_put_in_place_of_the_part_is_not_written_to(
    served, remote, here, there, tmp_path, plant
):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    here.write_bytes(content(4 * CHUNK))
    left = cut_put(served, remote, here, 2 * CHUNK)
    if plant == "readonly":
        left.chmod(0o400)
    else:
        left.unlink()
        make = {"hardlink": left.hardlink_to, "symlink": left.symlink_to}
        os.mkfifo(left) if plant == "fifo" else make[plant](victim)
    remote.put(here, "there")
    assert there.read_bytes() == here.read_bytes()
    assert victim.read_bytes() == b"precious"


# ---------------------------------------------------------------- two at once


@pytest.mark.case("R36")
def test_same_file_put_twice_at_once_is_busy_for_the_second_r36(
    served, remote, here, there, tmp_path, soon_busy
):
    here.write_bytes(content(3 * CHUNK))
    other = served.client()

    def second() -> None:
        with pytest.raises(RemoteError, match="is being written") as caught:
            other.put(here, "there")
        assert caught.value.code == "busy"

    remote.put(here, "there", progress=Progress(second))
    assert there.read_bytes() == here.read_bytes()
    usable(other, tmp_path)


@pytest.mark.case("R36")
def test_same_file_got_twice_at_once_is_busy_for_the_second_r36(
    served, remote, here, there, tmp_path, soon_busy
):
    there.write_bytes(content(3 * CHUNK))
    other = served.client()

    def second() -> None:
        with pytest.raises(OSError, match="is being written") as caught:
            other.get("there", here)
        assert caught.value.errno == errno.EBUSY

    remote.get("there", here, progress=Progress(second))
    assert there.read_bytes() == here.read_bytes()
    usable(other, tmp_path)


@pytest.mark.case("R36")
def test_two_files_put_to_one_name_are_never_mixed_r36(served, remote, tmp_path, there):
    ones, twos = tmp_path / "ones", tmp_path / "twos"
    ones.write_bytes(b"1" * (3 * CHUNK))
    twos.write_bytes(b"2" * (3 * CHUNK + 1))
    other = served.client()
    remote.put(ones, "there", progress=Progress(lambda: other.put(twos, "there")))
    assert there.read_bytes() == ones.read_bytes()


@pytest.mark.case("R36")
def test_many_clients_put_one_name_at_once_each_whole_or_busy_r36(served, tmp_path, there):
    """Also two different files of one size and time, which have one temporary name."""
    paths = [tmp_path / "ones", tmp_path / "twos"]
    for path, byte in zip(paths, b"12", strict=True):
        path.write_bytes(bytes([byte]) * (2 * CHUNK))
        os.utime(path, ns=(0, MTIME))
    outcomes: list[str] = []

    def put(remote: Remote, path: Path) -> None:
        for _ in range(5):
            try:
                remote.put(path, "there")
                outcomes.append("whole")
            except RemoteError as exc:
                outcomes.append(exc.code)

    threads = [
        threading.Thread(target=put, args=(served.client(), paths[number % 2]))
        for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
        data = there.read_bytes()
        assert data in [path.read_bytes() for path in paths]
    assert len(outcomes) == 20 and set(outcomes) <= {"whole", "busy"}
