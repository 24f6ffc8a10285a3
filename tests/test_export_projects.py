"""`export` and `import` of an account with projects, pictures and deleted machines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests import commands
from tests.client import World, uid
from tests.conftest import Start


async def picture(alice: Any, owner: str) -> None:
    """Upload a picture and make it the active one."""
    upload = (await alice.post(f"/v1/{owner}/avatar/request-upload", {"size": 3})).json()
    path = "/" + upload["uploadUrl"].partition("/v1/")[1].strip("/") + "/" + upload["ref"]
    headers = {"Content-Type": "application/octet-stream"}
    assert (await alice.request("PUT", path, content=b"abc", headers=headers)).status_code == 200
    body = {"ref": upload["ref"], "preview": "preview"}
    assert (await alice.request("PATCH", f"/v1/{owner}/avatar", body)).status_code == 200


async def test_projects_and_pictures_move_with_their_account(start: Start, tmp_path: Path) -> None:
    process = start(folder=tmp_path / "old")
    async with World(process.url) as world:
        alice = await world.account()
        project = (await alice.post("/v1/projects", {"externalId": "x", "metadata": "m"})).json()
        session = await alice.session(projectId=project["id"], machineId="machine")
        await picture(alice, f"projects/{project['id']}")
        await picture(alice, f"sessions/{session['id']}")
        machine = uid()
        await alice.machine(machine)
        await alice.delete(f"/v1/machines/{machine}")
        projects = (await alice.get("/v1/projects")).json()
        sessions = (await alice.get("/v1/sessions")).json()
    await commands.ok(process.folder, "export", alice.id, str(tmp_path / "alice"))
    process.stop()
    new = tmp_path / "new"
    (process := start(folder=new)).stop()
    await commands.ok(new, "import", str(tmp_path / "alice"))
    process = start(folder=new)
    async with World(process.url) as world:
        again = await world.account(alice.key)
        assert (await again.get("/v1/projects")).json() == projects
        assert (await again.get("/v1/sessions")).json() == sessions
        for owner in (f"projects/{project['id']}", f"sessions/{session['id']}"):
            download = (await again.post(f"/v1/{owner}/avatar/request-download")).json()
            assert (await again.get("/v1/" + download["ref"])).content == b"abc"
        body = {"id": machine, "metadata": "m", "failIfDeleted": True}
        assert (await again.post("/v1/machines", body)).status_code == 410
