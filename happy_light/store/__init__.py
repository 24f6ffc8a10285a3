"""The one place that knows SQLite.

tx.py       a transaction, as operations see it
writer.py   Store: connections, the writer, group commit
reader.py   a reading connection
thread.py   how a function gets on a connection's thread
schema.py   making, migrating and recognising the file
"""

from happy_light.store.schema import APPLICATION_ID, MIGRATIONS, SCHEMA_VERSION, look, prepare
from happy_light.store.tx import ReadTransaction, Row, Transaction
from happy_light.store.writer import Database

__all__ = [
    "APPLICATION_ID",
    "MIGRATIONS",
    "SCHEMA_VERSION",
    "Database",
    "ReadTransaction",
    "Row",
    "Transaction",
    "look",
    "prepare",
]
