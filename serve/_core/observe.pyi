# What is seen of an answer. Native threads use the functions of observe.pxd; here is what tests see.

def observe_for_test(
    kind: str, datatype: str, shape: list[int], content: bytes, *, batched: bool = True, n_bins: int = 65536
) -> tuple[int, bool]: ...
