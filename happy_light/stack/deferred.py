"""Modules that come with the server and are rarely used: each is executed when a name in it is asked for.

They take an eighth of the CPU of all imports, and 3 MiB.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any, Final

# All have to be imported as `import name`: `from name import …` asks for a name.
NAMES: Final = frozenset(
    {
        # Hypercorn: HTTP/2, which this server does not speak, and its configuration files.
        "h2.connection", "h2.events", "h2.exceptions", "priority", "tomllib",
        # Starlette: reasons of errors, and streams of files.
        "http.client", "anyio", "anyio.abc", "anyio.to_thread",
        # websockets: its version, while it is developed.
        "importlib.metadata",
        # This server: pages, and backups.
        "html", "tarfile",
    }
)  # fmt: skip
_EXECUTING: Final = threading.RLock()


@contextlib.contextmanager
def deferring() -> Iterator[None]:
    """Defer the modules of `NAMES` as far as they are imported for the first time meanwhile.

    The standard library's LazyLoader would execute a module when it is imported again, which asks for its `__spec__`.
    """
    sys.meta_path.insert(0, _Finder)
    try:
        yield
    finally:
        sys.meta_path.remove(_Finder)


class _Finder:
    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in NAMES:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Later(name, spec.loader.path)
        return spec


class _Later(SourceFileLoader):
    waits = False

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Deferred(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        self.waits = True


class _Deferred(ModuleType):
    def __getattr__(self, name: str) -> Any:
        """Return what the module does not have yet. Raises what executing it raises; the next call tries it again."""
        loader = vars(self).get("__loader__")
        with _EXECUTING:  # another thread may have asked first
            if isinstance(loader, _Later) and loader.waits:
                loader.waits = False
                try:
                    SourceFileLoader.exec_module(loader, self)
                except BaseException:
                    loader.waits = True
                    raise
        return self.__getattribute__(name)
