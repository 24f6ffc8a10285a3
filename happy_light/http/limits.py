"""How much one address or one account may ask for at a time. Kept in memory, which is bounded as well.

Before the sign-in only the address of a client is known; clients on this computer are not counted. After it the
account counts: its sockets, and the bytes of its requests and answers that are in memory at once, whichever edge they
pass: bodies, packets of sockets while they arrive and until they are answered, and answers until they are read.
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from typing import Final

from starlette.types import Scope

from happy_light.config import Settings
from happy_light.errors import TOO_MANY_REQUESTS, ApiError
from happy_light.http.forwarded import client_address, is_trusted, parse_address

ADDRESSES_MAX: Final = 50_000  # addresses remembered; the one that was quiet for longest is forgotten


class Rates:
    """How many more times each address may do something: so many at once, and as many in each minute."""

    def __init__(self) -> None:
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """By address: how many times, and at which time (monotonic s) that was."""

    def take(self, address: str, allowed: int) -> bool:
        """Count one more time; return whether the address had one of its `allowed` times a minute left."""
        now = time.monotonic()
        left, at = self._left.pop(address, (float(allowed), now))
        left = min(allowed, left + (now - at) * allowed / 60)
        self._left[address] = (left - 1 if left >= 1 else left, now)
        if len(self._left) > ADDRESSES_MAX:
            self._left.popitem(last=False)
        return left >= 1


class Limits:
    """The counts of one server. Every limit is a setting; 0 switches it off."""

    BODY_FREE: Final = 64 * 1024  # bytes of a request that are not counted: small ones are never refused for it

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._requests = Rates()
        self._unauthenticated: dict[str, int] = {}
        """By address: its connections that are not signed in."""
        self._bodies: dict[str, int] = {}
        """By account: bytes of requests and answers in memory."""

    def address(self, scope: Scope) -> str:
        """Return what a client is counted by: its IPv4 address, or its IPv6 network of 64 bits; "" for this computer.

        An IPv6 client has a whole network of addresses to choose from.
        """
        return _key(client_address(self._settings, scope))

    def connection_key(self, peer: str) -> str:
        """Return what a connection is counted by, as `address`; "" for a trusted proxy, which has those of many."""
        return "" if is_trusted(peer, self._settings.trusted_proxies) else _key(peer)

    def count_request(self, scope: Scope) -> None:
        """Count a request without a token. Raises ApiError (429) past so many a minute from one address."""
        allowed = self._settings.sign_in_rate
        address = self.address(scope)
        if allowed and address and not self._requests.take(address, allowed):
            raise ApiError(TOO_MANY_REQUESTS)

    def refuses_connection(self, scope: Scope) -> bool:
        """Whether an address has as many connections that are not signed in as it may."""
        allowed = self._settings.stranger_connections
        return bool(allowed) and self._unauthenticated.get(self.address(scope), 0) >= allowed

    def add_unauthenticated(self, address: str) -> None:
        """Count a connection from the address that is not signed in."""
        if address:
            self._unauthenticated[address] = self._unauthenticated.get(address, 0) + 1

    def remove_unauthenticated(self, address: str) -> None:
        """Stop counting a connection that has signed in or ended."""
        count = self._unauthenticated.get(address, 0)
        if count > 1:
            self._unauthenticated[address] = count - 1
        else:
            self._unauthenticated.pop(address, None)

    def allows_socket(self, count: int) -> bool:
        """Whether an account with `count` sockets may have another."""
        return not self._settings.account_sockets or count < self._settings.account_sockets

    def reserve_body(self, account_id: str, size: int) -> None:
        """Count `size` more bytes of a request or answer. Raises ApiError (429) if the account has too many."""
        reserved = self._bodies.get(account_id, 0) + size
        if self._settings.account_bodies and reserved > self._settings.account_bodies:
            raise ApiError(TOO_MANY_REQUESTS)
        self._bodies[account_id] = reserved

    def hold_body(self, account_id: str, size: int) -> None:
        """Count `size` more bytes of a request that was admitted already."""
        self._bodies[account_id] = self._bodies.get(account_id, 0) + size

    def release_body(self, account_id: str, size: int) -> None:
        """Stop counting bytes of a request that is answered."""
        reserved = self._bodies.get(account_id, 0) - size
        if reserved > 0:
            self._bodies[account_id] = reserved
        else:
            self._bodies.pop(account_id, None)


def _key(text: str) -> str:
    """Return what an address is counted by; see Limits.address."""
    ip = parse_address(text)
    if ip is None:
        return "unknown" if text else ""
    if ip.is_loopback:
        return ""
    return str(ip) if ip.version == 4 else str(ipaddress.ip_network((int(ip), 64), strict=False))
