"""Where a key has to go, in plain Python on PyPI's xxhash: what the server's answers are held against.

XXH3-64 of the key, seeded with XXH3-64 of the salt under the purpose of the draw; of that the 53 upper bits. Two arms by `u < w`,
more by weighted rendezvous (Schindelhauer & Schomaker 2005).
"""

import math
from collections.abc import Mapping

import xxhash

WHOLE = 1 << 53
VARIANT = 2


def position(salt: str, key: str) -> int:
    """Place of a key in the draw of the variant, in [0, 2^53)."""
    return int(xxhash.xxh3_64_intdigest(key.encode(), xxhash.xxh3_64_intdigest(salt.encode(), VARIANT))) >> 11


def assigned(weights: Mapping[str, int], salt: str, key: str) -> str:
    """The version of a key; weights in basis points by version."""
    versions = sorted(weights, key=int)
    if len(versions) == 1:
        return versions[0]
    if len(versions) == 2:
        return versions[1 if position(salt, key) < weights[versions[1]] * WHOLE // 10_000 else 0]
    seed = xxhash.xxh3_64_intdigest(salt.encode(), VARIANT)
    scores = {}
    for version in versions:
        if weights[version]:
            own = xxhash.xxh3_64_intdigest(version.encode(), seed)
            u = ((xxhash.xxh3_64_intdigest(key.encode(), own) >> 11) + 1) / WHOLE
            scores[version] = -math.log(u) / weights[version]
    return min(scores, key=lambda version: scores[version])


__all__ = ["assigned", "position"]
