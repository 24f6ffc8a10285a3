"""The database: transactions, group commit, reads; behind it one of two engines, SQLite or PostgreSQL.

database.py      Database, what the rest of the program uses
transaction.py   a transaction, as operations see it
engine.py        what an engine must offer
group_commit.py  the queue of writes, groups, order, numbering of updates
read_queue.py    the queue of reads of one connection
job_thread.py    the thread of a connection
engines.py       which engine the settings name
sqlite/          the SQLite engine, its schema and migrations
postgres/        the PostgreSQL engine, imported only when the settings name one
"""

from happy_light.store.database import Database
from happy_light.store.engine import DiskUsage
from happy_light.store.engines import engine_of, migrate, open_for_reading, require_postgres
from happy_light.store.sqlite.engine import SqliteEngine
from happy_light.store.sqlite.schema import APPLICATION_ID, MIGRATIONS, create_or_migrate, open_readonly
from happy_light.store.transaction import ReadTransaction, Row, SizeLimit, Transaction
from happy_light.store.version import SCHEMA_VERSION

__all__ = [
    "APPLICATION_ID",
    "MIGRATIONS",
    "SCHEMA_VERSION",
    "Database",
    "DiskUsage",
    "ReadTransaction",
    "Row",
    "SizeLimit",
    "SqliteEngine",
    "Transaction",
    "create_or_migrate",
    "engine_of",
    "migrate",
    "open_for_reading",
    "open_readonly",
    "require_postgres",
]
