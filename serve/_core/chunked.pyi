# The chunked transfer coding. Native threads use the functions of chunked.pxd; here is what http1 reads, and what tests see.

TOKEN_BYTES: bytes
VALUE_BYTES: bytes

def decode_chunks(parts: list[bytes]) -> tuple[int, bytes, bytes, int, int, str]: ...
