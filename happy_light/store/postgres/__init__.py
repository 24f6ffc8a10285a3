"""The PostgreSQL engine: imported only when DATABASE_URL names a PostgreSQL database, since psycopg is an extra.

sql.py         portable SQL as PostgreSQL takes it, and how values are sent
errors.py      what PostgreSQL's errors mean
connection.py  a connection that is made again after it was lost
dialect.py     where its SQL differs
schema.py      the schema happy_light: created and migrated
writer.py      the writing connection: locks, the outbox, commits whose outcome is unknown
engine.py      the engine: one writer, readers, leases
"""
