"""The lists that were answered last, encoded, so that other devices of an account get them without a read."""

from __future__ import annotations

from typing import Final

BYTES_MAX: Final = 4 * 1024 * 1024  # of all answers; beyond them the one that was used least recently is dropped
ANSWER_MAX: Final = 1024 * 1024  # bytes of an answer that is kept
ANSWER_COST: Final = 512  # bytes that an answer takes besides its body and its address, at most

Key = tuple[str, bytes]
"""(account id, path and query as they were sent)"""


class RecentAnswers:
    """Answers by account and address, each with the version of the account that it was read at or after."""

    def __init__(self) -> None:
        self._answers: dict[Key, tuple[str, bytes]] = {}  # the most recently used last
        self.size = 0
        """How many bytes of memory they take."""

    def find(self, key: Key, version: str) -> bytes | None:
        """Return the answer if it was kept at this version."""
        kept = self._answers.get(key)
        if kept is None or kept[0] != version:
            return None
        del self._answers[key]
        self._answers[key] = kept
        return kept[1]

    def keep(self, key: Key, version: str, body: bytes) -> None:
        """Keep an answer that was read when the account already had this version, in the place of the one before."""
        self._drop(key)
        if len(body) > ANSWER_MAX:
            return
        self._answers[key] = (version, body)
        self.size += _size(key, body)
        while self.size > BYTES_MAX:
            self._drop(next(iter(self._answers)))

    def _drop(self, key: Key) -> None:
        kept = self._answers.pop(key, None)
        if kept is not None:
            self.size -= _size(key, kept[1])


def _size(key: Key, body: bytes) -> int:
    return ANSWER_COST + len(key[1]) + len(body)
