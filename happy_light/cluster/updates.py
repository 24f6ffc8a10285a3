"""Updates of all processes, delivered to the sockets of this one in the order of their seq.

The outbox has the truth, hints over Redis only say what it has: the sequencer decides what is next, and whatever a
lost hint left out is found by a sweep over the connected accounts and read from the outbox.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from happy_light.bus import Audience, Committed, DeviceSignedOut, SharedBus, SignedOut
from happy_light.cluster.messages import Hint
from happy_light.counters import Timing
from happy_light.errors import ServiceUnavailable
from happy_light.sequencer import Gap, Sequencer
from happy_light.store import Database, ReadTransaction

log = logging.getLogger(__name__)

SWEEP_EVERY: Final = 1.0  # s
_SWEEP_BATCH: Final = 1_000  # accounts in one statement
_GAPS_MAX: Final = 20  # reads of the outbox at a time

Position = tuple[int, int, int]
"""The seq of an account, how often it was signed out everywhere, and how often a device of it was."""


# -------------------------------------------------------------------------------------- operations
def read_positions(tx: ReadTransaction, account_ids: Sequence[str]) -> dict[str, Position]:
    """Return the positions of those of the accounts that exist."""
    sql = "SELECT id, seq, token_generation, device_sign_outs FROM accounts WHERE id = ANY(?)"
    rows = tx.fetch_all(sql, (list(account_ids),))
    return {row[0]: (row[1], row[2], row[3]) for row in rows}


def read_updates(tx: ReadTransaction, account_id: str, first: int, last: int) -> list[Committed]:
    """Return the updates of an account from seq `first` to `last` that the outbox still has, in their order."""
    rows = tx.fetch_all(
        "SELECT seq, audience, skip, frame FROM updates WHERE account_id = ? AND seq BETWEEN ? AND ? ORDER BY seq",
        (account_id, first, last),
    )
    return [Committed(Audience.of_text(account_id, text), seq, frame, skip) for seq, text, skip, frame in rows]


class UpdateFeed:
    """The updates of the accounts that are open here. `drop` closes the sockets of an account."""

    def __init__(self, database: Database, bus: SharedBus, drop: Callable[[str], None]) -> None:
        self._database = database
        self._bus = bus
        self._drop = drop
        self._loop = asyncio.get_running_loop()
        self.sequencer: Sequencer[Committed] = Sequencer(lambda update: len(update.frame))
        self._generations: dict[str, int] = {}
        self._device_sign_outs: dict[str, tuple[int, int]] = {}
        """By account: up to which number every sign-out of a device was heard of, and which the last sweep found."""
        self._timer: asyncio.Handle | None = None
        self._due = 0.0  # when it ends; uvloop's handles do not tell
        self._reads: set[asyncio.Task[None]] = set()
        self.delays = Timing()
        """How long updates that had to be read from the outbox were held back, from when they were known to be due."""
        self.hints = 0

    # ------------------------------------------------------------------------------ open and close
    async def open(self, account_id: str) -> None:
        """Deliver what is committed from now on. Raises ServiceUnavailable; the account is closed then."""
        self.sequencer.open(account_id)
        try:
            found = await self._database.read(read_positions, [account_id])
        except BaseException:
            self.sequencer.close(account_id)
            raise
        seq, generation, number = found.get(account_id, (0, 0, 0))
        self._generations[account_id] = generation
        self._device_sign_outs[account_id] = (number, number)
        self._deliver(self.sequencer.opened(account_id, seq, self._loop.time()))

    def close(self, account_id: str) -> None:
        """Deliver nothing more of an account."""
        self.sequencer.close(account_id)
        self._generations.pop(account_id, None)
        self._device_sign_outs.pop(account_id, None)

    def generation(self, account_id: str) -> int:
        """Return how often an open account was signed out everywhere."""
        return self._generations.get(account_id, -1)

    async def read(self, account_id: str, first: int, last: int) -> list[Committed]:
        """Return what the outbox has of these updates. Raises ServiceUnavailable."""
        return await self._database.read(read_updates, account_id, first, last)

    def stop(self) -> None:
        """Read nothing more."""
        if self._timer is not None:
            self._timer.cancel()
        for task in self._reads:
            task.cancel()

    # ----------------------------------------------------------------------------- what is committed
    def committed(self, update: Committed) -> None:
        """Take an update of this process."""
        self._take(update.audience.account_id, update.seq, (update,))

    def hinted(self, hint: Hint) -> None:
        """Take updates of another process."""
        self.hints += 1
        account_id = hint.account_id
        updates = [
            Committed(Audience.of_text(account_id, each.audience), seq, each.frame, each.skip)
            for seq, each in enumerate(hint.updates, hint.first)
        ]
        self._take(account_id, hint.first, updates)

    def _take(self, account_id: str, first: int, updates: Sequence[Committed]) -> None:
        self._deliver(self.sequencer.hint(account_id, first, updates, self._loop.time()))
        self._plan()

    def _deliver(self, updates: Iterable[Committed]) -> None:
        self._bus.deliver(*updates)

    # ------------------------------------------------------------------------------------------ gaps
    def _plan(self) -> None:
        """Set the timer for the next read, unless it is set for then or before."""
        when = self.sequencer.wakes()
        if when is None or (self._timer is not None and self._due <= when):
            return
        if self._timer is not None:  # for a read that was not answered by then
            self._timer.cancel()
        self._timer, self._due = self._loop.call_at(when, self._read_due), when

    def _read_due(self) -> None:
        self._timer = None
        for gap in self.sequencer.due(self._loop.time(), _GAPS_MAX - len(self._reads)):
            task = self._loop.create_task(self._read(gap))
            self._reads.add(task)
            task.add_done_callback(self._reads.discard)
        if len(self._reads) < _GAPS_MAX:
            self._plan()  # else a read that ends does

    async def _read(self, gap: Gap) -> None:
        began = self._loop.time()
        try:
            updates = await self._database.read(read_updates, gap.account_id, gap.first, gap.last)
        except Exception as error:
            if not isinstance(error, ServiceUnavailable):
                log.exception("reading the outbox")
            self.sequencer.failed(gap, self._loop.time())
        else:
            rows = [(update.seq, update) for update in updates]
            ready = self.sequencer.read(gap, rows, self._loop.time())
            if ready is None:
                log.warning("account %s: updates from %d on are too old to be delivered", gap.account_id, gap.first)
                self._drop(gap.account_id)
            else:
                self._deliver(ready)
                self.delays.add(self._loop.time() - began)
        self._plan()

    # ----------------------------------------------------------------------------------------- sweep
    async def sweep(self) -> None:
        """Look for updates and sign-outs of open accounts that this process has not heard of."""
        for account_ids in _batches(list(self.sequencer.accounts())):
            try:
                found = await self._database.read(read_positions, account_ids)
            except ServiceUnavailable:
                return  # the next sweep
            for account_id in account_ids:
                self._compare(account_id, found.get(account_id))
        self._plan()

    def _compare(self, account_id: str, position: Position | None) -> None:
        known = self._generations.get(account_id)
        if known is None:  # opening or closed
            return
        if position is None or position[1] > known:
            self._bus.deliver(SignedOut(account_id))
        if position is not None:
            self._generations[account_id] = max(known, position[1])
            self._compare_devices(account_id, position[2])
            self.sequencer.swept(account_id, position[0], self._loop.time())

    def _compare_devices(self, account_id: str, number: int) -> None:
        """Act on what the last sweep found and was not heard of since: the message may have come after that sweep."""
        known = self._device_sign_outs.get(account_id)
        if known is None:  # closed
            return
        heard, found = known
        if found > heard:
            self._bus.deliver(DeviceSignedOut(account_id, None, found))
        if account_id in self._device_sign_outs:  # else its last socket was closed just now
            self._device_sign_outs[account_id] = (max(heard, found), number)

    def device_signed_out(self, message: DeviceSignedOut) -> None:
        """Note that a sign-out of a device was heard of, so that a sweep does not act on it again.

        One whose number shows that another was missed is not noted: the sweep is to act then.
        """
        known = self._device_sign_outs.get(message.account_id)
        if known is not None and (message.device_id is None or message.number == known[0] + 1):
            self._device_sign_outs[message.account_id] = (message.number, known[1])

    def signed_out(self, account_id: str) -> None:
        """Note that a sign-out was heard of, so that the sweep does not act on it again."""
        if account_id in self._generations:
            self._generations[account_id] += 1


def _batches(items: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(items), _SWEEP_BATCH):
        yield items[start : start + _SWEEP_BATCH]
