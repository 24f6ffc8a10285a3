"""Calls from one client of an account to another: `registry` knows who answers, `handlers` are the socket events."""
