"""Authentication: sign in with a signed challenge, or pair a device with an account (docs/protocol.md, section 2).

POST /v1/auth                    sign in with a signature; a new key creates an account
POST /v1/auth/request            request a terminal's pairing, or poll it; the answer also carries a challenge
GET  /v1/auth/request/status     get the status of a terminal's pairing request
POST /v1/auth/response           with a token: approve a terminal's request; without: sign in with a signed challenge
POST /v1/auth/account/request    request the pairing of a second device, or poll it
POST /v1/auth/account/response   approve the request of a second device
GET  /v1/auth/me                 get the profile, public key and creation time of the caller's account
"""

from __future__ import annotations

from happy_light.domains.auth import pairing, sign_in
from happy_light.domains.auth.pairing import (
    PICKED_UP_LIFETIME,
    UNANSWERED_LIFETIME,
    Kind,
    approve_pairing,
    delete_expired,
    find_pairing,
    pick_up,
    request_pairing,
)
from happy_light.domains.auth.sign_in import (
    get_or_create_account,
    registration_mode,
    registration_open,
    registration_open_until,
)

__all__ = [
    "PICKED_UP_LIFETIME",
    "UNANSWERED_LIFETIME",
    "Kind",
    "approve_pairing",
    "delete_expired",
    "find_pairing",
    "get_or_create_account",
    "jobs",
    "pick_up",
    "registration_mode",
    "registration_open",
    "registration_open_until",
    "request_pairing",
    "routes",
]

routes = [*sign_in.routes, *pairing.routes]
jobs = pairing.jobs
