"""Artifacts: encrypted documents with a header and a body, each with a version (protocol.md section 5).

GET    /v1/artifacts               the newest 200, without bodies
POST   /v1/artifacts               make, or get what is there
GET    /v1/artifacts/:id
POST   /v1/artifacts/:id           change header, body or both
DELETE /v1/artifacts/:id
GET    /v1/sessions/:id/artifacts  those made for a session
POST   /v1/sessions/:id/artifacts  make one for a session
socket artifact-read, artifact-create, artifact-update, artifact-delete
"""

from __future__ import annotations

from happy_light.domains.artifacts import commands, queries

routes = [*queries.routes, *commands.routes]
events = {**queries.events, **commands.events}
