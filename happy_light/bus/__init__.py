"""Events, their audiences, internal messages, and the bus that delivers them."""

from happy_light.bus.events import (
    Audience,
    BusMessage,
    Committed,
    DeviceSignedOut,
    Elsewhere,
    Ephemeral,
    Event,
    InternalMessage,
    MethodsElsewhere,
    Muted,
    RegistrationChanged,
    Scope,
    SetInactive,
    SignedOut,
    Unmuted,
    Update,
)
from happy_light.bus.memory import Bus, SharedBus

__all__ = [
    "Audience",
    "Bus",
    "BusMessage",
    "Committed",
    "DeviceSignedOut",
    "Elsewhere",
    "Ephemeral",
    "Event",
    "InternalMessage",
    "MethodsElsewhere",
    "Muted",
    "RegistrationChanged",
    "Scope",
    "SetInactive",
    "SharedBus",
    "SignedOut",
    "Unmuted",
    "Update",
]
