"""The HTTP side: routing, requests, responses, limits."""
