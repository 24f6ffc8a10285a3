"""Updates reach sockets in order, each once, whatever becomes of their hints.

A model of a process, its database and what lies between is driven at random; then come cases that are rare there.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from happy_light import sequencer
from happy_light.sequencer import Gap, Sequencer

ACCOUNTS = ("a", "b")
HELD_MAX, BYTES_MAX, READ_MAX = 4, 40, 3  # small, so that they are reached
Hint = tuple[str, int, list[str]]
accounts = st.sampled_from(ACCOUNTS)
times = st.sampled_from([0.0, 0.001, 0.04, 0.06, 0.6, 6.0])


def frame(account: str, seq: int) -> str:
    """Return what is delivered for an update: longer for some than for others."""
    return f"{account}{seq}" + "." * (seq % 7)


class Socket:
    """Somebody who listens: `heard` is what followed `start`."""

    def __init__(self) -> None:
        self.start: int | None = None
        self.heard: list[str] = []


class Model(RuleBasedStateMachine):
    """Two accounts in a database, a process with sockets, and hints, reads and sweeps that are under way."""

    hints = Bundle("hints")
    reads = Bundle("reads")
    seqs = Bundle("seqs")  # an account and a seq that the database had

    @initialize(offsets=st.tuples(st.integers(0, 5), st.integers(0, 5)))
    def begin(self, offsets: tuple[int, int]) -> None:
        self.sequencer = Sequencer[str](len, held_max=HELD_MAX, bytes_max=BYTES_MAX, read_max=READ_MAX)
        self.database = dict(zip(ACCOUNTS, offsets, strict=True))
        self.sockets: dict[str, list[Socket]] = {account: [] for account in ACCOUNTS}
        self.gone: list[tuple[str, Socket]] = []
        self.now = 0.0

    # ---------------------------------------------------------------------------------- what happens
    @rule(target=hints, account=accounts, count=st.integers(1, 3))
    def commit(self, account: str, count: int) -> Hint:
        first = self.database[account] + 1
        self.database[account] += count
        return account, first, [frame(account, seq) for seq in range(first, first + count)]

    @rule(hint=consumes(hints))
    def hint_comes(self, hint: Hint) -> None:
        self.deliver(hint[0], self.sequencer.hint(*hint, self.now))

    @rule(hint=hints)
    def hint_comes_and_will_come_again(self, hint: Hint) -> None:
        self.hint_comes(hint)

    @rule(hint=consumes(hints))
    def hint_is_lost(self, hint: Hint) -> None:
        pass

    @rule(account=accounts)
    def socket_comes(self, account: str) -> None:
        self.sequencer.open(account)
        socket = Socket()
        socket.start = self.sequencer.position(account)
        self.sockets[account].append(socket)

    @rule(target=seqs, account=accounts)
    def database_is_asked(self, account: str) -> tuple[str, int]:
        return account, self.database[account]

    @rule(account=accounts)
    def seq_is_read_for_the_first_socket(self, account: str) -> None:
        self.answer_opening(account, self.database[account])

    @rule(found=consumes(seqs))
    def seq_that_was_read_comes_late(self, found: tuple[str, int]) -> None:
        """Even one that was asked for an earlier socket."""
        self.answer_opening(*found)

    @precondition(lambda self: any(self.sockets.values()))
    @rule(data=st.data())
    def socket_goes(self, data: st.DataObject) -> None:
        account = data.draw(st.sampled_from([account for account in ACCOUNTS if self.sockets[account]]))
        socket = self.sockets[account].pop(data.draw(st.integers(0, len(self.sockets[account]) - 1)))
        self.gone.append((account, socket))
        if not self.sockets[account]:
            self.sequencer.close(account)

    @rule(seconds=times)
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(target=reads, most=st.integers(1, 2))
    def reads_are_asked_for(self, most: int) -> object:
        gaps = self.sequencer.due(self.now, most)
        assert len(gaps) <= most
        for gap in gaps:
            assert gap.last <= self.database[gap.account_id], "that was not committed"
            assert 0 < gap.last - gap.first + 1 <= READ_MAX
        return multiple(*gaps)

    @rule(gap=consumes(reads), fewer=st.integers(0, 2))
    def read_is_answered(self, gap: Gap, fewer: int) -> None:
        """With all rows, or with the first of them."""
        rows = [(seq, frame(gap.account_id, seq)) for seq in range(gap.first, gap.last + 1)]
        found = self.sequencer.read(gap, rows[: max(1, len(rows) - fewer)], self.now)
        assert found is not None
        self.deliver(gap.account_id, found)

    @rule(gap=reads)
    def read_fails(self, gap: Gap) -> None:
        self.sequencer.failed(gap, self.now)

    @rule(gap=consumes(reads))
    def read_is_never_answered(self, gap: Gap) -> None:
        pass

    @rule(found=seqs)
    def sweep_comes(self, found: tuple[str, int]) -> None:
        self.sequencer.swept(*found, self.now)

    # -------------------------------------------------------------------------------- what must hold
    @invariant()
    def everybody_heard_the_next_each_time(self) -> None:
        for account, socket in [*self.gone, *((a, s) for a in ACCOUNTS for s in self.sockets[a])]:
            start = socket.start
            if start is None:
                assert not socket.heard
            else:
                assert socket.heard == [frame(account, start + number + 1) for number in range(len(socket.heard))]
                assert start + len(socket.heard) <= self.database[account], "that was not committed"

    @invariant()
    def what_is_held_is_bounded_and_counted(self) -> None:
        held = {id: account.held for id, account in self.sequencer._accounts.items()}
        assert all(len(frames) <= HELD_MAX for frames in held.values())
        assert (
            self.sequencer._bytes == sum(len(one) for frames in held.values() for one in frames.values()) <= BYTES_MAX
        )
        assert set(held) == {account for account in ACCOUNTS if self.sockets[account]}

    @invariant()
    def a_read_is_planned_exactly_while_something_is_missing(self) -> None:
        accounts = self.sequencer._accounts
        missing = {id for id, one in accounts.items() if one.next != sequencer._OPENING and one.known >= one.next}
        assert set(self.sequencer._due) == missing
        assert all(min(one.held, default=one.next + 1) > one.next for one in accounts.values() if one.next > 0)
        assert (self.sequencer.wakes() is None) == (not missing)

    def teardown(self) -> None:
        """Sweep, and check that the reads that follow deliver what was missing to everybody."""
        if not hasattr(self, "sequencer"):
            return
        for account in ACCOUNTS:
            self.seq_is_read_for_the_first_socket(account)
            self.sequencer.swept(account, self.database[account], self.now)
        for _ in range(1000):
            when = self.sequencer.wakes()
            if when is None:
                break
            self.now = max(self.now, when)
            for gap in self.sequencer.due(self.now, 1):
                self.read_is_answered(gap, 0)
        for account in ACCOUNTS:
            for socket in self.sockets[account]:
                assert socket.start is not None
                assert socket.start + len(socket.heard) == self.database[account]
        assert self.sequencer._bytes == 0
        self.everybody_heard_the_next_each_time()

    # ---------------------------------------------------------------------------------------- helpers
    def deliver(self, account: str, frames: Sequence[str]) -> None:
        for socket in self.sockets[account]:
            socket.heard.extend(frames)

    def answer_opening(self, account: str, seq: int) -> None:
        before = self.sequencer.position(account)
        frames = self.sequencer.opened(account, seq, self.now)
        for socket in self.sockets[account]:
            if before is None:
                socket.start = seq
        self.deliver(account, frames)


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


# ---------------------------------------------------------------------------------------- one by one
def opened(seq: int = 10, **bounds: int) -> Sequencer[str]:
    """Return an account "a" with a socket at that seq, at time 0."""
    made = Sequencer[str](len, **bounds)
    made.open("a")
    assert made.opened("a", seq, 0.0) == []
    return made


def numbered(*seqs: int) -> list[str]:
    return [str(seq) for seq in seqs]


def test_what_comes_in_order_is_handed_on_as_it_is() -> None:
    made = opened()
    frames = numbered(11, 12)
    assert made.hint("a", 11, frames, 0.0) is frames
    assert (made.position("a"), made.wakes(), made.healed) == (12, None, 0)


def test_an_account_without_sockets_here_is_nothing() -> None:
    made = Sequencer[str](len)
    assert made.hint("a", 1, ["1"], 0.0) == ()
    made.swept("a", 5, 0.0)
    assert made.read(Gap("a", 1, 1), [(1, "1")], 0.0) == ()
    assert (made.position("a"), made.wakes(), list(made.accounts())) == (None, None, [])
    made.close("a")


def test_hints_while_an_account_opens_are_kept_for_it() -> None:
    made = Sequencer[str](len)
    made.open("a")
    assert made.hint("a", 10, numbered(10, 11), 0.0) == ()
    assert made.hint("a", 12, numbered(12), 0.0) == ()
    assert made.position("a") is None
    assert made.opened("a", 10, 0.0) == numbered(11, 12)
    assert made.opened("a", 3, 0.0) == ()  # the first answer counts
    assert made.position("a") == 12


def test_a_gap_waits_for_its_hint_and_then_for_the_outbox() -> None:
    made = opened()
    assert made.hint("a", 12, numbered(12), 1.0) == []
    assert made.hint("a", 14, numbered(14), 1.02) == []
    assert made.wakes() == 1.0 + sequencer.PATIENCE
    assert made.due(1.04, 9) == []
    assert made.due(1.06, 9) == [Gap("a", 11, 11)]
    assert made.due(1.07, 9) == []  # it is under way
    assert made.read(Gap("a", 11, 11), [(11, "11")], 1.08) == numbered(11, 12)
    assert made.due(1.08, 9) == [Gap("a", 13, 13)]
    assert made.hint("a", 13, numbered(13), 1.09) == numbered(13, 14)  # after all
    assert made.read(Gap("a", 13, 13), [(13, "13")], 1.1) == []
    assert (made.wakes(), made.healed) == (None, 1)


def test_a_hint_that_is_half_old_brings_its_new_half() -> None:
    made = opened()
    assert made.hint("a", 9, numbered(9, 10, 11, 12), 0.0) == numbered(11, 12)
    assert made.hint("a", 9, numbered(9, 10, 11, 12), 0.0) == []
    assert made.position("a") == 12


def test_what_finds_no_room_is_read_instead() -> None:
    made = opened(held_max=2)
    made.hint("a", 12, numbered(12, 13, 14, 15), 0.0)
    assert made.hint("a", 11, numbered(11), 0.0) == numbered(11, 12, 13)
    assert made.due(1.0, 9) == [Gap("a", 14, 15)]
    made = opened(bytes_max=5)
    made.hint("a", 12, numbered(12, 13, 14, 15), 0.0)
    assert made.hint("a", 11, numbered(11), 0.0) == numbered(11, 12, 13)


def test_a_lost_hint_is_found_by_the_sweep_and_read_in_parts() -> None:
    made = opened(read_max=2)
    made.swept("a", 10, 0.0)
    assert made.wakes() is None
    made.swept("a", 13, 0.0)
    assert made.due(1.0, 9) == [Gap("a", 11, 12)]
    assert made.read(Gap("a", 11, 12), [(11, "11"), (12, "12")], 1.0) == numbered(11, 12)
    assert made.due(1.0, 9) == [Gap("a", 13, 13)]
    made.failed(Gap("a", 13, 13), 1.0)
    assert made.due(1.1, 9) == []
    assert made.due(2.0, 9) == [Gap("a", 13, 13)]  # it failed
    assert made.due(3.0, 9) == []
    assert made.due(8.0, 9) == [Gap("a", 13, 13)]  # nobody answered
    assert made.read(Gap("a", 13, 13), [(13, "13")], 8.0) == numbered(13)
    assert (made.wakes(), made.healed) == (None, 3)


@pytest.mark.parametrize("rows", [[], [(12, "12")]])
def test_what_the_outbox_no_longer_has_cannot_be_healed(rows: list[tuple[int, str]]) -> None:
    made = opened()
    made.swept("a", 12, 0.0)
    (gap,) = made.due(1.0, 9)
    assert made.read(gap, rows, 1.0) is None


def test_a_late_answer_to_an_account_that_went_and_came_changes_nothing() -> None:
    made = opened()
    made.swept("a", 12, 0.0)
    (gap,) = made.due(1.0, 9)
    made.close("a")
    assert made.wakes() is None
    made.open("a")
    assert made.read(gap, [(11, "11"), (12, "12")], 2.0) == ()
    assert made.opened("a", 12, 2.0) == []
    assert made.read(gap, [(11, "11"), (12, "12")], 2.0) == []
    assert made.position("a") == 12


def test_rows_beyond_a_hole_wait_for_the_next_read() -> None:
    made = opened()
    made.swept("a", 13, 0.0)
    (gap,) = made.due(1.0, 9)
    assert made.read(gap, [(11, "11"), (13, "13")], 1.0) == numbered(11)
    assert made.due(1.0, 9) == [Gap("a", 12, 13)]


def test_rows_that_were_not_known_of_are_not_missed_later() -> None:
    made = opened()
    assert made.read(Gap("a", 11, 12), [(11, "11"), (12, "12")], 0.0) == numbered(11, 12)  # of an earlier socket
    made.swept("a", 12, 0.0)
    assert made.wakes() is None
