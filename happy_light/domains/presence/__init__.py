"""Presence of sessions and machines: heartbeats, ends and silence. tracker.py is its state."""
