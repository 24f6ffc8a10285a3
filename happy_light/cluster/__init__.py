"""Several processes that are one server: they share a database, and tell each other over Redis what happens.

Imported only when REDIS_URL is set, since the library of Redis is an extra.
"""
