"""Authentication: the master secret, what is derived from it, and who is calling."""
