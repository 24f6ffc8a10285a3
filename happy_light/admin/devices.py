"""Devices of an account: list them, and sign out a single one.

GET  /admin/api/accounts/:account/devices                    the devices of an account, those seen last first
POST /admin/api/accounts/:account/devices/:device/sign-out   make the device's token invalid and close its sockets

`:account` is an id, username, public key (hex or base64) or fingerprint. `:device` is the id of a device, or "unknown"
for all tokens that other servers and older versions made.
"""

from __future__ import annotations

import logging
from typing import Final

from happy_light.admin.account_admin import UNKNOWN_ACCOUNT, id_of
from happy_light.admin.account_list import description
from happy_light.auth.devices import Device, find_idle, list_devices, sign_out_device
from happy_light.context import ServerContext
from happy_light.errors import ApiError, ErrorResponse
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.wire import Outgoing

log = logging.getLogger(__name__)

UNKNOWN_DEVICE: Final = ErrorResponse(404, "The account has no device with this id")


# -------------------------------------------------------------------------------------------- wire
class DeviceList(Outgoing):
    """GET /admin/api/accounts/:account/devices: those seen last first."""

    id: str
    devices: list[Device]


class DeviceEnded(Outgoing):
    """The answer of POST /admin/api/accounts/:account/devices/:device/sign-out: the ids of account and device."""

    id: str
    device: str


# -------------------------------------------------------------------------------------- operations
async def sign_out(context: ServerContext, account_id: str, device_id: str, idle_since: int | None = None) -> bool:
    """Sign a device out in every process; with `idle_since` (ms) only if it was not seen from then on."""
    return await context.database.write(account_id, sign_out_device, device_id, idle_since)


async def forget_idle(context: ServerContext, before: int, *, dry_run: bool) -> int:
    """Sign out every device that was not seen since `before` (ms). Return how many."""
    found = await context.database.read(find_idle, before)
    if dry_run:
        return len(found)
    return sum([await sign_out(context, account_id, device_id, before) for account_id, device_id in found])


# --------------------------------------------------------------------------------------- endpoints
async def get_devices(request: Request[None, None]) -> DeviceList:
    """List the devices of an account."""
    account_id = await id_of(request)
    return DeviceList(account_id, await request.context.database.read(list_devices, account_id))


async def post_sign_out(request: Request[None, None]) -> DeviceEnded:
    """Sign out one device of an account."""
    account_id, device_id = await id_of(request), request.path["device"]
    if not await sign_out(request.context, account_id, device_id):
        raise ApiError(UNKNOWN_DEVICE)
    name = await request.context.database.read(description, account_id)
    log.info("an operator has signed out device %s of account %s", device_id, name)
    return DeviceEnded(account_id, device_id)


_PATH = "/admin/api/accounts/:account/devices"
routes = [
    Route("GET", _PATH, get_devices, answer=DeviceList, errors=[UNKNOWN_ACCOUNT], public=True),
    Route(
        "POST", f"{_PATH}/:device/sign-out", post_sign_out, answer=DeviceEnded,
        errors=[UNKNOWN_ACCOUNT, UNKNOWN_DEVICE], public=True,
    ),
]  # fmt: skip
