"""Every patch of, and every private name of, Hypercorn, engineio, python-socketio and aiosqlite."""
