"""Artifacts: encrypted documents with a header and a body, each with a version (docs/protocol.md, section 5).

GET    /v1/artifacts               list the newest 200, without bodies
POST   /v1/artifacts               create an artifact, or get the existing one with that id
GET    /v1/artifacts/:id           get one artifact
POST   /v1/artifacts/:id           replace header, body or both, if the expected versions are the current ones
DELETE /v1/artifacts/:id           delete an artifact
GET    /v1/sessions/:id/artifacts  list the artifacts of a session, without bodies
POST   /v1/sessions/:id/artifacts  create an artifact of a session
socket artifact-read, artifact-create, artifact-update, artifact-delete
update new-artifact, update-artifact, delete-artifact
"""

from __future__ import annotations

from happy_light.domains.artifacts import commands, queries

routes = [*queries.routes, *commands.routes]
events = {**queries.events, **commands.events}
