"""Pictures: their type, size and thumbhash."""
