"""What an operator does: accounts, registration, backup, doctor, prune, stats, and the API for it."""
