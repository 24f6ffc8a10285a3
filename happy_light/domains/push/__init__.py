"""Push notifications: sent to phones through Expo (docs/protocol.md, section 9).

GET    /v1/push-tokens                list the account's push tokens, newest first
POST   /v1/push-tokens                store a push token
DELETE /v1/push-tokens/:token         delete a push token
POST   /v1/sessions/:id/push-event    announce an event of a session to its sockets, and to phones if no app is open
ephemeral session-event
"""

from __future__ import annotations

from happy_light.domains.push import push_event, tokens

routes = [*tokens.routes, *push_event.routes]
