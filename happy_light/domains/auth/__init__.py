"""Signing in: by a signed challenge, or by a device that is already in (protocol.md section 2).

POST /v1/auth                    sign in, or sign up
POST /v1/auth/request            a terminal asks to be let in, and polls for the answer; gets a challenge, too
GET  /v1/auth/request/status     what a phone sees of such a request
POST /v1/auth/response           a phone lets the terminal in; or sign in with a signed challenge
POST /v1/auth/account/request    the same for a second device of the account
POST /v1/auth/account/response
GET  /v1/auth/me                 who the token belongs to
"""

from __future__ import annotations

from happy_light.domains.auth import pairing, sign_in
from happy_light.domains.auth.pairing import PICKED_UP, UNANSWERED, Kind, approve, ask, find, tidy
from happy_light.domains.auth.sign_in import accepts, enter, window

__all__ = [
    "PICKED_UP", "UNANSWERED", "Kind", "accepts", "approve", "ask", "enter", "find", "jobs", "routes", "tidy", "window",
]  # fmt: skip

routes = [*sign_in.routes, *pairing.routes]
jobs = pairing.jobs
