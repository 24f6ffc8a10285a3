"""Compare-and-set of versioned values (docs/protocol.md, section 1).

A versioned value carries a version that every write raises by one. A writer names the version that it saw: if that
is still the current one the value is stored, else nothing is stored and the writer gets the current version and
value. Domains read, compare and store in one transaction, so the three are one atomic step.
"""

from __future__ import annotations

from typing import Generic, Literal, TypeVar

import msgspec

from happy_light.errors import BadRequest
from happy_light.wire import Outgoing

T = TypeVar("T")


# -------------------------------------------------------------------------------------------- wire
class Stored(Outgoing):
    """The value was stored and has this version now."""

    version: int
    success: Literal[True] = True


class VersionMismatch(Outgoing, kw_only=True):
    """Nothing was stored, because the expected version is not the current one."""

    success: Literal[False] = False
    error: Literal["version-mismatch"] = "version-mismatch"


# -------------------------------------------------------------------------------------- comparison
class Write(msgspec.Struct, Generic[T], frozen=True):
    """A value to store and the version that its writer saw."""

    value: T
    expected_version: int


class CompareAndSet(msgspec.Struct, Generic[T], frozen=True):
    """A value as the database has it, and the write requested for it; None keeps the value as it is."""

    current_value: T
    current_version: int
    write: Write[T] | None

    @property
    def is_stale(self) -> bool:
        """Whether the write expects another version than the current one."""
        return self.write is not None and self.write.expected_version != self.current_version

    @property
    def result(self) -> Literal["success", "version-mismatch"]:
        """How acks name the outcome."""
        return "version-mismatch" if self.is_stale else "success"

    @property
    def value(self) -> T:
        """The value afterwards: the written one, or the current one if the write is stale or absent."""
        return self.current_value if self.write is None or self.is_stale else self.write.value

    @property
    def version(self) -> int:
        """The version afterwards: the next one, or the current one if the write is stale or absent."""
        return self.current_version if self.write is None or self.is_stale else self.current_version + 1

    @property
    def new_version(self) -> int | msgspec.UnsetType:
        """The version afterwards; left out of the answer where no write was requested."""
        return msgspec.UNSET if self.write is None else self.version

    @property
    def stale_version(self) -> int | msgspec.UnsetType:
        """The current version; left out of the answer unless the write is stale."""
        return self.current_version if self.is_stale else msgspec.UNSET

    @property
    def stale_value(self) -> T | msgspec.UnsetType:
        """The current value; left out of the answer unless the write is stale."""
        return self.current_value if self.is_stale else msgspec.UNSET


def requested(name: str, value: T | msgspec.UnsetType, expected: int | msgspec.UnsetType) -> Write[T] | None:
    """Return the write that two optional fields of a body describe, or None if there is no value.

    Raises BadRequest for a value without its expected version (docs/protocol.md, section 17).
    """
    if isinstance(value, msgspec.UnsetType):
        return None
    if isinstance(expected, msgspec.UnsetType):
        raise BadRequest(f"{name} is given without its expected version")
    return Write(value, expected)
