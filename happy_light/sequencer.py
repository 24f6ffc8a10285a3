"""In what order a process hands the updates of its accounts to its sockets, when hints of them may go astray.

An update has its account's `seq`: 1, 2, 3, … in the order of commits, stored in the outbox by the transaction that
made it. A hint tells of it after the commit and may be lost, doubled, late or out of order. This is the part that
decides, and nothing else: it reads no database, has no clock and no sockets; what it is told it answers at once.

What holds for every account with sockets here, whatever comes in and in whatever order:

1. `position` only rises, one at a time. What is handed out is position + 1, position + 2, …, each once.
2. Only what was committed is handed out: frames come from hints, which follow their commit, or from the outbox.
3. `known` is the highest seq that is known to be committed, and never below `position`.
4. Frames are held only for seqs in position + 2 … known, or while the account is opening. Their number for each
   account and their bytes for all together are bounded; one that finds no room is left for the outbox.
5. While known > position the account has a time at which the outbox is to be read, and only then. A read that got no
   answer is asked for again. So as long as reads succeed in the end, position reaches known.
6. A hint that is lost makes known too low; a sweep, which says what seq the database has, puts it right.

From 5 and 6: a socket that connected at position S hears S + 1, S + 2, … without a gap, and all of it in the end.
A client that comes from another process may have heard more than position already: its socket must be spared what is
handed out up to there. One that has heard less is first sent the outbox from there to position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Generic, NamedTuple, TypeVar

F = TypeVar("F")

PATIENCE: Final = 0.05  # s that a hint may be late before the outbox is read
_RETRY: Final = 0.5  # s until a read that failed is asked for again
_UNANSWERED: Final = 5.0  # s until one that was not answered is
_HELD_MAX: Final = 256  # frames of an account
_BYTES_MAX: Final = 64 << 20  # of all accounts together
_READ_MAX: Final = 500  # updates in one read
_OPENING: Final = -1


class Gap(NamedTuple):
    """Updates to read from the outbox: `first` to `last`, both included."""

    account_id: str
    first: int
    last: int


class _Account(Generic[F]):
    __slots__ = ("held", "known", "next")

    def __init__(self) -> None:
        self.next = _OPENING  # position + 1
        self.known = 0
        self.held: dict[int, F] = {}


class Sequencer(Generic[F]):
    """The order of updates in one process. `size` says how many bytes a frame takes. Times are seconds, monotonic.

    The order of calls for an account: `open` before its first socket, then listen for hints, then read the account's
    seq from the database, then `opened`; `close` after its last socket. Whatever else comes for an account that is
    not open is ignored, so late answers need no care.
    """

    def __init__(
        self,
        size: Callable[[F], int],
        *,
        held_max: int = _HELD_MAX,
        bytes_max: int = _BYTES_MAX,
        read_max: int = _READ_MAX,
    ) -> None:
        self._size = size
        self._held_max = held_max
        self._bytes_max = bytes_max
        self._read_max = read_max
        self._accounts: dict[str, _Account[F]] = {}
        self._due: dict[str, float] = {}  # accounts with known > position: when to read
        self._bytes = 0  # of frames that are held
        self.healed = 0
        """How many updates came from the outbox because their hint did not come in time."""

    # ------------------------------------------------------------------------------------- sockets
    def open(self, account_id: str) -> None:
        """Hold the hints of an account that gets its first socket, until `opened`. Does nothing if it is open."""
        self._accounts.setdefault(account_id, _Account())

    def opened(self, account_id: str, seq: int, now: float) -> Sequence[F]:
        """Set the position of an account to the `seq` that was read after `open`; return the frames to deliver.

        The first call counts: it sets the position.
        """
        account = self._accounts.get(account_id)
        if account is None or account.next != _OPENING:
            return ()
        account.next = seq + 1
        account.known = max(account.known, seq)
        return self._progress(account_id, account, [], now)

    def close(self, account_id: str) -> None:
        """Forget an account whose last socket is gone."""
        account = self._accounts.pop(account_id, None)
        if account is not None:
            self._due.pop(account_id, None)
            self._bytes -= sum(map(self._size, account.held.values()))

    def position(self, account_id: str) -> int | None:
        """Return the last seq handed out (None before `opened`): a socket that joins now receives what follows."""
        account = self._accounts.get(account_id)
        return None if account is None or account.next == _OPENING else account.next - 1

    def accounts(self) -> Iterable[str]:
        """Those that are open, for the sweep."""
        return self._accounts.keys()

    # ------------------------------------------------------------------------------- what comes in
    def hint(self, account_id: str, first: int, frames: Sequence[F], now: float) -> Sequence[F]:
        """Take updates that were committed, numbered from `first` on; return the frames to deliver, in order."""
        account = self._accounts.get(account_id)
        if account is None:
            return ()
        if first == account.next and account.known < first:  # as nearly always: nothing is missing, nothing waits
            account.next = first + len(frames)
            account.known = account.next - 1
            return frames
        account.known = max(account.known, first + len(frames) - 1)
        if account.next == _OPENING:
            self._hold(account, first, frames)
            return ()
        ready: list[F] = []
        if first <= account.next:
            ready.extend(frames[account.next - first :])
            account.next += len(ready)
        else:
            self._hold(account, first, frames)
        return self._progress(account_id, account, ready, now)

    def swept(self, account_id: str, seq: int, now: float) -> None:
        """Note the `seq` that the database has. What is missing and does not come by itself becomes due."""
        account = self._accounts.get(account_id)
        if account is not None and seq > account.known:
            account.known = seq
            if account.next != _OPENING:
                self._due.setdefault(account_id, now + PATIENCE)

    def read(self, gap: Gap, rows: Sequence[tuple[int, F]], now: float) -> Sequence[F] | None:
        """Take what the outbox had, (seq, frame) from gap.first on, all or the first of them; return what to deliver.

        None: the outbox no longer has what comes next, since this process slept longer than updates are kept. The
        account's sockets must be closed, so that their clients fetch everything anew.
        """
        account = self._accounts.get(gap.account_id)
        if account is None or account.next == _OPENING:
            return ()
        if gap.first == account.next and (not rows or rows[0][0] > account.next):
            return None
        ready: list[F] = []
        for seq, frame in rows:
            if seq == account.next:
                ready.append(frame)
                account.next += 1
        account.known = max(account.known, account.next - 1)
        self.healed += len(ready)
        if gap.account_id in self._due:
            self._due[gap.account_id] = now  # what is still missing is read at once
        return self._progress(gap.account_id, account, ready, now)

    def failed(self, gap: Gap, now: float) -> None:
        """Let a gap that could not be read become due again."""
        if gap.account_id in self._due:
            self._due[gap.account_id] = now + _RETRY

    # ------------------------------------------------------------------------------- what is to do
    def due(self, now: float, most: int) -> list[Gap]:
        """Return what to read from the outbox, at most so many. Each is to be answered by `read` or `failed`."""
        gaps: list[Gap] = []
        for account_id, when in self._due.items():
            if len(gaps) == most:
                break
            if when <= now:
                account = self._accounts[account_id]
                last = min(account.held, default=account.known + 1) - 1
                gaps.append(Gap(account_id, account.next, min(last, account.next + self._read_max - 1)))
        for gap in gaps:
            self._due[gap.account_id] = now + _UNANSWERED
        return gaps

    def wakes(self) -> float | None:
        """When `due` has something to say, if nothing else comes in. None: not before something does."""
        return min(self._due.values(), default=None)

    # --------------------------------------------------------------------------------------- inside
    def _hold(self, account: _Account[F], first: int, frames: Sequence[F]) -> None:
        """Keep frames that are ahead, as many as there is room for."""
        for seq, frame in enumerate(frames, first):
            if seq in account.held:
                continue
            size = self._size(frame)
            if len(account.held) >= self._held_max or self._bytes + size > self._bytes_max:
                return
            account.held[seq] = frame
            self._bytes += size

    def _progress(self, account_id: str, account: _Account[F], ready: list[F], now: float) -> list[F]:
        """Add to `ready` what was held for just now, note whether something is still missing, and return `ready`."""
        while account.held and (seq := min(account.held)) <= account.next:
            frame = account.held.pop(seq)
            self._bytes -= self._size(frame)
            if seq == account.next:
                ready.append(frame)
                account.next += 1
        if account.known < account.next:
            self._due.pop(account_id, None)
        else:
            self._due.setdefault(account_id, now + PATIENCE)
        return ready
