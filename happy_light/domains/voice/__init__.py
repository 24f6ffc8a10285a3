"""Voice: conversations with an ElevenLabs agent, and LiveKit rooms (docs/protocol.md, sections 12 and 13).

POST /v1/voice/conversations   get a token for a conversation, if no limit is reached
GET  /v1/voice/usage           get how much of the limits is used
POST /v1/voice/token           get a LiveKit token for a room of the account
POST /v1/voice/session         create a voice session with a room of its own, and get a LiveKit token for it

Both services are accounts of the operator: without their keys in the settings these routes answer 500.
"""

from __future__ import annotations

from happy_light.domains.voice import conversations, rooms

routes = [*conversations.routes, *rooms.routes]
