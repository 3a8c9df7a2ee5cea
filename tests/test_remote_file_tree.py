"""Paths of remote files: none leads out of the served folder (R36)."""

from __future__ import annotations

import os
import socket
import stat
import sys
from pathlib import Path

import pytest

from conftest import linux
from pysock import FramingError, RemoteError
from pysock.remote import filetree
from pysock.remote.files import Files
from pysock.remote.protocol import Get, Kind, Put
from remote_links import Remote, Served, parts, scripted

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="serves no files there")

OUTSIDE = b"not served"
WRONG = ["../x", "..", "/x", "//x", "a/../b", "a/..", ".", "./x", "a/./b", "a//b", "a/", "/"]


@pytest.fixture
def served(tmp_path: Path):
    (tmp_path / "root" / "a").mkdir(parents=True)
    (tmp_path / "root" / "a" / "file").write_bytes(b"served")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x").write_bytes(OUTSIDE)
    (tmp_path / "x").write_bytes(OUTSIDE)
    with Served(tmp_path / "root") as served:
        yield served
        assert served.broken == []
    assert {*os.listdir(tmp_path)} - {"local"} == {"outside", "root", "x"}
    assert os.listdir(tmp_path / "outside") == ["x"]
    assert (tmp_path / "outside" / "x").read_bytes() == OUTSIDE
    assert (tmp_path / "x").read_bytes() == OUTSIDE


@pytest.fixture
def local(tmp_path: Path) -> Path:
    path = tmp_path / "local"
    path.write_bytes(b"mine")
    return path


@pytest.fixture
def remote(served: Served) -> Remote:
    return served.client()


def refused_everywhere(remote: Remote, local: Path, path: str, match: str) -> None:
    for call in (
        lambda: remote.put(local, path),
        lambda: remote.get(path, local),
        lambda: remote.mkdir(path),
        lambda: remote.listdir(path),
    ):
        with pytest.raises(RemoteError, match=match) as caught:
            call()
        assert caught.value.code == "refused"
    assert local.read_bytes() == b"mine"
    assert remote.ready


@pytest.mark.case("R36")
@pytest.mark.parametrize("path", WRONG)
def test_path_that_is_no_plain_names_is_refused_r36(remote, local, path):
    refused_everywhere(remote, local, path, "is no path below the served folder")
    assert remote.names() == [b"a"]


@pytest.mark.case("R36")
def test_empty_path_is_refused_for_files_and_lists_the_root_r36(remote, local):
    for call in (
        lambda: remote.put(local, ""),
        lambda: remote.get("", local),
        lambda: remote.mkdir(""),
    ):
        with pytest.raises(RemoteError, match="is no path below the served folder"):
            call()
    assert remote.names("") == [b"a"]


@pytest.mark.case("R36")
def test_path_with_nul_is_refused_on_both_sides_r36(served, remote, local):
    with pytest.raises(ValueError, match="NUL"):
        remote.put(local, "a\0b")
    with pytest.raises(ValueError, match="NUL"):
        remote.get("a\0b", local)
    message = Get(b"a-b").encode().replace(b"a-b", b"a\0b")
    with pytest.raises(FramingError, match="NUL"):
        Get.decode(message[1:])
    tree = filetree.Tree(served.root)
    with pytest.raises(filetree.NotServed), tree.parent(b"a\0b"):
        pass


NOT_UTF8 = pytest.param(b"\xff\xfe", marks=linux)  # which others refuse


@pytest.mark.case("R36")
@pytest.mark.parametrize("name", ["a\nb", " ", "...", "-rf", "\x1b[2J", NOT_UTF8, "é", "\\"])
def test_any_other_name_is_kept_as_it_is_r36(remote, local, name):
    remote.put(local, name)
    local.write_bytes(b"")
    remote.get(name, local)
    assert local.read_bytes() == b"mine"
    assert os.fsencode(name) in remote.names()


def test_name_for_unfinished_files_is_refused_and_not_listed(served, remote, local):
    (served.root / ".x.pysock-part").write_bytes(b"half")
    assert remote.names() == [b"a"]
    refused_everywhere(remote, local, ".x.pysock-part", "unfinished")


def test_name_of_255_bytes_is_stored_and_one_more_is_refused(served, remote, local):
    name = "é" * 127 + "x"
    remote.put(local, name)
    assert (served.root / name).read_bytes() == b"mine"
    with pytest.raises(OSError, match="too long"):
        remote.put(local, name + "y")
    assert parts(served.root) == []
    remote.get(name, local)


@pytest.mark.case("R36")
def test_symlink_as_last_part_is_not_followed_r36(served, remote, local):
    (served.root / "link").symlink_to("../x")
    refused_everywhere(remote, local, "link", "is a symbolic link")
    assert (served.root / "link").is_symlink()
    assert [(entry.name, entry.type) for entry in remote.listdir()] == [
        (b"a", "d"),
        (b"link", "?"),
    ]


@pytest.mark.case("R36")
def test_symlink_within_the_root_is_not_followed_either_r36(served, remote, local):
    (served.root / "link").symlink_to("a/file")
    refused_everywhere(remote, local, "link", "is a symbolic link")


@pytest.mark.case("R36")
def test_dangling_symlink_makes_no_file_r36(served, remote, local):
    (served.root / "link").symlink_to("../outside/new")
    refused_everywhere(remote, local, "link", "is a symbolic link")


@pytest.mark.case("R36")
@pytest.mark.parametrize("target", ["../outside", ".", "a", "/"])
def test_symlink_as_folder_on_the_way_is_not_followed_r36(served, remote, local, target):
    (served.root / "link").symlink_to(target)
    refused_everywhere(remote, local, "link/x", "is a symbolic link")
    (served.root / "a" / "link").symlink_to(served.root.parent / "outside")
    refused_everywhere(remote, local, "a/link/x", "is a symbolic link")


def swapping(monkeypatch: pytest.MonkeyPatch, at: bytes, swap) -> None:
    """Call *swap* once, when the walk has opened the folder *at*."""
    opened = filetree._open_folder
    swaps = [swap]

    def open_then_swap(name, flags, dir_fd):
        fd = opened(name, flags, dir_fd)
        if name == at and swaps:
            swaps.pop()()
        return fd

    monkeypatch.setattr(filetree, "_open_folder", open_then_swap)


@pytest.mark.case("R36")
def test_folder_swapped_for_a_symlink_before_its_step_is_refused_r36(
    served, remote, local, monkeypatch
):
    (served.root / "a" / "b").mkdir()

    def swap() -> None:
        (served.root / "a" / "b").rmdir()
        (served.root / "a" / "b").symlink_to("../../outside")

    swapping(monkeypatch, b"a", swap)
    with pytest.raises(RemoteError, match="is a symbolic link"):
        remote.put(local, "a/b/x")


@pytest.mark.case("R36")
@pytest.mark.parametrize("what", ["put", "get"])
def test_folder_swapped_for_a_symlink_after_its_step_is_not_left_r36(
    served, remote, local, monkeypatch, what
):
    (served.root / "a" / "x").write_bytes(b"served")

    def swap() -> None:
        (served.root / "a").rename(served.root / "moved")
        (served.root / "a").symlink_to("../outside")

    swapping(monkeypatch, b"a", swap)
    if what == "put":
        remote.put(local, "a/x")
        assert (served.root / "moved" / "x").read_bytes() == b"mine"
    else:
        remote.get("a/x", local)
        assert local.read_bytes() == b"served"


@pytest.mark.case("R36")
def test_file_swapped_for_a_symlink_while_it_is_sent_is_replaced_not_followed_r36(
    served, remote, local
):
    def swap(done: int, total: int) -> None:
        if not (served.root / "new").is_symlink():
            (served.root / "new").symlink_to("../outside/x")

    remote.put(local, "new", progress=swap)
    assert not (served.root / "new").is_symlink()
    assert (served.root / "new").read_bytes() == b"mine"


@pytest.mark.case("R36")
def test_file_swapped_for_a_symlink_before_it_is_opened_is_refused_r36(
    served, remote, local, monkeypatch
):
    check = filetree._check_regular

    def check_then_swap(info, path):
        check(info, path)
        (served.root / "a" / "file").unlink(missing_ok=True)
        (served.root / "a" / "file").symlink_to("../../x")

    monkeypatch.setattr(filetree, "_check_regular", check_then_swap)
    with pytest.raises(OSError, match="[Ss]ymbolic|[Ll]inks"):
        remote.get("a/file", local.parent / "outside" / "y")


def test_root_may_be_reached_over_symlinks(served, local, tmp_path):
    link = tmp_path / "root" / "here"
    link.symlink_to(tmp_path / "root" / "a")
    with Served(link) as linked:
        assert linked.client().names() == [b"file"]
        linked.client().get("file", local)
    assert local.read_bytes() == b"served"


def test_root_that_is_no_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for name in ("file", "missing"):
        with pytest.raises(NotADirectoryError):
            Files(tmp_path / name)


@pytest.mark.case("R36")
@pytest.mark.parametrize("kind", ["fifo", "socket", "device"])
def test_what_is_no_regular_file_is_refused_without_waiting_r36(served, remote, local, kind):
    path = served.root / "special"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    else:
        try:
            os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        except OSError:
            pytest.skip("no devices may be made here")
    for call in (lambda: remote.put(local, "special"), lambda: remote.get("special", local)):
        with pytest.raises(RemoteError, match="is no regular file"):
            call()
    assert {entry.name: entry.type for entry in remote.listdir()}[b"special"] == "?"
    with pytest.raises(FileExistsError):
        remote.mkdir("special")
    assert not path.is_file()


@pytest.mark.case("R36")
def test_fifo_put_in_place_of_the_file_is_refused_without_waiting_r36(
    served, remote, local, monkeypatch
):
    check = filetree._check_regular

    def check_then_swap(info, path):
        check(info, path)
        (served.root / "a" / "file").unlink(missing_ok=True)
        os.mkfifo(served.root / "a" / "file")

    monkeypatch.setattr(filetree, "_check_regular", check_then_swap)
    with pytest.raises(RemoteError, match="is no regular file"):
        remote.get("a/file", local.parent / "outside" / "y")


def test_errors_of_the_system_come_as_they_would_at_home(served, remote, local):
    for call, error in (
        (lambda: remote.get("missing", local), FileNotFoundError),
        (lambda: remote.get("a", local), IsADirectoryError),
        (lambda: remote.put(local, "a"), IsADirectoryError),
        (lambda: remote.put(local, "missing/x"), FileNotFoundError),
        (lambda: remote.put(local, "a/file/x"), NotADirectoryError),
        (lambda: remote.listdir("a/file"), NotADirectoryError),
        (lambda: remote.listdir("missing"), FileNotFoundError),
        (lambda: remote.mkdir("a/file"), FileExistsError),
        (lambda: remote.mkdir("missing/x"), FileNotFoundError),
    ):
        with pytest.raises(error) as caught:
            call()
        assert not caught.value.filename.endswith("pysock-part")
    assert remote.ready
    assert served.outcomes[0] == "ENOENT"


def test_folder_is_made_and_may_be_there(served, remote):
    for _ in range(2):
        remote.mkdir("new")
        remote.mkdir("new/below")
    assert (served.root / "new" / "below").is_dir()


def test_listing_tells_sizes_modes_times_and_types(served, remote):
    file = served.root / "a" / "file"
    os.utime(file, ns=(5, 1_600_000_000_123_456_789))
    file.chmod(0o4751)
    (entry,) = remote.listdir("a")
    assert (entry.name, entry.size, entry.mode, entry.type) == (b"file", 6, 0o751, "f")
    assert entry.mtime_ns == file.stat().st_mtime_ns
    assert [entry.type for entry in remote.listdir()] == ["d"]


def test_listing_of_many_files_comes_in_several_messages(served, remote):
    names = sorted(b"%0100d" % number for number in range(1500))
    folder = os.fsencode(served.root / "a")
    os.unlink(os.path.join(folder, b"file"))
    for name in names:
        os.close(os.open(os.path.join(folder, name), os.O_CREAT))
    assert remote.names("a") == names


@pytest.mark.parametrize("name", [b"..", b".", b"", b"../x", b"/x", b"a/b", b"a\0b"])
def test_listing_with_a_name_that_is_none_is_an_error(name):
    entry = filetree.Entry(1, name=name)
    with scripted(Kind.GET, Kind.DATA(entry.pack()), Kind.DONE()) as remote:
        with pytest.raises(FramingError, match="name"):
            remote.listdir()
        assert remote.link.closed


def test_put_of_neither_a_file_nor_a_folder_breaks_the_rules(tmp_path):
    with Served(tmp_path) as served:
        remote = served.client()
        with pytest.raises((EOFError, ConnectionError)):
            remote.link.begin(Put(b"x", filetree.Entry(0, type="?")).encode())
            remote.link.receive()
    assert "neither a file nor a folder" in str(served.broken[0])
