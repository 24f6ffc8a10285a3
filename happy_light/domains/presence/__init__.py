"""Presence of sessions and machines: what is in the database, what is in memory, and the socket events."""
