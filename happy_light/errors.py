"""The named refusals: everything a client can be told "no" with, and how it looks on the wire."""

from __future__ import annotations

from typing import Any

import msgspec


class Problem(msgspec.Struct, frozen=True):
    """A refusal that is part of the wire contract: HTTP status and the text of `error`."""

    status: int
    error: str


MISSING_AUTHORIZATION = Problem(401, "Missing authorization header")
INVALID_TOKEN = Problem(401, "Invalid token")
INVALID_SIGNATURE = Problem(401, "Invalid signature")
REGISTRATION_CLOSED = Problem(
    403, "This server takes no new accounts now. Ask its operator to let you in; existing accounts can sign in."
)
INVALID_CHALLENGE = Problem(401, "Invalid challenge")
INVALID_PUBLIC_KEY = Problem(401, "Invalid public key")
REQUEST_NOT_FOUND = Problem(404, "Request not found")
SESSION_NOT_FOUND = Problem(404, "Session not found")
SESSION_NOT_FOUND_OR_FOREIGN = Problem(404, "Session not found or not owned by user")
MACHINE_NOT_FOUND = Problem(404, "Machine not found")
USER_NOT_FOUND = Problem(404, "User not found")
FILE_NOT_FOUND = Problem(404, "Not found")
ATTACHMENT_NOT_FOUND = Problem(404, "Attachment not found")
INVALID_ATTACHMENT_FILE = Problem(404, "Invalid attachment file")
INVALID_ATTACHMENT_REF = Problem(400, "Invalid attachment ref")
FOREIGN_ATTACHMENT_REF = Problem(400, "Ref does not belong to this session")
TOO_MANY_REQUESTS = Problem(429, "Too many requests. Try again in a minute.")
TOO_MANY_UPLOADS = Problem(429, "Too many upload requests. Try again in a minute.")
ARTIFACT_NOT_FOUND = Problem(404, "Artifact not found")
ARTIFACT_OF_ANOTHER = Problem(409, "Artifact with this ID already exists for another account")
SESSION_OR_MACHINE_NOT_FOUND = Problem(404, "Session or machine not found")
ACCESS_KEY_NOT_FOUND = Problem(404, "Access key not found")
ACCESS_KEY_EXISTS = Problem(409, "Access key already exists")
KEY_NOT_FOUND = Problem(404, "Key not found")
UNKNOWN_VENDOR = Problem(400, "Bad Request")
GITHUB_NOT_CONFIGURED = Problem(400, "GitHub OAuth not configured")
WEBHOOKS_NOT_CONFIGURED = Problem(500, "Webhooks not configured")
INVALID_CURSOR = Problem(400, "Invalid cursor format")
ELEVENLABS_NOT_CONFIGURED = Problem(500, "ELEVENLABS_API_KEY not configured")
LIVEKIT_NOT_CONFIGURED = Problem(500, "not configured")
VOICE_SESSION_NOT_FOUND = Problem(404, "Voice session not found")
VOICE_UNREACHABLE = Problem(502, "The voice service did not answer")


class Refused(Exception):
    """A request that is understood and declined.

    `problem` says how; `extra` are further fields of the answer's body.
    """

    def __init__(self, problem: Problem, **extra: Any) -> None:
        super().__init__(problem.error)
        self.problem = problem
        self.extra = extra


class BadRequest(Exception):
    """Input that does not fit its schema; the text says what is wrong and where.

    `status` is 400 unless the request cannot even be read (413, 415).
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class Unavailable(Exception):
    """The server cannot do it now (disk full, too much waiting); the text is for the client."""


class StartError(Exception):
    """The server cannot start, or a command cannot do its work: one sentence that names the cause and the cure."""
