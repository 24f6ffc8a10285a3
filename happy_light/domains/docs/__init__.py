"""The description that the server makes of itself."""
