"""Listening sockets: TCP for clients and metrics, a unix socket for the admin API."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from happy_light.data_dir import socket_address
from happy_light.errors import OperatorError
from happy_light.stack.hypercorn_server import BACKLOG

_Found = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[Any, ...]]


def bind(host: str, port: int, reuse_port: bool = False) -> socket.socket:
    """Return a socket that listens on `host` and `port` (0: any free one). Raises OperatorError.

    `reuse_port`: other processes may listen there too, and the kernel gives each of them some of the connections.
    """
    try:
        found = _look_up(host, port)
    except OSError as error:
        raise OperatorError(f"HOST is {host!r}, which is no address of this computer: {error.strerror}.") from error
    try:
        return _listen(found[0], reuse_port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            text = f"Port {port} of {host} is taken; stop what uses it, or choose another with --port (0: any)."
        elif error.errno == errno.EACCES:
            text = f"Port {port} needs more rights; choose one above 1023 with --port."
        elif error.errno == errno.EADDRNOTAVAIL:
            text = f"HOST {host!r} is no address of this computer; 0.0.0.0 stands for all that it has."
        else:
            text = f"HOST {host!r} and port {port} cannot be bound: {error.strerror}."
        raise OperatorError(text) from error


def bind_metrics(host: str, port: int) -> socket.socket:
    """Return a socket that listens on `host` and `port`. Raises OSError."""
    return _listen(_look_up(host, port)[0])


def bind_unix(path: Path) -> socket.socket:
    """Return a socket that listens at `path`, for its owner only (mode 0600). Raises OSError.

    A socket that a killed server left is replaced: call it only with the data folder locked.
    """
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with socket_address(path) as address:
            listener.bind(address)
        path.chmod(0o600)  # before it listens, so that nobody connects in between
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def answers_unix(path: Path) -> bool:
    """Return whether a process listens at `path`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            with socket_address(path) as address:
                probe.connect(address)
        except OSError:
            return False
        return True


def _look_up(host: str, port: int) -> Sequence[_Found]:
    """Return what getaddrinfo finds. Raises OSError."""
    name = host.encode() if host.isascii() else host  # for text, Python would import the tables of IDNA
    return socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)


def _listen(found: _Found, reuse_port: bool = False) -> socket.socket:
    """Return a socket that listens at what getaddrinfo found. Raises OSError."""
    *kind, _, address = found
    listener = socket.socket(*kind)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener
