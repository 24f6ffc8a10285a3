"""App version check (docs/protocol.md, section 12).

POST /v1/version   get the URL of a newer app, if the app is too old for this server
"""

from __future__ import annotations

import re
from typing import Final

from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.wire import Incoming, Outgoing

VERSION_MIN: Final = (1, 4, 1)
APP_STORES: Final = {
    "ios": "https://apps.apple.com/us/app/happy-claude-code-client/id6748571505",
    "android": "https://play.google.com/store/apps/details?id=com.ex3ndr.happy",
}
_NUMBER: Final = "(0|[1-9][0-9]{0,15})"
_SEMVER: Final = re.compile(rf"v?{_NUMBER}\.{_NUMBER}\.{_NUMBER}(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?")


# -------------------------------------------------------------------------------------------- wire
class AppVersion(Incoming, rename=None):
    """The body of POST /v1/version."""

    platform: str
    version: str
    app_id: str


class AppUpdate(Outgoing):
    """The URL of a newer app; null if the app is recent enough or the platform has no store."""

    update_url: str | None


# -------------------------------------------------------------------------------------- operations
def is_outdated(version: str) -> bool:
    """Whether an app's version is below 1.4.1, a pre-release, or not a semantic version."""
    match = _SEMVER.fullmatch(version.strip())
    if match is None:
        return True
    return tuple(int(part) for part in match.groups()[:3]) < VERSION_MIN or match[4] is not None


# --------------------------------------------------------------------------------------- endpoints
async def post_version(request: Request[AppVersion, None]) -> AppUpdate:
    """Return the URL of a newer app if the app is too old for this server."""
    store = APP_STORES.get(request.body.platform.lower())
    return AppUpdate(store if store and is_outdated(request.body.version) else None)


routes = [Route("POST", "/v1/version", post_version, body=AppVersion, answer=AppUpdate, public=True)]
