"""Inference answers in JSON. Native threads use the functions of json_encode.pxd; here is what tests see."""

def encode_for_test(
    model_name: bytes,
    model_version: bytes,
    request_id: bytes | None,
    outputs: list[tuple[bytes, bytes, tuple[int, ...], bytes, bool]],
    before: bytes = ...,
    repeat: int = ...,
) -> tuple[bytes, int, int, str]: ...
def encode_error_for_test(text: bytes) -> bytes: ...
