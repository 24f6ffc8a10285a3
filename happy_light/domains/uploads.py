"""What attachments and pictures share: encrypted files that clients upload through this server, at most 10 MiB each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, Literal

import msgspec

from happy_light.blobs import Blobs
from happy_light.errors import ApiError, BadRequest, ErrorResponse
from happy_light.http import forwarded
from happy_light.http.request import Request
from happy_light.wire import Outgoing

SIZE_MAX: Final = 10 * 1024 * 1024  # bytes
CONTENT_TYPE: Final = "application/octet-stream"


class Upload(Outgoing):
    """The URL to upload to, and the ref by which clients name the file. With `POST`, the form's fields come first."""

    ref: str
    upload_url: str
    method: Literal["PUT", "POST"] = "PUT"
    form_fields: dict[str, str] | msgspec.UnsetType = msgspec.UNSET


class Uploaded(Outgoing):
    """The file was stored."""

    ok: Literal[True] = True


def route_url(request: Request[Any, Any], key: str) -> str:
    """Return the URL at which this server takes and sends the file with that key."""
    return f"{forwarded.server_url(request.context.settings, request.scope)}/v1/{key}"


async def upload(request: Request[Any, Any], key: str, size_min: int) -> Upload:
    """Return how a client uploads a new file of at least `size_min` bytes under a key: to here, or to a bucket."""
    target = await request.context.blobs.upload_target(key, size_min, SIZE_MAX)
    if target is not None:
        return Upload(key, target.url, "POST", target.fields)
    return Upload(key, route_url(request, key))


def content_type(request: Request[Any, Any]) -> str:
    """Return the content type of the body in lower case and without parameters, "" if none is given."""
    return (request.header(b"content-type") or "").partition(";")[0].strip().lower()


async def receive(request: Request[Any, Any], too_large: ErrorResponse) -> AsyncIterator[bytes]:
    """Yield the body in pieces. Raises ApiError `too_large` past 10 MiB, else as Request.stream."""
    try:
        async for piece in request.stream(SIZE_MAX):
            yield piece
    except BadRequest as error:
        if error.status == 413:
            raise ApiError(too_large) from None
        raise


async def store(
    blobs: Blobs,
    key: str,
    content: AsyncIterator[bytes],
    require_owner: Callable[[], Awaitable[object]],
    *,
    overwrite: bool = True,
) -> None:
    """Store a file under `<kind>/<owner>/…`. Raises as Blobs.put and `require_owner`.

    The owner may be deleted meanwhile: with its files, or before this one was among them. So `require_owner` is
    asked again at the end, and if it raises ApiError, nothing of the owner is left.
    """
    try:
        await blobs.put(key, content, SIZE_MAX, overwrite=overwrite)
    finally:
        try:
            await require_owner()
        except ApiError:
            kind, owner, _ = key.split("/", 2)
            await blobs.delete_prefix(f"{kind}/{owner}/")
            raise
