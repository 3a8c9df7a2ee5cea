"""TLS and keys on the command line, through real processes: who is let in, and who is not."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import ssl
import subprocess
from pathlib import Path

import pytest

import certificates
import pysock
import secured
from certificates import Files
from conftest import linux, unix
from peers import run_python
from programs import LIMIT, TELL, Program, processes, serving, until
from secured import APP, given, known, refused, run, send, told, write

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="signals of POSIX")

certs = certificates.certs
secrets = secured.secrets
own_address = secured.own_address

NOBODY = 65534


# ------------------------------------------------------------ TLS


def test_server_is_known_by_pin_or_file(tmp_path, certs):
    pin = certs.server.pin
    colons = ":".join(pin.upper()[i : i + 2] for i in range(0, 64, 2))
    with told(tmp_path, *given(certs.server)) as served:
        assert served.address.startswith("tls://127.0.0.1:")
        plain = served.address.replace("tls://", "")
        for options in (
            ["--pin", pin],
            ["--pin", colons],
            ["--pin", "00" * 32, "--pin", pin],
            ["--ca", certs.ca],
            ["--ca", certs.ca, "--pin", pin],
            ["--ca", certs.ca, "--server-hostname", "localhost"],
        ):
            for address in (served.address, plain):
                assert known(send(address, *options)) == (None, "TLSv1.3", {})
        assert served.stop() == 0
        assert "WARNING" not in served.said


def test_server_that_is_another_one_is_refused(tmp_path, certs):
    with told(tmp_path, *given(certs.server)) as served:
        wrong = send(served, "--pin", "ab" * 32)
        refused(wrong, f"certificate's pin is {certs.server.pin}, expected {'ab' * 32}; ")
        refused(send(served, "--ca", certs.other_ca), r"pass its CA as --ca \(or .* --pin\)")
        refused(send(served), r"certificate is refused: .* pass its CA as --ca")
        named = ["--ca", certs.ca, "--server-hostname", "elsewhere.example.org"]
        refused(send(served, *named), "Hostname mismatch.*; pass .* as --server-hostname")
        assert served.stop() == 0


def test_name_that_is_not_the_address_s(tmp_path, certs):
    with told(tmp_path, *given(certs.wrong_name)) as served:
        refused(send(served, "--ca", certs.ca), "IP address mismatch")
        options = ["--ca", certs.ca, "--server-hostname", "elsewhere.example.org"]
        assert known(send(served, *options)) == (None, "TLSv1.3", {})


def test_one_file_may_hold_certificate_and_key(tmp_path, certs):
    text = certs.server.key.read_text() + certs.server.certificate.read_text()
    both = write(tmp_path / "both.pem", text)
    with told(tmp_path, "--certificate", both) as served:
        assert known(send(served, "--ca", certs.ca)) == (None, "TLSv1.3", {})


def test_plain_and_encrypted_do_not_meet(tmp_path, certs):
    with told(tmp_path, *given(certs.server)) as served:
        refused(
            send(served.address.replace("tls://", "")), r"TLS server's alert \(use tls://\)"
        )
        served.has_said("WARNING 127.0.0.1:[0-9]+: the client's bytes are not TLS")
    with told(tmp_path, "--bind", "127.0.0.1:0") as served:
        address = served.address.replace("tcp://", "tls://")
        refused(send(address, "--ca", certs.ca), "server closed .* it does not speak TLS")


def test_client_shows_its_certificate(tmp_path, certs):
    named = certs.issue("alice@example.org", common_name="alice")
    options = [*given(certs.server), "--client-ca", certs.ca]
    with told(tmp_path, *options) as served:
        trust = ["--ca", certs.ca]
        user = known(send(served, *trust, *given(named)))
        assert user[:2] == (None, "TLSv1.3") and user[2]["commonName"] == "alice"
        refused(send(served, *trust), "demands a certificate: pass --certificate and --key$")
        stranger = given(certs.of_other_ca)
        refused(send(served, *trust, *stranger), "certificate")
        assert served.stop() == 0


def test_tls_1_2_is_spoken_where_it_is_allowed(tmp_path, certs):
    old = certs.client_context(minimum="1.2")
    old.maximum_version = ssl.TLSVersion.TLSv1_2

    def ask(served: Program) -> bytes:
        with served.client(tls=old) as client:
            return client.request(b"hi")

    with told(tmp_path, *given(certs.server)) as served, pytest.raises(ssl.SSLError):
        ask(served)
    with told(tmp_path, *given(certs.server), "--tls12") as served:
        assert eval(ask(served))[1] == "TLSv1.2"
        assert known(send(served, "--ca", certs.ca))[1] == "TLSv1.3"


def test_old_server_is_spoken_to_where_that_is_allowed(certs):
    old = certs.server_context(minimum="1.2")
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pysock.Server("tls://127.0.0.1:0", bytes.upper, tls=old).start() as server:
        refused(send(str(server.address), "--ca", certs.ca), "; --tls12 allows TLS 1.2")
        assert send(str(server.address), "--ca", certs.ca, "--tls12") == (0, "HI\n", "")


# ------------------------------------------------------------ keys


def test_client_with_the_key_is_let_in(tmp_path, certs, secrets):
    options = [*given(certs.server), "--authkey", secrets.authkey]
    with told(tmp_path, *options) as served:
        trust = ["--pin", certs.server.pin]
        assert known(send(served, *trust, "--authkey", secrets.authkey)) == ("", "TLSv1.3", {})
        for wrong in (
            ["--authkey", secrets.other],
            ["--authkey", secrets.authkey, "--user=x"],
        ):
            refused(send(served, *trust, *wrong), "the server refused the key")
        refused(send(served, *trust), "the server closed the connection")
        plain = served.address.replace("tls://", "")
        refused(send(plain, "--authkey", secrets.authkey), r"alert \(use tls://\)")
        assert known(send(served, *trust, "--authkey", secrets.authkey)) == ("", "TLSv1.3", {})
        assert served.stop() == 0


def test_server_without_the_key_is_not_talked_to(tmp_path, certs, secrets):
    with told(tmp_path, *given(certs.server)) as served:
        options = ["--pin", certs.server.pin, "--authkey", secrets.authkey]
        refused(send(served, *options), "proof")


def test_users_have_keys_of_their_own(tmp_path, certs, secrets):
    options = [*given(certs.server), "--users", secrets.users]
    with told(tmp_path, *options) as served:
        trust = ["--pin", certs.server.pin]
        for user, file in (("alice", "authkey"), ("bob", "bob"), ("bob", "new-bob")):
            theirs = ["--user", user, "--authkey", tmp_path / file]
            assert known(send(served, *trust, *theirs)) == (user, "TLSv1.3", {})
        for user, file in (("alice", "bob"), ("carol", "authkey"), ("", "authkey")):
            theirs = ["--user", user, "--authkey", tmp_path / file]
            refused(send(served, *trust, *theirs), f"refused the key \\(user '{user}'\\)")


@pytest.mark.case("T28")
def test_key_without_tls_stays_on_this_machine(tmp_path, secrets, own_address):
    options = ["--authkey", secrets.authkey]
    with told(tmp_path, *options, "--bind", "127.0.0.1:0") as served:
        assert known(send(served, *options)) == ("", None, {})
    done = run("serve", "app:tell", *options, "--bind", "0.0.0.0:0", folder=tmp_path)
    assert done.status == 2
    assert re.search(r"without TLS: .*; pass --certificate, or --insecure\n$", done.err)

    with told(tmp_path, *options, "--bind", "0.0.0.0:0", "--insecure") as served:
        address = served.address.replace("0.0.0.0", own_address)
        assert known(send(address, *options, "--insecure")) == ("", None, {})
        done = send(address, *options)
        assert (done.status, done.out) == (2, "")
        assert re.search(r"without TLS, .*: use tls://, or --insecure\n$", done.err)


# ------------------------------------------------------------ several processes


def test_workers_have_what_the_master_has_read(tmp_path, certs, secrets):
    """Also those that start when the files are gone."""
    files = Files(*(shutil.copy(path, tmp_path) for path in certs.server))
    arguments = [*given(files), "--authkey", secrets.authkey]
    arguments += ["--processes", "2", "--bind", "tls://127.0.0.1:0"]
    key = bytes.fromhex(secrets.keys[0])
    with serving(tmp_path, "app:do", *arguments, app=APP) as served:
        served.client = lambda: pysock.Client(  # type: ignore[method-assign]
            served.address, timeout=LIMIT, tls=certs.client_context(), authkey=key
        )
        before = set(served.workers(2))
        for path in (*files, secrets.authkey):
            os.unlink(path)
        served.send_signal(signal.SIGHUP)
        served.has_said("all workers are replaced")
        until(lambda: not before & {pid for pid, _, _ in processes(served.pid)})
        assert int(served.ask(TELL)) not in before
        assert served.stop() == 0


# ------------------------------------------------------------ Unix sockets


@pytest.mark.case("T27")
@unix
def test_other_users_of_the_machine_are_refused(tmp_path):
    path = f"unix:{tmp_path}/s"
    me, other = os.getuid(), os.getuid() + 1
    for allowed, status in (([other], 255), ([me], 0), ([other, me], 0)):
        options = [f"--allow-uid={uid}" for uid in allowed]
        with told(tmp_path, "--bind", path, *options) as served:
            assert send(served).status == status
            if status:
                served.has_said(f"WARNING unix: refused, its uid {me} is none of allow_uids")


def test_users_of_the_machine_are_known_at_unix_sockets_only(tmp_path):
    (tmp_path / "app.py").write_text(APP)
    done = run("serve", "app:tell", "--bind=127.0.0.1:0", "--allow-uid=0", folder=tmp_path)
    assert done.status == 2
    assert done.err.startswith("pysock serve: --allow-uid is for Unix sockets, which 'tcp:")


@pytest.mark.case("T27")
@linux
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("user", ["nobody", str(NOBODY)])
def test_user_is_let_in_by_name_or_number(tmp_path, user):
    """An abstract address has no mode that would keep others away."""
    pwd = pytest.importorskip("pwd")
    if pwd.getpwnam("nobody").pw_uid != NOBODY:
        pytest.skip("nobody has another number here")
    name = f"unix:@pysock-{os.getpid()}-{user}"
    with told(tmp_path, "--bind", name, "--allow-uid", user) as served:
        refused(send(served), "closed the connection|Connection reset")
        code = """
import os, sys, pysock
with pysock.Client(sys.argv[1], timeout=10) as client:
    try:
        client.request(b"hi")
    except (pysock.ConnectionClosed, ConnectionError):
        print("refused")
os.setresuid(*[int(sys.argv[2])] * 3)
with pysock.Client(sys.argv[1], timeout=10) as client:
    print(client.request(b"hi").decode())
"""
        assert run_python(code, name, str(NOBODY)) == "refused\n(None, None, {})\n"


# ------------------------------------------------------------ what keygen makes


def test_keygen_serve_send(tmp_path, certs):
    made = run("keygen", "--user", "alice", folder=tmp_path)
    if "cryptography" in made.err:
        pytest.skip("cryptography is not installed")
    assert (made.status, made.err) == (0, "")
    (pin,) = re.findall(r"pin +([0-9a-f]{64})$", made.out, re.MULTILINE)
    (command,) = re.findall(r"its user +(.*)$", made.out, re.MULTILINE)
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True)
    files = ["--certificate", "certificate.pem", "--key", "private-key.pem"]
    with told(tmp_path, *files, "--users", "users") as served:
        options = ["--authkey", tmp_path / "authkey", "--user", "alice"]
        alice = ("alice", "TLSv1.3", {})
        assert known(send(served, "--pin", pin, *options)) == alice
        assert known(send(served, "--ca", tmp_path / "certificate.pem", *options)) == alice


# ------------------------------------------------------------ secrets stay secret


@pytest.mark.case("T29")
@linux
def test_keys_are_in_no_command_line_environment_or_log(tmp_path, certs, secrets):
    options = [*given(certs.server), "--users", secrets.users, "--processes", "2"]
    with told(tmp_path, *options, "--log-level", "debug") as served:
        trust = ["--pin", certs.server.pin, "--user", "alice"]
        benched = Program(
            tmp_path,
            ["-m", "pysock", "bench", served.address, *trust]
            + ["--authkey", secrets.authkey, "-t", "30", "-c", "4"],
        )
        try:
            served.has_said("DEBUG worker")
            until(lambda: len(processes(served.pid)) == 3)
            until(lambda: len(seen := crew()) > 1 and all(len(text) > 100 for text in seen))
            refused(send(served, *trust, "--authkey", secrets.other), "refused the key")
            groups = [*processes(served.pid), *processes(benched.pid)]
            shown = [of_process(pid) for pid, _, _ in groups] + crew()
        finally:
            benched.kill()
        assert any("--authkey" in text for text in shown)
        assert served.stop() == 0
        everything = " ".join([*shown, served.said, benched.said])
        for key in secrets.keys:
            assert key not in everything
            assert repr(bytes.fromhex(key)) not in everything
        for line in certs.server.key.read_text().splitlines()[1:-1]:
            assert line not in everything


def of_process(pid: int) -> str:
    """What everybody, or its user, can see of a process."""
    folder = Path(f"/proc/{pid}")
    with contextlib.suppress(OSError):
        return (folder / "cmdline").read_text() + (folder / "environ").read_text()
    return ""


def crew() -> list[str]:
    """The same of each load process of `pysock bench`."""
    numbers = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    return [text for pid in numbers if "bench_crew" in (text := of_process(pid))]
