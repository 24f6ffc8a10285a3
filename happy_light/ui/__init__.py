"""What browsers get: the start page and the web app."""
