"""The protocol's messages, in a descriptor pool of their own, and its services as a table."""

from serve.protocol import messages, service
from serve.protocol.pool import FILE_NAMES, POOL, files_declaring, files_named

__all__ = ["FILE_NAMES", "POOL", "files_declaring", "files_named", "messages", "service"]
