"""Sessions: conversations of an agent (docs/protocol.md, section 3).

GET    /v1/sessions               list the 150 that changed last
POST   /v1/sessions               create a session, or load the existing one with that tag
GET    /v2/sessions               list all by pages, or those changed since a time
GET    /v2/sessions/active        list the active ones with a heartbeat in the last 15 minutes
GET    /v1/sessions/:id           get one session
POST   /v1/sessions/:id           replace metadata, agentState or both, if the expected versions are the current ones
POST   /v1/sessions/:id/archive   make a session inactive
DELETE /v1/sessions/:id           delete a session with its messages, usage reports, access keys and files
socket update-metadata, update-state
update new-session, update-session, delete-session
"""

from __future__ import annotations

from happy_light.domains.sessions import commands, queries
from happy_light.domains.sessions.commands import announce_avatar, delete, delete_published, unlink_project
from happy_light.domains.sessions.queries import require_owned

__all__ = ["announce_avatar", "delete", "delete_published", "events", "require_owned", "routes", "unlink_project"]

routes = [*queries.routes, *commands.routes]
events = commands.events
