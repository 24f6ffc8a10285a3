"""The picture routes of projects and sessions, as the tests call them."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx

from tests.client import Account, Socket
from tests.conftest import Process

OCTETS = {"Content-Type": "application/octet-stream"}
SIZE_MAX = 10 * 1024 * 1024
SCHEMA_ERROR = {"error", "message", "statusCode"}

KINDS = ["projects", "sessions"]
NOT_FOUND = {"projects": "Project not found", "sessions": "Session not found"}
NOT_FOR_DOWNLOAD = {"projects": "Project not found", "sessions": "Session avatar not found"}
NO_PICTURE = {"projects": "Project avatar not found", "sessions": "Session avatar not found"}
INVALID_UPLOAD = {
    "projects": "File too large (max 10MB)",
    "sessions": "Avatar must contain at most 10 MB of encrypted image data",
}


class Pictures:
    """The picture routes of one project or session, called by its owner or by another account."""

    def __init__(self, owner: Account, kind: str, id: str) -> None:
        self.owner = owner
        self.kind = kind
        self.id = id
        self.path = f"/v1/{kind}/{id}/avatar"

    @classmethod
    async def make(cls, account: Account, kind: str) -> Pictures:
        """Those of a new project or session."""
        if kind == "sessions":
            return cls(account, kind, (await account.session())["id"])
        body = {"externalId": str(uuid.uuid4()), "metadata": "meta"}
        return cls(account, kind, (await account.ok("POST", "/v1/projects", body))["id"])

    async def request(self, size: Any = 3, by: Account | None = None) -> httpx.Response:
        return await (by or self.owner).post(f"{self.path}/request-upload", {"size": size})

    async def put(
        self, file: str, content: bytes | AsyncIterator[bytes] = b"abc", by: Account | None = None, **headers: str
    ) -> httpx.Response:
        return await (by or self.owner).request("PUT", f"{self.path}/{file}", content=content, headers=OCTETS | headers)

    async def activate(self, ref: str, preview: Any = "pv", by: Account | None = None, **more: Any) -> httpx.Response:
        return await (by or self.owner).request("PATCH", self.path, {"ref": ref, "preview": preview, **more})

    async def remove(self, by: Account | None = None) -> httpx.Response:
        return await (by or self.owner).delete(self.path)

    async def request_download(self, by: Account | None = None) -> httpx.Response:
        return await (by or self.owner).post(f"{self.path}/request-download")

    async def get(self, file: str, by: Account | None = None) -> httpx.Response:
        return await (by or self.owner).get(f"{self.path}/{file}")

    async def upload(self, content: bytes = b"abc") -> str:
        """Return the ref of an uploaded file that is not the active picture."""
        ref: str = (await self.request(len(content))).json()["ref"]
        assert (await self.put(name(ref), content)).status_code == 200
        return ref

    async def activated(self, content: bytes = b"abc") -> str:
        """Return the ref of the active picture, which was just uploaded."""
        ref = await self.upload(content)
        assert (await self.activate(ref)).status_code == 200
        return ref

    async def shown(self) -> Any:
        """Return what the owner shows of its picture: avatar and, for a session, avatarVersion."""
        if self.kind == "projects":
            return (await self.owner.ok("GET", f"/v1/projects/{self.id}"))["avatar"]
        session = (await self.owner.ok("GET", f"/v1/sessions/{self.id}"))["session"]
        return session["avatar"], session["avatarVersion"]

    def folder(self, server: Process) -> Path:
        return server.folder / "attachments" / self.kind / self.id


def name(ref: str) -> str:
    """Return the file name in a ref."""
    return ref.rpartition("/")[2]


def refusal(answer: httpx.Response) -> tuple[int, Any]:
    """Status and error of an answer that has nothing else."""
    body = answer.json()
    return answer.status_code, body["error"] if body.keys() == {"error"} else body


async def listening(pictures: Pictures) -> Socket:
    """Return a user-scoped socket of the owner that has heard everything so far."""
    socket = await pictures.owner.socket()
    await socket.heard()
    return socket
