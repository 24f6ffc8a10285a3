"""Sending push messages through Expo's HTTP API."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

import msgspec

from happy_light.context import ServerContext
from happy_light.http_client import NoAnswer

log = logging.getLogger(__name__)

BATCH_MAX: Final = 100  # messages that Expo accepts in one request
DEADLINE: Final = 8.0  # s for all batches together
DEVICE_NOT_REGISTERED: Final = "DeviceNotRegistered"
"""Expo's error for a token whose phone no longer has the app."""
_ERROR_MAX: Final = 100  # characters of an error of Expo that are passed on


class _TicketDetails(msgspec.Struct):
    error: str | None = None


class _Ticket(msgspec.Struct):
    """What Expo answers for one message."""

    status: str
    details: _TicketDetails | None = None


class _RequestError(msgspec.Struct):
    code: str = ""


class _SendResponse(msgspec.Struct):
    """Expo's answer to a batch: a ticket for each message in its order, or why it accepted none."""

    data: list[_Ticket] = []
    errors: list[_RequestError] = []


async def send(context: ServerContext, tokens: list[str], message: dict[str, Any]) -> dict[str, str]:
    """Send a message to each token; return for each "" or the reason why Expo did not accept its message."""
    outcomes = dict.fromkeys(tokens, "timeout")

    async def send_batch(batch: list[str]) -> None:
        outcomes.update(zip(batch, await _send_batch(context, batch, message), strict=True))

    try:
        async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
            for start in range(0, len(tokens), BATCH_MAX):
                group.create_task(send_batch(tokens[start : start + BATCH_MAX]))
    except TimeoutError:
        pass  # batches without an answer keep the reason "timeout"
    return outcomes


async def _send_batch(context: ServerContext, batch: list[str], message: dict[str, Any]) -> list[str]:
    """Return the outcomes in the order of the batch."""
    secret = context.settings.expo_access_token
    headers = {"authorization": f"Bearer {secret}"} if secret else {}
    body = [{"to": token, **message} for token in batch]
    try:
        answer = await context.http_client.request("POST", context.settings.expo_url, body=body, headers=headers)
        if answer.status != 200:
            log.warning("Expo answered a push with status %d", answer.status)
            return [f"expo-status-{answer.status}"] * len(batch)
        response = answer.json(_SendResponse)
    except NoAnswer as error:
        log.warning("Expo did not answer a push: %s", error)
        return [f"expo-{error}"] * len(batch)
    if response.errors:
        return [response.errors[0].code[:_ERROR_MAX] or "expo-error"] * len(batch)
    reasons = [_reason(ticket) for ticket in response.data[: len(batch)]]
    return reasons + ["no-ticket"] * (len(batch) - len(reasons))


def _reason(ticket: _Ticket) -> str:
    if ticket.status == "ok":
        return ""
    return (ticket.details.error if ticket.details else None) or "expo-error"
