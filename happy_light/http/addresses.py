"""Which URLs reach a server that is bound to an address."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from happy_light.config import Settings

_SIOCGIFADDR = 0x8915  # Linux: the IPv4 address of an interface
_INNER = ("docker", "br-", "veth", "virbr", "cni", "podman")  # bridges that only this computer's containers see


def is_wildcard(host: str) -> bool:
    """Whether the address means every interface."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_unspecified
    return host == ""


def is_loopback(host: str) -> bool:
    """Whether only this computer reaches the address."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def url(settings: Settings, host: str, port: int) -> str:
    """The URL of an address, in the scheme that the server speaks."""
    scheme = "https" if settings.tls_cert else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def reachable(host: str) -> list[str]:
    """The addresses that reach a server bound to `host`: this computer's way first, then the local network's."""
    if not is_wildcard(host):
        return [host]
    found = ["127.0.0.1", *_ipv4()]
    if ":" in host:
        found += _ipv6()
    return list(dict.fromkeys(found))


def _ipv4() -> Iterator[str]:
    """This computer's addresses; where interfaces cannot be listed, the one that leads out."""
    names: list[tuple[int, str]] = []
    with contextlib.suppress(OSError, AttributeError):
        names = socket.if_nameindex()
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in names:
            if name.startswith(_INNER):
                continue
            with contextlib.suppress(OSError):
                answer = fcntl.ioctl(asking, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                address = socket.inet_ntoa(answer[20:24])
                if not is_loopback(address):
                    yield address
        with contextlib.suppress(OSError):
            asking.connect(("192.0.2.1", 9))  # sends nothing; only asks which address would be used
            yield asking.getsockname()[0]


def _ipv6() -> Iterator[str]:
    """This computer's global addresses, on Linux."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/net/if_inet6").read_text("ascii").splitlines():
            digits, _, _, scope, flags, name = line.split()
            # Global scope, neither temporary (0x01) nor still tentative (0x40).
            if scope == "00" and not int(flags, 16) & 0x41 and not name.startswith(_INNER):
                yield str(ipaddress.IPv6Address(bytes.fromhex(digits)))
