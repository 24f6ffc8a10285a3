"""The database: transactions, group commit, reads; SQLite is one engine behind it.

database.py      Database, what the rest of the program uses
transaction.py   a transaction, as operations see it
engine.py        what an engine must offer
group_commit.py  the queue of writes, groups, order, numbering of updates
read_queue.py    the queue of reads of one connection
sqlite/          the SQLite engine, its schema and migrations
"""

from happy_light.store.database import Database
from happy_light.store.engine import DiskUsage
from happy_light.store.sqlite.engine import SqliteEngine
from happy_light.store.sqlite.schema import (
    APPLICATION_ID,
    MIGRATIONS,
    SCHEMA_VERSION,
    create_or_migrate,
    open_readonly,
)
from happy_light.store.transaction import ReadTransaction, Row, Transaction

__all__ = [
    "APPLICATION_ID",
    "MIGRATIONS",
    "SCHEMA_VERSION",
    "Database",
    "DiskUsage",
    "ReadTransaction",
    "Row",
    "SqliteEngine",
    "Transaction",
    "create_or_migrate",
    "open_readonly",
]
