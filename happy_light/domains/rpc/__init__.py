"""Calls from one client of an account to another. registry.py is its state."""
