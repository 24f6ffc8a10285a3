"""The latest events of each account, kept so that a client that was cut off receives what it missed.

Every event has an offset, a string that its receivers remember. Offsets begin with a random prefix, so that those of
another process, or of this one before a restart, are unknown (docs/protocol.md, section 21).
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import msgspec

from happy_light.bus import Audience
from happy_light.clients.packets import Packet

ACCOUNT_EVENTS_MAX: Final = 2_000  # events that are kept for one account
ACCOUNT_BYTES_MAX: Final = 4_000_000  # bytes that are kept for one account
TOTAL_BYTES_MAX: Final = 64_000_000  # bytes that are kept for all accounts

_EVENT_COST: Final = 200  # bytes by which an event counts more than its packet has
_DIGITS_MAX: Final = 18


class RecentEvent(msgspec.Struct, frozen=True):
    """One event as it was sent. `skip` is the id of the socket that must not receive it."""

    number: int
    audience: Audience
    packet: Packet
    skip: str | None


class _Account:
    __slots__ = ("events", "forgotten", "holders", "last", "size")

    def __init__(self) -> None:
        self.holders = 0
        self.last = 0  # number of the last event
        self.forgotten = 0  # number of the last event that is no longer kept although nothing replaces it
        self.size = 0  # bytes
        self.events: OrderedDict[int | str, RecentEvent] = OrderedDict()
        """In order of their numbers; by number, or by what they replace. A dict would be slow to forget its first."""


class RecentEvents:
    """The events of the accounts that somebody holds: one holder for each connection that may come back."""

    def __init__(self) -> None:
        self._prefix = secrets.token_urlsafe(6) + "."
        self._offset = b',"' + self._prefix.encode() + b'%d"'
        self._accounts: dict[str, _Account] = {}
        self.size = 0
        """How many bytes are kept."""

    def hold(self, account_id: str) -> None:
        """Keep the events of an account from now on, until `release` has been called as often."""
        account = self._accounts.get(account_id)
        if account is None:
            account = self._accounts[account_id] = _Account()
        account.holders += 1

    def release(self, account_id: str) -> None:
        """Undo one `hold`."""
        account = self._accounts[account_id]
        account.holders -= 1
        if not account.holders:
            self.size -= account.size
            del self._accounts[account_id]

    def is_held(self, account_id: str) -> bool:
        """Return whether the events of an account are kept."""
        return account_id in self._accounts

    def add(
        self,
        audience: Audience,
        encode: Callable[[bytes], Packet],
        skip: str | None,
        replaces: str | None,
        seq: int | None = None,
    ) -> Packet:
        """Return the packet of an event, and keep it; `seq` is that of an update.

        `encode` makes the packet of its last argument, the offset as JSON after a comma. The account must be held. Of
        events with the same `replaces` only the latest is kept.
        """
        account = self._accounts[audience.account_id]
        account.last = number = account.last + 1
        packet = encode(self._offset % number)
        key = number if replaces is None else replaces
        replaced = account.events.pop(key, None)
        account.events[key] = RecentEvent(number, audience, packet, skip)
        self._resize(account, len(packet.frame) - (len(replaced.packet.frame) if replaced else -_EVENT_COST))
        while len(account.events) > ACCOUNT_EVENTS_MAX or account.size > ACCOUNT_BYTES_MAX:
            self._forget_oldest(account)
        while self.size > TOTAL_BYTES_MAX:
            self._forget_all(next(each for each in self._accounts.values() if each.events))
        return packet

    def since(self, account_id: str, offset: str) -> list[RecentEvent] | None:
        """Return the events after an offset, oldest first; None if the offset is unknown or an event is missing."""
        account = self._accounts.get(account_id)
        digits = offset.removeprefix(self._prefix)
        if account is None or digits == offset or not digits.isascii() or not digits.isdigit():
            return None
        if len(digits) > _DIGITS_MAX or not account.forgotten <= (number := int(digits)) <= account.last:
            return None
        missed: list[RecentEvent] = []
        for event in reversed(account.events.values()):
            if event.number <= number:
                break
            missed.append(event)
        missed.reverse()
        return missed

    def _forget_oldest(self, account: _Account) -> None:
        _, event = account.events.popitem(last=False)
        account.forgotten = event.number
        self._resize(account, -len(event.packet.frame) - _EVENT_COST)

    def _forget_all(self, account: _Account) -> None:
        account.events.clear()
        account.forgotten = account.last
        self._resize(account, -account.size)

    def _resize(self, account: _Account, change: int) -> None:
        account.size += change
        self.size += change
