"""The part of `doctor` that is about Redis: whether it answers, and whether it may drop what it was given."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from happy_light.admin.finding import Finding
from happy_light.config import RedisUrl

_TIMEOUT: Final = 5.0  # s


def check(url: RedisUrl) -> Iterator[Finding]:
    """Check the server."""
    try:
        from redis import Redis
        from redis.exceptions import RedisError, ResponseError
    except ImportError:
        yield Finding(
            "redis", "problem", "REDIS_URL needs a library that is not installed.",
            "Install it: pip install 'happy-server-light[full]'.",
        )  # fmt: skip
        return
    client = Redis.from_url(url.text, socket_timeout=_TIMEOUT, socket_connect_timeout=_TIMEOUT, decode_responses=True)
    try:
        version = client.info("server")["redis_version"]
        yield Finding("redis", "ok", f"{url} is Redis {version}.")
        try:
            policy = client.config_get("maxmemory-policy").get("maxmemory-policy")
        except ResponseError:  # hosted ones forbid CONFIG
            return
        yield _policy(policy)
    except (RedisError, OSError) as error:
        yield Finding(
            "redis", "problem", f"{url} does not answer: {error}.",
            "Start it, and look at REDIS_URL. Meanwhile processes hear of each other's updates within 2 s, and calls "
            "reach only devices at the same process.",
        )  # fmt: skip
    finally:
        client.close()


def _policy(policy: str | None) -> Finding:
    if policy == "noeviction":
        return Finding("redis memory", "ok", "Redis drops no keys when its memory is full (noeviction).")
    return Finding(
        "redis memory", "warning", f"Redis drops keys when its memory is full ({policy}); devices at other processes "
        "would then count as gone until they are announced again.", "Set maxmemory-policy to noeviction in redis.conf.",
    )  # fmt: skip
