"""Threads for what blocks on the disk or computes for long.

They are not those of the event loop's own executor, which looks up host names when uvloop is not installed: look-ups
on a network that is down take 10 s each, and files must not wait for them.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

THREADS_MAX: Final = 8

_POOL: Final = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="disk")


async def run(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Return what `function` returns, which runs on one of the threads. Raises what it raises."""
    return await asyncio.get_running_loop().run_in_executor(_POOL, functools.partial(function, *args, **kwargs))
