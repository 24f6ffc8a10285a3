"""How much one address or one account may ask for at a time. Kept in memory, and bounded itself.

Before sign-in an address is all that is known of a caller; this computer's own callers are not counted.
After it the account is: its sockets, and the bytes of its requests that are in memory at once.
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from typing import Final

from starlette.types import Scope

from happy_light.config import Settings
from happy_light.errors import TOO_MANY_REQUESTS, ApiError
from happy_light.http.forwarded import is_trusted

ADDRESSES_MAX: Final = 50_000  # addresses remembered; the one that was quiet for longest is forgotten
FREE: Final = 64 * 1024  # bytes of a body that count for nothing: small requests are never refused for it


class Limits:
    """What is counted for one server. Every limit is a setting; 0 switches it off."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Address: (requests it may still make, the monotonic s of that)."""
        self._strangers: dict[str, int] = {}
        self._bodies: dict[str, int] = {}

    def address(self, scope: Scope) -> str:
        """Who is calling, behind trusted proxies: the last address that no trusted proxy has; "" for this computer.

        An IPv6 caller has a whole network of addresses, so the network counts.
        """
        client = scope.get("client")
        found = client[0] if client else ""
        trusted = self._settings.trusted_proxies
        if is_trusted(found, trusted):
            chain = b",".join(value for name, value in scope["headers"] if name == b"x-forwarded-for")
            for part in reversed(chain.decode("latin-1").split(",")):
                if not part.strip():
                    continue
                found = part.strip()
                if not is_trusted(found, trusted):
                    break
        try:
            ip = ipaddress.ip_address(found.partition("%")[0])
        except ValueError:
            return "unknown" if found else ""
        if isinstance(ip, ipaddress.IPv6Address):
            if ip.ipv4_mapped is None:
                return "" if ip.is_loopback else str(ipaddress.ip_network((int(ip), 64), strict=False))
            ip = ip.ipv4_mapped
        return "" if ip.is_loopback else str(ip)

    def request(self, scope: Scope) -> None:
        """Counts a request without a token. Raises Refused (429) past so many a minute from one address."""
        allowed = self._settings.sign_in_rate
        address = self.address(scope)
        if not allowed or not address:
            return
        now = time.monotonic()
        left, at = self._buckets.pop(address, (float(allowed), now))
        left = min(allowed, left + (now - at) * allowed / 60)
        self._buckets[address] = (left - 1 if left >= 1 else left, now)
        if len(self._buckets) > ADDRESSES_MAX:
            self._buckets.popitem(last=False)
        if left < 1:
            raise ApiError(TOO_MANY_REQUESTS)

    def crowded(self, scope: Scope) -> bool:
        """Whether an address has as many connections that are not signed in as it may."""
        allowed = self._settings.stranger_connections
        return bool(allowed) and self._strangers.get(self.address(scope), 0) >= allowed

    def stranger(self, address: str) -> None:
        """A connection from there is not signed in, from now until `known`."""
        if address:
            self._strangers[address] = self._strangers.get(address, 0) + 1

    def known(self, address: str) -> None:
        """It has signed in, or is gone."""
        count = self._strangers.get(address, 0)
        if count > 1:
            self._strangers[address] = count - 1
        else:
            self._strangers.pop(address, None)

    def sockets(self, count: int) -> bool:
        """Whether an account with `count` sockets may have another."""
        return not self._settings.account_sockets or count < self._settings.account_sockets

    def hold(self, account_id: str, size: int) -> None:
        """`size` more bytes of a request's body are in memory. Raises Refused (429) if the account has too many."""
        held = self._bodies.get(account_id, 0) + size
        if self._settings.account_bodies and held > self._settings.account_bodies:
            raise ApiError(TOO_MANY_REQUESTS)
        self._bodies[account_id] = held

    def release(self, account_id: str, size: int) -> None:
        """The request is answered."""
        held = self._bodies.get(account_id, 0) - size
        if held > 0:
            self._bodies[account_id] = held
        else:
            self._bodies.pop(account_id, None)
