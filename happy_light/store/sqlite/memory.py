"""SQLite's count of its memory, which is kept for the whole process and read by nobody.

Each allocation takes the same lock for it, and a list needs thousands of them: lists that are read at the same time
spent up to half of their CPU on waiting there for each other.
"""

from __future__ import annotations

from typing import Final

_MEMSTATUS: Final = 9  # SQLITE_CONFIG_MEMSTATUS


def stop_counting() -> None:
    """Tell SQLite to count no memory; nothing in this process may be connected to a database.

    Python's sqlite3 has no function for it. Where the library cannot be reached, it goes on counting.
    """
    try:
        import _sqlite3  # what sqlite3 is made of, to find the library that it uses
        import ctypes

        library = ctypes.CDLL(_sqlite3.__file__)
        configure = library.sqlite3_config
    except (ImportError, AttributeError, OSError):  # it is a part of the interpreter
        return
    configure.argtypes = (ctypes.c_int,)  # only the first: the others are variable arguments
    library.sqlite3_shutdown()  # Python has initialized it, and then it can no longer be configured
    configure(_MEMSTATUS, 0)
    library.sqlite3_initialize()
