"""Events, their audiences, internal messages, and the bus that delivers them."""

from happy_light.bus.events import (
    AccountDeleted,
    Audience,
    BusMessage,
    Committed,
    Ephemeral,
    Event,
    InternalMessage,
    Muted,
    RegistrationChanged,
    Scope,
    SignedOut,
    Unmuted,
    Update,
)
from happy_light.bus.memory import Bus

__all__ = [
    "AccountDeleted",
    "Audience",
    "Bus",
    "BusMessage",
    "Committed",
    "Ephemeral",
    "Event",
    "InternalMessage",
    "Muted",
    "RegistrationChanged",
    "Scope",
    "SignedOut",
    "Unmuted",
    "Update",
]
