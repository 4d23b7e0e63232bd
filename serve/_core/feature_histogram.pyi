# Histograms over frozen edges, codes of categories and random Fourier features, from Arrow buffers; all without the GIL.
#
# Buffers: values are little-endian elements of an OIP datatype, numbered as in tensors.pxd (UINT8 .. INT64 2 to 9, FP16 10, FP32 11,
# FP64 12); element (row, feature) is at offset + row * stride + feature. validity: an Arrow bitmap of rows, None: all valid;
# validity_offset in bits. Whatever is not inside its buffer, or has another shape, raises ValueError and changes nothing.
from typing import Self, TypeAlias

import numpy as np
import numpy.typing as npt
from typing_extensions import disjoint_base

_Bytes: TypeAlias = npt.NDArray[np.uint8]
_Codes: TypeAlias = npt.NDArray[np.int32]
_Counts: TypeAlias = npt.NDArray[np.int64]
_Hashes: TypeAlias = npt.NDArray[np.uint64]
_Doubles: TypeAlias = npt.NDArray[np.float64]

# The edges of n features: shape (n, capacity - 1), ascending, padded with +inf; capacity is a power of two, 32 or more.
# add: the slot of x is the number of edges <= x; behind `capacity` slots stand NaN, +inf, -inf and null. counts: (n, capacity + 4), added
# to. moments: (n, 4), added to: sum of x - centre, rounded to multiples of scale * 2^-24, sum of its square, to scale^2 * 2^-24, min,
# max, of finite x. marks: (n_rows,); counts has then shape (2 n, capacity + 4), for feature f row 2 f where marks != f and 2 f + 1 where
# it is. portable: without AVX2; the same counts and sums.
@disjoint_base
class FrozenBins:
    def __new__(cls, edges: _Doubles, centre: _Doubles, scale: _Doubles) -> Self: ...
    def add(
        self,
        values: _Bytes,
        datatype: int,
        offset: int,
        stride: int,
        n_rows: int,
        validity: _Bytes | None,
        validity_offset: int,
        counts: _Counts,
        moments: _Doubles | None = None,
        marks: _Codes | None = None,
        portable: bool = False,
    ) -> None: ...

# Categories by XXH3-64 of their bytes. encode: the code of each value is its key's index, n_keys for any other, n_keys + 1 for null.
# Integers have the bytes of their decimal text. unseen: the least hashes of others, ascending, padded with 2^64 - 1, updated.
# offsets: Arrow's, one more than there are values; validity_offset: of the first of them.
@disjoint_base
class CategoryTable:
    n_keys: int
    def __new__(cls, keys: list[bytes]) -> Self: ...
    def encode_bytes(
        self,
        offsets: _Codes,
        data: _Bytes,
        validity: _Bytes | None,
        validity_offset: int,
        codes: _Codes,
        unseen: _Hashes | None = None,
    ) -> None: ...
    def encode_integers(
        self,
        values: _Counts,
        validity: _Bytes | None,
        validity_offset: int,
        codes: _Codes,
        unseen: _Hashes | None = None,
    ) -> None: ...

# sums += sqrt(2 / D) cos(weights.T x + phases) over the chosen rows that are valid and finite, rounded to multiples of 2^-30; how many
# there were. weights: (elements, D), D a multiple of 8.
def fourier_add(
    values: _Bytes,
    datatype: int,
    offset: int,
    stride: int,
    n_rows: int,
    validity: _Bytes | None,
    validity_offset: int,
    chosen: _Counts,
    weights: npt.NDArray[np.float32],
    phases: _Doubles,
    sums: _Doubles,
) -> int: ...
