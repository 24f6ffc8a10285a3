"""The routes of pictures, for whatever has them."""

from __future__ import annotations

import hashlib
import hmac
import uuid
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import Response

from happy_light import threads
from happy_light.blobs import BlobExists, Blobs
from happy_light.domains import uploads
from happy_light.domains.avatar import Avatar
from happy_light.domains.pictures.owners import (
    NewProjectPicture,
    NewSessionPicture,
    Owner,
    ProjectPicture,
    SessionAvatar,
    SessionPicture,
    find_active,
    replace,
)
from happy_light.domains.projects import Project
from happy_light.domains.uploads import CONTENT_TYPE, SIZE_MAX, Upload, Uploaded
from happy_light.errors import ApiError, BadRequest
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.wire import Failure, Outgoing


# -------------------------------------------------------------------------------------------- wire
class PictureDownload(Outgoing):
    """The ref of the active picture and the URL to download it from."""

    ref: str
    download_url: str


# --------------------------------------------------------------------------------------- endpoints
class PictureEndpoints:
    """The endpoints and routes of the pictures of one kind of owner."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner

    async def post_request_upload(self, request: Request[NewProjectPicture | NewSessionPicture, None]) -> Upload:
        """Return the URL to upload a new picture to; an account may request 60 per minute."""
        owner = self._owner
        rate = owner.rate(request.context)
        self._check_path(request)
        if owner.rate_first:
            await rate.count(request.account_id)
        await self._find_active(request)
        if not owner.rate_first:
            await rate.count(request.account_id)
        key = self._key(request, f"{uuid.uuid4()}.enc")
        return await uploads.upload(request, key, owner.size_min)

    async def put(self, request: Request[None, None]) -> Uploaded:
        """Store the body as a picture that is not yet the active one."""
        owner, blobs = self._owner, request.context.blobs
        self._check_path(request)
        await self._find_active(request)
        key = self._key_of_path(request)
        if await blobs.upload_target(key, owner.size_min, SIZE_MAX) is not None:
            raise ApiError(owner.direct_upload)
        if uploads.content_type(request) != CONTENT_TYPE:
            raise ApiError(owner.invalid_upload)
        digest = hashlib.sha256()

        async def content() -> AsyncIterator[bytes]:
            size = 0
            async for piece in uploads.receive(request, owner.invalid_upload):
                size += len(piece)
                digest.update(piece)
                yield piece
            if size < owner.size_min:
                raise ApiError(owner.invalid_upload)

        try:
            await uploads.store(
                blobs, key, content(), lambda: self._find_active(request), overwrite=owner.upload_exists is None
            )
        except BlobExists:
            assert owner.upload_exists is not None
            if not await threads.run(_has_digest, blobs, key, digest.digest()):
                raise ApiError(owner.upload_exists) from None
        return Uploaded()

    async def patch(self, request: Request[ProjectPicture | SessionPicture, None]) -> Project | SessionAvatar:
        """Make an uploaded picture the active one."""
        owner, ref = self._owner, request.body.ref
        self._check_path(request)
        await self._find_active(request)
        prefix = self._key(request, "")
        if not ref.startswith(prefix) or not owner.file.fullmatch(ref.removeprefix(prefix)):
            raise ApiError(owner.invalid_ref)
        size = await request.context.blobs.size(ref)
        if size is None:
            raise ApiError(owner.upload_not_found)
        if not owner.size_min <= size <= SIZE_MAX:
            raise ApiError(owner.invalid_size)
        return await request.context.database.write(
            request.account_id, replace, owner, request.path["id"], ref, request.body.preview
        )

    async def delete(self, request: Request[None, None]) -> Project | SessionAvatar:
        """Remove the active picture. Its file stays until its owner is deleted, so that it can be activated again."""
        self._check_path(request)
        return await request.context.database.write(
            request.account_id, replace, self._owner, request.path["id"], None, None
        )

    async def post_request_download(self, request: Request[None, None]) -> PictureDownload:
        """Return the URL to download the active picture from."""
        self._check_path(request)
        avatar = await self._find_active(request, download=True)
        if avatar is None:
            raise ApiError(self._owner.picture_not_found)
        url = await request.context.blobs.download_url(avatar.ref)
        return PictureDownload(avatar.ref, url or uploads.route_url(request, avatar.ref))

    async def get(self, request: Request[None, None]) -> Response:
        """Return the bytes of the active picture."""
        owner, blobs = self._owner, request.context.blobs
        self._check_path(request)
        avatar = await self._find_active(request, download=True)
        key = self._key_of_path(request)
        if await blobs.download_url(key) is not None:
            raise ApiError(owner.direct_download)
        response = None
        if avatar is not None and avatar.ref == key:
            response = await blobs.response(key, CONTENT_TYPE, {"cache-control": owner.cache_control})
        if response is None:
            raise ApiError(owner.picture_not_found)
        return response

    def _check_path(self, request: Request[Any, None]) -> None:
        """Raise BadRequest for an id or file name in the path that does not fit the schema."""
        owner = self._owner
        if not owner.id.fullmatch(request.path["id"]):
            raise BadRequest("The id in the path is not one")
        file = request.path.get("file")
        if file is not None and owner.invalid_file is None and not owner.file.fullmatch(file):
            raise BadRequest("The file name in the path is not <uuid v4>.enc")

    async def _find_active(self, request: Request[Any, None], download: bool = False) -> Avatar | None:
        """Return the active picture. Raises ApiError unless the caller owns what the id in the path names."""
        owner = self._owner
        not_found = owner.download_not_found if download else owner.not_found
        return await request.context.database.read(
            find_active, request.account_id, owner, request.path["id"], not_found
        )

    def _key_of_path(self, request: Request[Any, None]) -> str:
        """Return the key of the file that the path names. Raises ApiError for a name of another form."""
        owner, file = self._owner, request.path["file"]
        if owner.invalid_file is not None and not owner.file.fullmatch(file):
            raise ApiError(owner.invalid_file)
        return self._key(request, file)

    def _key(self, request: Request[Any, None], file: str) -> str:
        return f"{self._owner.kind}/{request.path['id']}/avatar/{file}"

    def routes(self) -> list[Route]:
        """Return the rows of the table of routes."""
        owner = self._owner
        path = f"/v1/{owner.kind}/:id/avatar"
        invalid_file = [] if owner.invalid_file is None else [owner.invalid_file]
        exists = [] if owner.upload_exists is None else [owner.upload_exists]
        malformed_path = {400: Failure} if owner.invalid_file is None else {}
        return [
            Route(
                "POST", f"{path}/request-upload", self.post_request_upload, body=owner.request_body, answer=Upload,
                errors=[owner.not_found, owner.too_many],
            ),
            Route(
                "PUT", f"{path}/:file", self.put, answer=Uploaded, streams=True,
                errors=[owner.not_found, *invalid_file, owner.direct_upload, owner.invalid_upload, *exists],
            ),
            Route(
                "PATCH", path, self.patch, body=owner.activate_body, answer=owner.answer_type,
                errors=[owner.not_found, owner.invalid_ref, owner.upload_not_found, owner.invalid_size],
            ),
            Route(
                "DELETE", path, self.delete, answer=owner.answer_type, errors=[owner.not_found],
                other_responses=malformed_path,
            ),
            Route(
                "POST", f"{path}/request-download", self.post_request_download, answer=PictureDownload,
                errors=[owner.download_not_found, owner.picture_not_found],
            ),
            Route(
                "GET", f"{path}/:file", self.get, answer=bytes,
                errors=[owner.download_not_found, *invalid_file, owner.direct_download, owner.picture_not_found],
                other_responses=malformed_path,
            ),
        ]  # fmt: skip


def _has_digest(blobs: Blobs, key: str, digest: bytes) -> bool:
    """Return whether the stored file has that SHA-256. It blocks: call it on a thread."""
    file = blobs.open(key)
    if file is None:
        return False
    with file:
        return hmac.compare_digest(hashlib.sha256(file.read()).digest(), digest)
