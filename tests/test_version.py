"""POST /v1/version: which apps are outdated."""

from __future__ import annotations

import pytest

from happy_light.domains.version import APP_STORES
from tests.client import World


@pytest.mark.parametrize(
    ("version", "good"),
    [
        ("1.4.1", True), ("v1.4.1", True), ("1.4.1+build", True), ("1.10.0", True), ("2.0.0", True), ("1.4.0", False),
        ("1.3.99", False), ("1.4", False), ("1.4.1.0", False), ("", False), ("x", False), ("01.4.1", False),
        ("1.04.1", False), ("\u0661.5.0", False), ("99999999999999999999.0.0", False),
    ],
)  # fmt: skip
async def test_invalid_and_outdated_versions_get_the_url_of_their_store(world: World, version: str, good: bool) -> None:
    for platform in ("ios", "IOS", "android", "Android", "web", ""):
        body = {"platform": platform, "version": version, "app_id": "x"}
        answer = await world.http.post("/v1/version", json=body)
        store = None if good else APP_STORES.get(platform.lower())
        assert (answer.status_code, answer.json()) == (200, {"updateUrl": store})


@pytest.mark.parametrize("missing", ["platform", "version", "app_id"])
async def test_every_field_is_required(world: World, missing: str) -> None:
    body = {"platform": "ios", "version": "1.4.1", "app_id": "x"}
    del body[missing]
    answer = await world.http.post("/v1/version", json=body)
    assert (answer.status_code, answer.json().keys()) == (400, {"error", "message", "statusCode"})
