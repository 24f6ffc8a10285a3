"""The description that the server makes of itself: OpenAPI 3.1 for HTTP, and the same for sockets."""

from happy_light.openapi.document import Tables, document
from happy_light.openapi.schemas import Schema

__all__ = ["Schema", "Tables", "document"]
