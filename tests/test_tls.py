"""HTTPS by --tls-cert and --tls-key: requests, sockets, ALPN, the health command; and what a bad file says."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import json
import signal
import socket
import ssl
from pathlib import Path

import aiohttp
import httpx
import socketio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from happy_light import certificates
from tests.client import World
from tests.conftest import SECRET, Start
from tests.test_start import command, refused


def certificate(folder: Path, name: str = "server", days: float = 1) -> tuple[Path, Path]:
    """Return a self-signed certificate for 127.0.0.1, which ends in so many days, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "happy")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / f"{name}.pem", folder / f"{name}.key"
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert_file, key_file


async def sockets_work(url: str, context: ssl.SSLContext, token: str = "") -> None:
    """Connect, call and leave, over both transports; without a token as somebody new."""
    if not token:
        async with World(url, verify=context) as world:
            token = (await world.account()).token
    for transport in ("websocket", "polling"):
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as browser:
            client = socketio.AsyncClient(reconnection=False, http_session=browser)
            auth = {"token": token, "clientType": "user-scoped"}
            await client.connect(url, auth=auth, transports=[transport], socketio_path="v1/updates", wait_timeout=20)
            assert client.transport() == transport
            await client.call("ping", timeout=20)
            with contextlib.suppress(TimeoutError):  # a poll under way may keep this client waiting
                await asyncio.wait_for(client.disconnect(), 3)


async def test_https_and_secure_sockets(start: Start, tmp_path: Path) -> None:
    """HTTP/2, which Hypercorn offers over TLS, does not go together with the websockets of the clients."""
    cert, key = certificate(tmp_path)
    server = start("--tls-cert", str(cert), "--tls-key", str(key))
    assert server.url.startswith("https://127.0.0.1:")
    context = ssl.create_default_context(cafile=str(cert))
    async with httpx.AsyncClient(verify=context, trust_env=False) as http:
        assert (await http.get(f"{server.url}/health")).json()["status"] == "ok"
    await sockets_work(server.url, context)

    port = int(server.url.rpartition(":")[2])
    context.set_alpn_protocols(["h2", "http/1.1"])
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
    ):
        assert secure.selected_alpn_protocol() == "http/1.1"

    same = ("--tls-cert", str(cert), "--tls-key", str(key), "--port", str(port))
    assert command(tmp_path, "health", *same).returncode == 0, "its own server is known without a check"
    stranger = command(tmp_path, "health", "--url", server.url)
    assert stranger.returncode == 1 and "certificate verify failed" in stranger.stderr
    assert server.stop() == 0
    assert "Traceback" not in "".join(server.log)


def test_a_stop_does_not_wait_for_clients_that_do_not_say_goodbye(start: Start, tmp_path: Path) -> None:
    """asyncio waits 30 s for the close_notify of a TLS client; a phone that lost its network sends none."""
    cert, key = certificate(tmp_path)
    server = start("--tls-cert", str(cert), "--tls-key", str(key))
    context = ssl.create_default_context(cafile=str(cert))
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as plain:
        secure = context.wrap_socket(plain, server_hostname="127.0.0.1")
        secure.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert secure.recv(100).startswith(b"HTTP/1.1 200")
        assert server.stop(timeout=15) == 0
        secure.close()
    assert "Traceback" not in "".join(server.log)


def test_a_client_that_breaks_tls_leaves_no_traceback(start: Start, tmp_path: Path) -> None:
    """asyncio reports every broken TLS record as an error of the server."""
    cert, key = certificate(tmp_path)
    server = start("--tls-cert", str(cert), "--tls-key", str(key))
    context = ssl.create_default_context(cafile=str(cert))
    for _ in range(5):
        plain = socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])))
        secure = context.wrap_socket(plain, server_hostname="127.0.0.1")
        with socket.socket(fileno=secure.detach()) as bare:
            bare.sendall(b"this is no TLS record")
            with contextlib.suppress(ConnectionError):
                while bare.recv(4096):
                    pass
    assert server.stop() == 0
    assert "Traceback" not in "".join(server.log)


def test_bad_files_are_sentences(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    _, other = certificate(tmp_path, "other")
    begin = f"TLS does not work with the certificate {cert} and the key "
    missing = refused(tmp_path / "d", "--tls-cert", str(cert), "--tls-key", str(tmp_path / "none"))
    assert missing == f"{begin}{tmp_path / 'none'}: no such file or directory."
    text = tmp_path / "text"
    text.write_text("no PEM")
    assert refused(tmp_path / "d", "--tls-cert", str(text), "--tls-key", str(key)).endswith(": they are no PEM files.")
    assert "mismatch" in refused(tmp_path / "d", "--tls-cert", str(cert), "--tls-key", str(other)).lower()
    locked = tmp_path / "locked.key"
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    locked.write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"password"),
        )
    )  # fmt: skip
    assert refused(tmp_path / "d", "--tls-cert", str(cert), "--tls-key", str(locked)).startswith(begin)


def presented(url: str) -> int:
    """Return the serial number of the certificate that a new connection gets."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 10) as plain,
        context.wrap_socket(plain) as secure,
    ):
        der = secure.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number


def serial(cert: Path) -> int:
    return x509.load_pem_x509_certificate(cert.read_bytes()).serial_number


async def until_presented(url: str, cert: Path) -> None:
    async with asyncio.timeout(10):
        while await asyncio.to_thread(presented, url) != serial(cert):
            await asyncio.sleep(0.05)


async def test_a_renewed_certificate_is_used_without_a_restart(start: Start, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    old = serial(cert)
    server = start("--tls-cert", str(cert), "--tls-key", str(key))
    async with httpx.AsyncClient(verify=ssl.create_default_context(cafile=str(cert)), trust_env=False) as before:
        assert (await before.get(f"{server.url}/health")).status_code == 200
        assert presented(server.url) == old
        new_cert, new_key = certificate(tmp_path, "new")
        new_cert.replace(cert)  # a renewal writes one file after the other
        await server.wait_for_log("the certificate in use stays: TLS does not work with the certificate")
        assert presented(server.url) == old
        new_key.replace(key)
        await until_presented(server.url, cert)
        assert (await before.get(f"{server.url}/health")).status_code == 200, "connections are not cut"


async def test_sighup_loads_the_certificate(start: Start, tmp_path: Path) -> None:
    """Here the files look the same: their inode, size and time do not tell that they changed."""
    cert, key = certificate(tmp_path)
    server = start("--tls-cert", str(cert), "--tls-key", str(key))
    server.process.send_signal(signal.SIGHUP)
    await server.wait_for_log(f"the certificate {cert} is loaded")
    assert (presented(server.url), server.process.poll()) == (serial(cert), None)


def test_what_is_wrong_with_a_certificate_is_said_in_time(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)  # valid from yesterday to tomorrow
    key.chmod(0o600)
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    assert certificates.problems(cert, key) == []
    assert "expires on" in certificates.problems(cert, key, now + 0.5 * day)[0]
    assert "expired on" in certificates.problems(cert, key, now + 2 * day)[0]
    assert "is not valid before" in certificates.problems(cert, key, now - 2 * day)[0]
    key.chmod(0o644)
    assert certificates.problems(cert, key) == [
        f"every user of this computer can read the key {key}: chmod 600 '{key}'"
    ]


async def test_a_certificate_that_expired_is_said_at_the_start_and_by_doctor(start: Start, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, days=-0.5)
    key.chmod(0o644)
    tls = ("--tls-cert", str(cert), "--tls-key", str(key))
    server = start(*tls)
    await server.wait_for_log(f"WARNING happy_light.server.tls_files: the certificate {cert} expired on ")
    await server.wait_for_log(f"every user of this computer can read the key {key}")
    examined = command(tmp_path, "doctor", "--json", "--data-dir", str(server.folder), *tls, HANDY_MASTER_SECRET=SECRET)
    found = [finding for finding in json.loads(examined.stdout) if finding["name"] == "certificate"]
    assert (examined.returncode, [finding["level"] for finding in found]) == (1, ["problem", "problem"])
    assert found[0]["text"].startswith(f"The certificate {cert} expired on ")
