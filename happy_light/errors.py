"""The errors of the server: refusals that are part of the wire contract, bad input, and errors for the operator."""

from __future__ import annotations

from typing import Any

import msgspec


class ErrorResponse(msgspec.Struct, frozen=True):
    """A refusal of the wire contract: its HTTP status, and the text of `error` in its body."""

    status: int
    error: str


MISSING_AUTHORIZATION = ErrorResponse(401, "Missing authorization header")
INVALID_TOKEN = ErrorResponse(401, "Invalid token")
INVALID_SIGNATURE = ErrorResponse(401, "Invalid signature")
REGISTRATION_CLOSED = ErrorResponse(
    403, "This server takes no new accounts now. Ask its operator to let you in; existing accounts can sign in."
)
INVALID_CHALLENGE = ErrorResponse(401, "Invalid challenge")
INVALID_PUBLIC_KEY = ErrorResponse(401, "Invalid public key")
REQUEST_NOT_FOUND = ErrorResponse(404, "Request not found")
SESSION_NOT_FOUND = ErrorResponse(404, "Session not found")
SESSION_NOT_FOUND_OR_FOREIGN = ErrorResponse(404, "Session not found or not owned by user")
MACHINE_NOT_FOUND = ErrorResponse(404, "Machine not found")
PROJECT_NOT_FOUND = ErrorResponse(404, "Project not found")
INVALID_PROJECT_IDS = ErrorResponse(400, "Invalid project ids")
USER_NOT_FOUND = ErrorResponse(404, "User not found")
FILE_NOT_FOUND = ErrorResponse(404, "Not found")
ATTACHMENT_NOT_FOUND = ErrorResponse(404, "Attachment not found")
ATTACHMENT_DIRECT_UPLOAD = ErrorResponse(404, "Direct upload not available in S3 mode")
INVALID_ATTACHMENT_FILE = ErrorResponse(404, "Invalid attachment file")
INVALID_ATTACHMENT_REF = ErrorResponse(400, "Invalid attachment ref")
FOREIGN_ATTACHMENT_REF = ErrorResponse(400, "Ref does not belong to this session")
FILE_TOO_LARGE = ErrorResponse(413, "File too large (max 10MB)")
TOO_MANY_REQUESTS = ErrorResponse(429, "Too many requests. Try again in a minute.")
TOO_MANY_PICTURES = ErrorResponse(429, "Too many avatar uploads. Try again later.")
TOO_MANY_UPLOADS = ErrorResponse(429, "Too many upload requests. Try again in a minute.")
ARTIFACT_NOT_FOUND = ErrorResponse(404, "Artifact not found")
ARTIFACT_OF_ANOTHER = ErrorResponse(409, "Artifact with this ID already exists for another account")
SESSION_OR_MACHINE_NOT_FOUND = ErrorResponse(404, "Session or machine not found")
ACCESS_KEY_NOT_FOUND = ErrorResponse(404, "Access key not found")
ACCESS_KEY_EXISTS = ErrorResponse(409, "Access key already exists")
KEY_NOT_FOUND = ErrorResponse(404, "Key not found")
UNKNOWN_VENDOR = ErrorResponse(400, "Bad Request")
GITHUB_NOT_CONFIGURED = ErrorResponse(400, "GitHub OAuth not configured")
WEBHOOKS_NOT_CONFIGURED = ErrorResponse(500, "Webhooks not configured")
INVALID_CURSOR = ErrorResponse(400, "Invalid cursor format")
ELEVENLABS_NOT_CONFIGURED = ErrorResponse(500, "ELEVENLABS_API_KEY not configured")
LIVEKIT_NOT_CONFIGURED = ErrorResponse(500, "not configured")
VOICE_SESSION_NOT_FOUND = ErrorResponse(404, "Voice session not found")
VOICE_UNREACHABLE = ErrorResponse(502, "The voice service did not answer")


class ApiError(Exception):
    """A request is refused with one of the responses above; `extra` are further fields of the body."""

    def __init__(self, response: ErrorResponse, **extra: Any) -> None:
        super().__init__(response.error)
        self.response = response
        self.extra = extra


class BadRequest(Exception):
    """Input does not fit its schema; the text says what is wrong and where.

    `status` is 400, or 408, 413, 415 or 429 for a request that is not read at all.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class ServiceUnavailable(Exception):
    """The server cannot do it now, because the disk is full or too much waits; the text is for the client."""


class OperatorError(Exception):
    """The server cannot start, or a command cannot do its work; the text is one sentence with cause and cure."""
