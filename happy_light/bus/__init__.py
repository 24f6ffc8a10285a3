"""Events, their audiences, and the bus that delivers them."""

from happy_light.bus.events import Audience, Ephemeral, Event, Scope, Update, UpdateFrame
from happy_light.bus.memory import Bus

__all__ = ["Audience", "Bus", "Ephemeral", "Event", "Scope", "Update", "UpdateFrame"]
