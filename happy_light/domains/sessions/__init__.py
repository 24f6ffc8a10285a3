"""Sessions: one conversation of an agent (protocol.md section 3).

GET    /v1/sessions               the newest 150
POST   /v1/sessions               make, or load by tag
GET    /v2/sessions               all, by pages
GET    /v2/sessions/active        those seen in the last 15 minutes
GET    /v1/sessions/:id
POST   /v1/sessions/:id           change metadata, agentState or both
POST   /v1/sessions/:id/archive   make inactive
DELETE /v1/sessions/:id           delete with everything below
socket update-metadata, update-state
"""

from __future__ import annotations

from happy_light.domains.sessions import commands, queries
from happy_light.domains.sessions.queries import owned

__all__ = ["events", "owned", "routes"]

routes = [*queries.routes, *commands.routes]
events = commands.events
