"""The network part of `doctor`: what answers at the port, and whether PUBLIC_URL leads to this server."""

from __future__ import annotations

import contextlib
import http.client
import json
import secrets
import socket
import ssl
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import SplitResult, urlsplit

from happy_light.admin.doctor_local import DRIFT_MAX
from happy_light.admin.finding import Finding
from happy_light.admin.probe import Prober, ProbeResult
from happy_light.config import Settings
from happy_light.http import addresses
from happy_light.http.body import SIZE_MAX
from happy_light.http.forwarded import is_trusted

_TIMEOUT: Final = 10.0  # s for each step
_ANSWER_MAX: Final = 100_000  # bytes
_BODY: Final = 8 * 1024 * 1024  # bytes of a body that is sent
_ANNOUNCED_TIMEOUT: Final = 3.0  # s until a body that is only announced is taken to be accepted
_NO_TOKEN: Final = 401  # the answer of this server to a request without a token
_SOCKETS: Final = "/v1/updates/?EIO=4&transport="
_CONNECT: Final = '40{"token":""}'
_CONNECT_ERROR: Final = "44"  # the answer to a CONNECT without a token
_UPGRADE: Final = (
    "The proxy has to pass upgrades on. nginx: proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; "
    'proxy_set_header Connection "upgrade"; Caddy and Traefik do so by default.'
)


class _Unreachable(Exception):
    """There is no answer as expected; the text says what happened."""


def check(settings: Settings, prober: Prober | None) -> Iterator[Finding]:
    """Run every check of the network; `prober` is that of the running server, None if none runs."""
    yield from _port(settings, prober)
    if settings.public_url is None:
        yield Finding("public url", "ok", "PUBLIC_URL is not set: clients use the address of the computer.")
    elif prober is None:
        text = f"Whether {settings.public_url} leads here can only be seen while the server runs."
        yield Finding("public url", "warning", text, "Start the server and run doctor again.")
    else:
        yield from _public_url(settings, settings.public_url, prober)
    if settings.push_enabled:
        yield from _expo(settings.expo_url)


def _port(settings: Settings, prober: Prober | None) -> Iterator[Finding]:
    if settings.port == 0:
        yield Finding("port", "ok", "PORT is 0: the server takes any free port.")
        return
    url = addresses.url(settings, addresses.reachable(settings.host)[0], settings.port)
    if prober is None:
        parts = urlsplit(url)
        try:
            socket.create_connection((str(parts.hostname), settings.port), _TIMEOUT).close()
        except OSError:
            yield Finding("port", "ok", f"No server runs, and port {settings.port} is free for it.")
            return
        text = f"No server runs on {settings.data_dir}, but something else listens at port {settings.port}."
        yield Finding("port", "problem", text, "Stop what uses it, or choose another PORT.")
        return
    try:
        result = _probe(prober, url, ours=True)
    except _Unreachable as error:
        text = f"The server runs, but does not answer at {url}: {error}."
        yield Finding("port", "problem", text, "Give doctor the HOST and PORT that the server has; see its log.")
        return
    if not result.arrived:
        yield Finding(
            "port", "problem", f"Another server answers at {url}.",
            "Give doctor the PORT that this server has, or stop the other one.",
        )  # fmt: skip
        return
    yield Finding("port", "ok", f"The server answers at {url}.")


# -------------------------------------------------------------------------------------- PUBLIC_URL
def _public_url(settings: Settings, url: str, prober: Prober) -> Iterator[Finding]:
    try:
        result = _probe(prober, url)
    except _Unreachable as error:
        text = f"PUBLIC_URL {url} does not lead to this server: {error}."
        yield Finding("public url", "problem", text, "Check PUBLIC_URL, DNS, the certificate and the proxy's target.")
        return
    if not result.arrived:
        text = f"PUBLIC_URL {url} leads to another server."
        yield Finding("public url", "problem", text, "Let it point to this one, or change PUBLIC_URL.")
        return
    yield Finding("public url", "ok", f"PUBLIC_URL {url} leads to this server.")
    yield from _headers(settings, url, result)
    for name, attempt, cure in (
        ("polling", _polling, "The proxy has to pass /v1/updates/ on with its query, GET and POST, uncached."),
        ("websocket", _websocket, _UPGRADE),
    ):
        try:
            attempt(urlsplit(url))
        except _Unreachable as error:
            yield Finding(name, "problem", f"No {name} connection through {url}: {error}.", cure)
        else:
            yield Finding(name, "ok", f"A {name} connection through {url} works in both directions.")
    yield _bodies(url)


def _headers(settings: Settings, url: str, result: ProbeResult) -> Iterator[Finding]:
    parts, seen = urlsplit(url), result.headers
    hosts = {seen.get("host", ""), seen.get("x-forwarded-host", "")}
    wrong = False
    if parts.netloc not in hosts:
        wrong = True
        text = f"Requests for {parts.netloc} arrive with Host {seen.get('host', 'missing')}."
        yield Finding("proxy", "warning", text, "nginx: proxy_set_header Host $http_host;")
    direct = settings.tls_cert is not None or parts.scheme == "http"
    proto = seen.get("x-forwarded-proto", "" if not direct else parts.scheme)
    if proto != parts.scheme:
        wrong = True
        text = f"Requests for {url} arrive with X-Forwarded-Proto {proto or 'missing'}."
        yield Finding("proxy", "warning", text, "nginx: proxy_set_header X-Forwarded-Proto $scheme;")
    forwarded = any(name in seen for name in ("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"))
    if forwarded and not is_trusted(result.address, settings.trusted_proxies):
        wrong = True
        text = f"The proxy at {result.address} is not trusted, so its X-Forwarded headers are ignored."
        yield Finding("proxy", "warning", text, f"Add {result.address} to TRUSTED_PROXIES.")
    if not wrong:
        yield Finding("proxy", "ok", "Host and scheme arrive as they were sent.")


def _probe(prober: Prober, url: str, *, ours: bool = False) -> ProbeResult:
    """Send a probe to `url` and ask the running server what arrived. Raises _Unreachable."""
    word = secrets.token_hex(16)
    prober.announce(word)
    with _http(urlsplit(url), ours) as connection:
        status, headers, body = _request(connection, "GET", urlsplit(url).path + "/health", {"x-happy-echo": word})
    if 300 <= status < 400:
        raise _Unreachable(f"it redirects to {headers.get('location', 'nowhere')}")
    try:
        service = json.loads(body).get("service")
    except (ValueError, AttributeError):
        service = None
    if service != "happy-server":
        raise _Unreachable(f"it answers {status}, and is no Happy server")
    return prober.result(word)


@contextlib.contextmanager
def _http(parts: SplitResult, ours: bool = False) -> Iterator[http.client.HTTPConnection]:
    """Yield a connection; `ours`: accept any certificate, for a connection within this computer."""
    host = str(parts.hostname)
    connection = (
        http.client.HTTPSConnection(host, parts.port, timeout=_TIMEOUT, context=_context(ours))
        if parts.scheme == "https"
        else http.client.HTTPConnection(host, parts.port, timeout=_TIMEOUT)
    )
    with contextlib.closing(connection):
        yield connection


def _context(ours: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ours:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _request(
    connection: http.client.HTTPConnection, method: str, path: str, headers: dict[str, str], body: str | None = None
) -> tuple[int, http.client.HTTPMessage, str]:
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read(_ANSWER_MAX).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        raise _Unreachable(str(error) or type(error).__name__) from None


def _polling(parts: SplitResult) -> None:
    """Send a packet over polling and receive the answer. Raises _Unreachable."""
    path = f"{parts.path}{_SOCKETS}polling"
    with _http(parts) as connection:
        status, _, opened = _request(connection, "GET", path, {})
        if status != 200 or not opened.startswith("0{"):
            raise _Unreachable(f"the handshake is answered with {status}")
        path += f"&sid={json.loads(opened[1:])['sid']}"
        kind = {"content-type": "text/plain;charset=UTF-8"}
        status, _, said = _request(connection, "POST", path, kind, _CONNECT)
        if status != 200 or said.lower() != "ok":
            raise _Unreachable(f"what is posted is answered with {status}")
        status, _, said = _request(connection, "GET", path, {})
        if not said.startswith(_CONNECT_ERROR):
            raise _Unreachable(f"the answer does not come back ({status})")


def _websocket(parts: SplitResult) -> None:
    """Send a packet over a websocket and receive the answer. Raises _Unreachable."""
    from wsproto import ConnectionType, WSConnection
    from wsproto.events import AcceptConnection, CloseConnection, Event, RejectConnection, Request, TextMessage
    from wsproto.utilities import ProtocolError

    secure = parts.scheme == "https"
    host = str(parts.hostname)
    try:
        raw = socket.create_connection((host, parts.port or (443 if secure else 80)), _TIMEOUT)
        with contextlib.closing(
            _context(False).wrap_socket(raw, server_hostname=parts.hostname) if secure else raw
        ) as s:
            client = WSConnection(ConnectionType.CLIENT)
            s.sendall(client.send(Request(host=parts.netloc, target=f"{parts.path}{_SOCKETS}websocket")))

            def receive(kind: type[Event]) -> Event:
                while True:
                    for event in client.events():
                        if isinstance(event, RejectConnection):
                            raise _Unreachable(f"the upgrade is answered with {event.status_code}")
                        if isinstance(event, CloseConnection):
                            raise _Unreachable("it is closed")
                        if isinstance(event, kind):
                            return event
                    piece = s.recv(65_536)
                    if not piece:
                        raise _Unreachable("the connection ends")
                    client.receive_data(piece)

            receive(AcceptConnection)
            receive(TextMessage)
            s.sendall(client.send(TextMessage(_CONNECT)))
            answer = receive(TextMessage)
            assert isinstance(answer, TextMessage)
            if not answer.data.startswith(_CONNECT_ERROR):
                raise _Unreachable("the answer does not come back")
    except (OSError, ProtocolError) as error:
        raise _Unreachable(str(error) or type(error).__name__) from None


def _bodies(url: str) -> Finding:
    """Check that large bodies get through: one is sent, and one as large as the server takes is announced."""
    cure = "Let the proxy take bodies of 100 MiB. nginx: client_max_body_size 100m; Caddy and Traefik have no limit."
    try:
        status = _post(url, _BODY, _BODY)
        if status != _NO_TOKEN:
            text = f"A body of {_BODY // 2**20} MiB sent to {url} is answered with {status}, not by this server."
            return Finding("large bodies", "problem", text, cure)
        with contextlib.suppress(TimeoutError):  # the proxy waits for the whole body, so it takes that
            status = _post(url, 0, SIZE_MAX)
    except (OSError, http.client.HTTPException) as error:
        text = f"A body of {_BODY // 2**20} MiB does not get through {url}: {str(error) or type(error).__name__}."
        return Finding("large bodies", "problem", text, cure)
    if status != _NO_TOKEN:
        text = f"A body of {SIZE_MAX // 2**20} MiB for {url} is refused with {status}, but the server would take it."
        return Finding("large bodies", "warning", text, cure)
    return Finding("large bodies", "ok", f"Large bodies get through {url}.")


def _post(url: str, sent: int, announced: int) -> int:
    """Send a request without a token, with so many bytes of its body, and return the status of the answer.

    Raises OSError (TimeoutError if there is no answer in time) and HTTPException.
    """
    parts = urlsplit(url)
    with _http(parts) as connection:
        connection.putrequest("POST", f"{parts.path}/v1/sessions")
        connection.putheader("content-type", "application/json")
        connection.putheader("content-length", str(announced))
        connection.endheaders()
        # A proxy that refuses the body may have closed the connection; its answer can be read all the same.
        with contextlib.suppress(ConnectionError):
            connection.send(b" " * sent)
        assert connection.sock is not None
        connection.sock.settimeout(_TIMEOUT if sent == announced else _ANNOUNCED_TIMEOUT)
        return connection.getresponse().status


def _expo(url: str) -> Iterator[Finding]:
    """Check that Expo answers, and compare the clock with its Date header."""
    parts = urlsplit(url)
    try:
        with _http(parts) as connection:
            _, headers, _ = _request(connection, "HEAD", parts.path or "/", {})
    except _Unreachable as error:
        cure = f"Let this computer reach {parts.netloc}, or turn push messages off: HAPPY_SERVER_LIGHT_PUSH=false"
        yield Finding("push", "warning", f"Expo at {parts.netloc} cannot be reached: {error}.", cure)
        return
    yield Finding("push", "ok", f"Expo at {parts.netloc} can be reached.")
    with contextlib.suppress(TypeError, ValueError):
        drift = time.time() - parsedate_to_datetime(headers["date"]).timestamp()
        if abs(drift) > DRIFT_MAX:
            text = f"The clock differs from that of {parts.netloc} by {drift:.0f} s."
            yield Finding("clock", "problem", text, "Set the clock, and let it be kept (timedatectl set-ntp true).")
