# The inference messages on the wire. Native threads use the functions of wire.pxd; here is what tests see.
from typing_extensions import disjoint_base

def decode_for_test(message: bytes, repeat: int = ...) -> dict[str, object] | tuple[int, str]: ...
def encode_for_test(
    model_name: bytes,
    model_version: bytes,
    request_id: bytes | None,
    outputs: list[tuple[bytes, bytes, list[int], bytes]],
    *,
    stream: bool = ...,
    final_response: bool = ...,
    repeat: int = ...,
) -> bytes: ...
def encode_stream_error_for_test(text: bytes, request_id: bytes = b"") -> bytes: ...

@disjoint_base
class Scratch: ...
