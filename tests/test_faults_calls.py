"""System calls that fail, are late, or do less than asked: with TLS, in servers, remotely."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import certificates
from certificates import Certificates
from conftest import linux, require_peer
from peers import LONG

pytestmark = [linux, pytest.mark.slow]

certs = certificates.certs

PROGRAM = [sys.executable, "-P", "-X", "faulthandler", f"{Path(__file__).parent}/disturbed.py"]
RECEIVES, SENDS = "recvfrom,recvmsg", "sendto,sendmsg"
# What a connection that the system has broken may raise; the others have their own names.
BROKEN = ("ConnectionError", "ConnectionClosed", "SSLError", "AuthenticationError")


@pytest.fixture
def certificate(certs: Certificates, tmp_path: Path) -> dict[str, str]:
    """The environment in which the program finds a certificate with its key."""
    both = tmp_path / "both.pem"
    both.touch(0o600)
    both.write_bytes(certs.server.certificate.read_bytes() + certs.server.key.read_bytes())
    return {**os.environ, "DISTURBED_CERTIFICATE": str(both)}


def run(
    command: list[str],
    env: dict[str, str],
    kind: str,
    count: int,
    allowed: tuple[str, ...] = (),
) -> tuple[int, int]:
    """Return how many exchanges were done, and how many met an error that is allowed."""
    done = subprocess.run(
        [*command, *PROGRAM, kind, str(count), *allowed],
        capture_output=True,
        text=True,
        timeout=2 * LONG,
        env=env,
    )
    if "ptrace" in done.stderr:
        pytest.skip("strace may not trace here")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    finished, met = done.stdout.split()
    return int(finished), int(met)


# ------------------------------------------------------------ strace


def traced(
    folder: Path,
    env: dict[str, str],
    inject: str,
    kind: str,
    count: int = 1,
    allowed: tuple[str, ...] = (),
) -> tuple[int, int, int]:
    """As run(), with calls that strace answers; return how many these were, too."""
    log = folder / "log"
    command = [require_peer("strace"), "-f", "-qq", "-o", str(log), "-e", "signal=none"]
    command += ["-e", f"trace={inject.partition(':')[0]}", "-e", f"inject={inject}"]
    done, met = run(command, env, kind, count, allowed)
    said = log.read_text()
    return done, met, said.count("(INJECTED)") + said.count("(DELAYED)")


@pytest.mark.case("P14")
@pytest.mark.parametrize(
    ("kind", "error"),
    [
        *((kind, "EINTR") for kind in ("tcp", "tls", "remote", "datagrams")),
        # Not for remote commands, whose server has sockets that block: these never say so.
        *((kind, "EAGAIN") for kind in ("tcp", "tls", "datagrams")),
    ],
)
def test_calls_that_are_to_be_made_again_cost_nothing_p14(
    tmp_path: Path, certificate: dict[str, str], kind: str, error: str
) -> None:
    calls = f"{RECEIVES},{SENDS},recvmmsg,sendmmsg"
    done, met, injected = traced(
        tmp_path, certificate, f"{calls}:error={error}:when=2+3", kind
    )
    assert (done, met) == (1, 0)
    assert injected >= 5


@pytest.mark.case("P14")
@pytest.mark.parametrize("kind", ["tcp", "tls", "remote", "datagrams"])
def test_waits_that_are_interrupted_cost_nothing_p14(
    tmp_path: Path, certificate: dict[str, str], kind: str
) -> None:
    inject = "poll,ppoll,epoll_wait:error=EINTR:when=1+2"
    done, met, injected = traced(tmp_path, certificate, inject, kind)
    assert (done, met) == (1, 0)
    assert injected >= 5


@pytest.mark.case("P14")
@pytest.mark.parametrize("kind", ["tcp", "tls"])
@pytest.mark.parametrize(
    ("calls", "error"),
    [
        (RECEIVES, "ECONNRESET"),
        (RECEIVES, "ETIMEDOUT"),
        (RECEIVES, "ENOMEM"),
        (SENDS, "EPIPE"),
        (SENDS, "ECONNRESET"),
        (SENDS, "ENOBUFS"),
    ],
)
def test_calls_that_fail_for_good_end_one_connection_p14(
    tmp_path: Path, certificate: dict[str, str], kind: str, calls: str, error: str
) -> None:
    """Each thread meets them at calls of its own; the next exchanges are whole."""
    # TLS receives much more often than it sends, in its handshake too.
    when = "when=60+400" if (kind, calls) == ("tls", RECEIVES) else "when=9+25"
    inject = f"{calls}:error={error}:{when}"
    done, met, injected = traced(
        tmp_path, certificate, inject, kind, 6, (*BROKEN, "TimeoutError", "OSError")
    )
    assert done >= 1
    assert met >= 1
    assert injected >= 1


@pytest.mark.case("P14")
@pytest.mark.parametrize(
    "inject",
    [
        f"{RECEIVES}:delay_enter=5000:when=1+7",
        f"{SENDS}:delay_exit=5000:when=1+7",
        "epoll_wait,poll:delay_exit=5000:when=1+5",
        "epoll_ctl,accept4:delay_enter=5000:when=1+2",
    ],
)
@pytest.mark.parametrize("kind", ["tcp", "tls"])
def test_calls_that_are_late_cost_only_time_p14(
    tmp_path: Path, certificate: dict[str, str], kind: str, inject: str
) -> None:
    done, met, delayed = traced(tmp_path, certificate, inject, kind)
    assert (done, met) == (1, 0)
    assert delayed >= 1


@pytest.mark.case("X08")
@pytest.mark.parametrize(
    "inject",
    [
        "pidfd_open:error=ENOSYS",
        "pidfd_open:error=EMFILE:when=1..1",
        "pidfd_send_signal:error=ENOSYS",
        "close_range:error=ENOSYS",
        "waitid,wait4:error=EINTR:when=1+2",
    ],
)
def test_remote_commands_where_the_system_lacks_a_call_x08(
    tmp_path: Path, certificate: dict[str, str], inject: str
) -> None:
    """As a container's filter answers, or a kernel of long ago."""
    done, met, _ = traced(tmp_path, certificate, inject, "remote", 2)
    assert (done, met) == (2, 0)


# ------------------------------------------------------------ random errors, short calls


SHORT = r"""
/* recv and send that take a random part of what they could, or say that a signal came. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static __thread unsigned state;

static unsigned draw(unsigned below) {
    if (state == 0) state = (unsigned)(size_t)&state / 64 | 1;
    state = state * 1103515245u + 12345u;
    return (state >> 8) % below;
}
static int disturbed(int flags) {
    unsigned what = draw(10);
    if (what == 0) errno = EINTR;
    else if (what == 1 && flags & MSG_DONTWAIT) errno = EAGAIN;
    else return 0;
    return 1;
}
static int is_stream(int fd) {
    int kind = 0;
    socklen_t size = sizeof kind;
    return getsockopt(fd, SOL_SOCKET, SO_TYPE, &kind, &size) == 0 && kind == SOCK_STREAM;
}
static size_t less(size_t n) { return n > 1 ? 1 + draw(n < 5000 ? (unsigned)n : 5000) : n; }

ssize_t recv(int fd, void *p, size_t n, int flags) {
    static ssize_t (*real)(int, void *, size_t, int);
    if (real == NULL) real = dlsym(RTLD_NEXT, "recv");
    if (disturbed(flags)) return -1;
    return real(fd, p, is_stream(fd) && !(flags & MSG_WAITALL) ? less(n) : n, flags);
}
ssize_t send(int fd, const void *p, size_t n, int flags) {
    static ssize_t (*real)(int, const void *, size_t, int);
    if (real == NULL) real = dlsym(RTLD_NEXT, "send");
    if (disturbed(flags)) return -1;
    return real(fd, p, is_stream(fd) ? less(n) : n, flags);
}
static struct msghdr shorter(const struct msghdr *m, struct iovec *iov) {
    struct msghdr some = *m;
    iov[0] = m->msg_iov[0];
    iov[0].iov_len = less(iov[0].iov_len);
    some.msg_iov = iov;
    some.msg_iovlen = 1;
    return some;
}
ssize_t recvmsg(int fd, struct msghdr *m, int flags) {
    static ssize_t (*real)(int, struct msghdr *, int);
    struct iovec iov[1];
    if (real == NULL) real = dlsym(RTLD_NEXT, "recvmsg");
    if (disturbed(flags)) return -1;
    if (!is_stream(fd) || m->msg_control != NULL || m->msg_iovlen == 0)
        return real(fd, m, flags);
    struct msghdr some = shorter(m, iov);
    return real(fd, &some, flags);
}
ssize_t sendmsg(int fd, const struct msghdr *m, int flags) {
    static ssize_t (*real)(int, const struct msghdr *, int);
    struct iovec iov[1];
    if (real == NULL) real = dlsym(RTLD_NEXT, "sendmsg");
    if (disturbed(flags)) return -1;
    if (!is_stream(fd) || m->msg_control != NULL || m->msg_iovlen == 0)
        return real(fd, m, flags);
    struct msghdr some = shorter(m, iov);
    return real(fd, &some, flags);
}
"""


@pytest.mark.case("P14")
@pytest.mark.parametrize("kind", ["tcp", "tls", "remote"])
def test_calls_that_do_less_than_asked_cost_nothing_p14(
    tmp_path: Path, certificate: dict[str, str], kind: str
) -> None:
    """Short reads and writes of any length, EINTR and EAGAIN, all at random."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    library = tmp_path / "short.so"
    (tmp_path / "short.c").write_text(SHORT)
    subprocess.run(
        [compiler, "-O1", "-shared", "-fPIC", "-o", library, tmp_path / "short.c", "-ldl"],
        check=True,
    )
    env = {**certificate, "LD_PRELOAD": str(library)}
    assert run([], env, kind, 5) == (5, 0)


@pytest.mark.case("P15")
@pytest.mark.parametrize(
    ("kind", "probability", "count"),
    [("tcp-small", 0.1, 1000), ("tls-small", 0.1, 300), ("tcp", 0.01, 60), ("tls", 0.005, 60)],
)
def test_random_errors_end_only_the_connection_that_meets_them_p15(
    certificate: dict[str, str], kind: str, probability: float, count: int
) -> None:
    """Whatever the number says: each exchange is exact, or an error that may be."""
    fiu = [require_peer("fiu-run"), "-x"]
    for call in ("recv", "recvmsg", "send", "sendmsg"):
        fiu += ["-c", f"enable_random name=posix/io/net/{call},probability={probability}"]
    done, met = run(
        fiu, certificate, kind, count, (*BROKEN, "TimeoutError", "OSError", "IncompleteFrame")
    )
    assert done >= 5
    assert met >= 5
