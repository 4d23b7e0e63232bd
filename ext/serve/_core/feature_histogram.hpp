// Histograms over frozen edges, and sums that are exact in any order. Header only; no allocation, no exception, no Python.
//
// Rows are taken in blocks and turned, so that the values of one feature lie side by side. A block in which every value is finite and no
// row is null takes the quick way: the slot is the number of edges <= x. With AVX2 all edges of a feature are compared at once and the
// hits counted; elsewhere it is a binary search without branches, four values at a time. Both count the same.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace headrace {

constexpr int BLOCK = 128;          // rows at a time: 16 features of float32 in the L1 cache
constexpr int N_SPECIAL = 4;        // slots behind `capacity`: NaN, +inf, -inf, null

struct Frozen {
    int64_t n_features;
    int64_t capacity;               // a power of two; each feature has capacity edges, padded with +inf
    const double* edges;            // [n_features][capacity]
    const float* narrow;            // the same for float32: the least float32 that is no less
    const double* centre;           // [n_features]
    const double* scale;            // [n_features], powers of two
};

struct Rows {
    const uint8_t* values;          // element [row][feature] is at row * stride + feature
    int datatype;                   // DataType of tensors.pxd
    int64_t stride;
    int64_t n_rows;
    const uint8_t* validity;        // Arrow bitmap of rows, NULL: all valid
    int64_t validity_offset;        // bits
    const int32_t* marks;           // [n_rows], NULL: none. A feature has two rows of slots then: where marks is another feature, and itself
};

struct Sums {
    int64_t* counts;                // [n_features][1 or 2][capacity + 4]
    double* moments;                // [n_features][4]: sum, sum of squares, min, max; NULL: not wanted
};

// --- one value ---------------------------------------------------------------------------------------------------------

inline float half_to_float(uint16_t half) {
    const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
    const uint32_t exponent = (half >> 10) & 0x1fu;
    const uint32_t fraction = half & 0x3ffu;
    if (exponent == 0) {
        const float tiny = static_cast<float>(fraction) * 0x1p-24f;
        return sign ? -tiny : tiny;
    }
    const uint32_t bits = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112u) << 23) | (fraction << 13);
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

struct Half { uint16_t bits; };

template <typename T> inline T widened(T value) { return value; }
inline float widened(Half value) { return half_to_float(value.bits); }

// What a value is compared as: float32 where that holds every value of the type, else double.
template <typename T> struct Compared { using type = double; };
template <> struct Compared<float> { using type = float; };
template <> struct Compared<Half> { using type = float; };
template <> struct Compared<int8_t> { using type = float; };
template <> struct Compared<uint8_t> { using type = float; };
template <> struct Compared<int16_t> { using type = float; };
template <> struct Compared<uint16_t> { using type = float; };

inline const float* edges_of(const Frozen& frozen, int64_t feature, float) { return frozen.narrow + feature * frozen.capacity; }
inline const double* edges_of(const Frozen& frozen, int64_t feature, double) { return frozen.edges + feature * frozen.capacity; }

inline bool is_valid(const Rows& rows, int64_t row) {
    const int64_t bit = row + rows.validity_offset;
    return rows.validity == nullptr || ((rows.validity[bit >> 3] >> (bit & 7)) & 1);
}

template <typename W> inline int64_t slot_of(const W* edges, int64_t capacity, W x) {
    int64_t at = 0;
    for (int64_t step = capacity >> 1; step; step >>= 1) at += edges[at + step - 1] <= x ? step : 0;
    return at;
}

// Rounded to a multiple of unit, a power of two: adding 1.5 * 2^52 units leaves no room for anything finer.
inline double rounded(double value, double unit) {
    const double big = unit * 0x1.8p52;
    return (value + big) - big;
}

struct Frame {                      // how a feature's sums are rounded
    double centre, unit, unit2;
    Frame(const Frozen& frozen, int64_t feature)
        : centre(frozen.centre[feature]), unit(frozen.scale[feature] * 0x1p-24),
          unit2(frozen.scale[feature] * frozen.scale[feature] * 0x1p-24) {}
};

inline void add_moments(double x, const Frame& frame, double* moments) {
    const double d = rounded(x - frame.centre, frame.unit);
    moments[0] += d;
    moments[1] += rounded(d * d, frame.unit2);
    if (x < moments[2]) moments[2] = x;
    if (x > moments[3]) moments[3] = x;
}

// --- a block of one feature --------------------------------------------------------------------------------------------

// Where the counts of a block go. Row i counts at counts, or n_slots behind it where marks[i] is the feature.
struct Slots {
    int64_t* counts;
    int64_t capacity;
    const int32_t* marks;           // of the block, NULL: none
    int32_t feature;

    int64_t* of(int i) const { return counts + (marks != nullptr && marks[i] == feature ? capacity + N_SPECIAL : 0); }
};

template <typename W> inline bool is_finite(W x) { return std::fabs(x) <= std::numeric_limits<W>::max(); }

struct Portable {
    template <typename W> static bool all_finite(const W* x, int n) {
        bool finite = true;
        for (int i = 0; i < n; i++) finite &= is_finite(x[i]);
        return finite;
    }
    template <typename W> static void count(const W* edges, const W* x, int n, const Slots& slots) {
        int i = 0;
        for (; i + 4 <= n; i += 4) {
            int64_t a = 0, b = 0, c = 0, d = 0;
            for (int64_t step = slots.capacity >> 1; step; step >>= 1) {
                a += (edges[a + step - 1] <= x[i]) * step;
                b += (edges[b + step - 1] <= x[i + 1]) * step;
                c += (edges[c + step - 1] <= x[i + 2]) * step;
                d += (edges[d + step - 1] <= x[i + 3]) * step;
            }
            slots.of(i)[a]++, slots.of(i + 1)[b]++, slots.of(i + 2)[c]++, slots.of(i + 3)[d]++;
        }
        for (; i < n; i++) slots.of(i)[slot_of(edges, slots.capacity, x[i])]++;
    }
    template <typename W> static void add(const W* x, int n, const Frame& frame, double* moments) {
        for (int i = 0; i < n; i++) add_moments(x[i], frame, moments);
    }
};

#if defined(__x86_64__)
#define HEADRACE_AVX2 __attribute__((target("avx2,popcnt")))
#define HEADRACE_AVX2_INLINE __attribute__((target("avx2,popcnt"), always_inline)) inline

// 32 edges in registers, and how many of them are <= x: a lane of 32 bits for each; their order is nobody's concern.
struct Edges32 {
    __m256 a, b, c, d;
    HEADRACE_AVX2_INLINE explicit Edges32(const float* e)
        : a(_mm256_loadu_ps(e)), b(_mm256_loadu_ps(e + 8)), c(_mm256_loadu_ps(e + 16)), d(_mm256_loadu_ps(e + 24)) {}
    static HEADRACE_AVX2_INLINE __m256i hits(__m256 edges, __m256 x) { return _mm256_castps_si256(_mm256_cmp_ps(edges, x, _CMP_LE_OQ)); }
    HEADRACE_AVX2_INLINE int below(float value) const {
        const __m256 x = _mm256_set1_ps(value);
        const __m256i low = _mm256_packs_epi32(hits(a, x), hits(b, x)), high = _mm256_packs_epi32(hits(c, x), hits(d, x));
        return __builtin_popcount(static_cast<unsigned>(_mm256_movemask_epi8(_mm256_packs_epi16(low, high))));
    }
};

struct Edges32Double {
    __m256d e[8];
    HEADRACE_AVX2_INLINE explicit Edges32Double(const double* edges) {
        for (int i = 0; i < 8; i++) e[i] = _mm256_loadu_pd(edges + 4 * i);
    }
    static HEADRACE_AVX2_INLINE __m256i hits(__m256d low, __m256d high, __m256d x) {
        return _mm256_castps_si256(_mm256_shuffle_ps(_mm256_castpd_ps(_mm256_cmp_pd(low, x, _CMP_LE_OQ)),
                                                     _mm256_castpd_ps(_mm256_cmp_pd(high, x, _CMP_LE_OQ)), 0x88));
    }
    HEADRACE_AVX2_INLINE int below(double value) const {
        const __m256d x = _mm256_set1_pd(value);
        const __m256i low = _mm256_packs_epi32(hits(e[0], e[1], x), hits(e[2], e[3], x));
        const __m256i high = _mm256_packs_epi32(hits(e[4], e[5], x), hits(e[6], e[7], x));
        return __builtin_popcount(static_cast<unsigned>(_mm256_movemask_epi8(_mm256_packs_epi16(low, high))));
    }
};

template <typename W> struct EdgesOf;
template <> struct EdgesOf<float> { using type = Edges32; };
template <> struct EdgesOf<double> { using type = Edges32Double; };

HEADRACE_AVX2_INLINE __m256d load4(const float* x) { return _mm256_cvtps_pd(_mm_loadu_ps(x)); }
HEADRACE_AVX2_INLINE __m256d load4(const double* x) { return _mm256_loadu_pd(x); }

struct Avx2 {
    // x - x is 0 of a finite number and NaN of any other.
    static HEADRACE_AVX2 bool all_finite(const float* x, int n) {
        __m256 other = _mm256_setzero_ps();
        int i = 0;
        for (; i + 8 <= n; i += 8) {
            const __m256 v = _mm256_loadu_ps(x + i);
            other = _mm256_or_ps(other, _mm256_cmp_ps(_mm256_sub_ps(v, v), _mm256_setzero_ps(), _CMP_UNORD_Q));
        }
        return _mm256_movemask_ps(other) == 0 && Portable::all_finite(x + i, n - i);
    }
    static HEADRACE_AVX2 bool all_finite(const double* x, int n) {
        __m256d other = _mm256_setzero_pd();
        int i = 0;
        for (; i + 4 <= n; i += 4) {
            const __m256d v = _mm256_loadu_pd(x + i);
            other = _mm256_or_pd(other, _mm256_cmp_pd(_mm256_sub_pd(v, v), _mm256_setzero_pd(), _CMP_UNORD_Q));
        }
        return _mm256_movemask_pd(other) == 0 && Portable::all_finite(x + i, n - i);
    }
    template <typename W> static HEADRACE_AVX2 void count(const W* edges, const W* x, int n, const Slots& slots) {
        using Edges = typename EdgesOf<W>::type;
        if (slots.capacity == 32 && slots.marks == nullptr) {
            const Edges all(edges);
            int64_t* counts = slots.counts;
            for (int i = 0; i < n; i++) counts[all.below(x[i])]++;
            return;
        }
        int at[BLOCK] = {};
        for (int64_t e = 0; e < slots.capacity; e += 32) {
            const Edges some(edges + e);
            for (int i = 0; i < n; i++) at[i] += some.below(x[i]);
        }
        for (int i = 0; i < n; i++) slots.of(i)[at[i]]++;
    }
    template <typename W> static HEADRACE_AVX2 void add(const W* x, int n, const Frame& frame, double* moments) {
        const __m256d centre = _mm256_set1_pd(frame.centre), big = _mm256_set1_pd(frame.unit * 0x1.8p52),
                      big2 = _mm256_set1_pd(frame.unit2 * 0x1.8p52);
        __m256d sum = _mm256_setzero_pd(), squares = sum, low = _mm256_set1_pd(moments[2]), high = _mm256_set1_pd(moments[3]);
        int i = 0;
        for (; i + 4 <= n; i += 4) {
            const __m256d v = load4(x + i);
            const __m256d d = _mm256_sub_pd(_mm256_add_pd(_mm256_sub_pd(v, centre), big), big);
            sum = _mm256_add_pd(sum, d);
            squares = _mm256_add_pd(squares, _mm256_sub_pd(_mm256_add_pd(_mm256_mul_pd(d, d), big2), big2));
            low = _mm256_min_pd(low, v);
            high = _mm256_max_pd(high, v);
        }
        double lanes[16];
        _mm256_storeu_pd(lanes, sum);
        _mm256_storeu_pd(lanes + 4, squares);
        _mm256_storeu_pd(lanes + 8, low);
        _mm256_storeu_pd(lanes + 12, high);
        for (int lane = 0; lane < 4; lane++) {
            moments[0] += lanes[lane];
            moments[1] += lanes[4 + lane];
            if (lanes[8 + lane] < moments[2]) moments[2] = lanes[8 + lane];
            if (lanes[12 + lane] > moments[3]) moments[3] = lanes[12 + lane];
        }
        for (; i < n; i++) add_moments(x[i], frame, moments);
    }
};
#endif

// --- all rows ----------------------------------------------------------------------------------------------------------

inline bool block_is_valid(const Rows& rows, int64_t first, int n) {
    if (rows.validity == nullptr) return true;
    for (int i = 0; i < n; i++) if (!is_valid(rows, first + i)) return false;
    return true;
}

template <typename W> void slow_block(const W* edges, const Rows& rows, int64_t first, const W* x, int n, const Slots& slots,
                                      const Frame& frame, double* moments) {
    for (int i = 0; i < n; i++) {
        int64_t* counts = slots.of(i);
        if (!is_valid(rows, first + i)) counts[slots.capacity + 3]++;
        else if (x[i] != x[i]) counts[slots.capacity]++;
        else if (!is_finite(x[i])) counts[slots.capacity + (x[i] > 0 ? 1 : 2)]++;
        else {
            counts[slot_of(edges, slots.capacity, x[i])]++;
            if (moments != nullptr) add_moments(x[i], frame, moments);
        }
    }
}

template <typename Way, typename T> void add_typed(const Frozen& frozen, const Rows& rows, const Sums& sums) {
    using W = typename Compared<T>::type;
    W turned[BLOCK];
    const T* values = reinterpret_cast<const T*>(rows.values);
    const int64_t n_rows_of_slots = rows.marks != nullptr ? 2 : 1;
    for (int64_t first = 0; first < rows.n_rows; first += BLOCK) {
        const int n = static_cast<int>(rows.n_rows - first < BLOCK ? rows.n_rows - first : BLOCK);
        const bool whole = block_is_valid(rows, first, n);
        for (int64_t feature = 0; feature < frozen.n_features; feature++) {
            const T* at = values + first * rows.stride + feature;
            for (int i = 0; i < n; i++) turned[i] = static_cast<W>(widened(at[i * rows.stride]));
            const W* edges = edges_of(frozen, feature, W());
            const Frame frame(frozen, feature);
            double* moments = sums.moments != nullptr ? sums.moments + 4 * feature : nullptr;
            const Slots slots{sums.counts + feature * n_rows_of_slots * (frozen.capacity + N_SPECIAL), frozen.capacity,
                              rows.marks != nullptr ? rows.marks + first : nullptr, static_cast<int32_t>(feature)};
            if (!whole || !Way::all_finite(turned, n)) {
                slow_block(edges, rows, first, turned, n, slots, frame, moments);
                continue;
            }
            Way::count(edges, turned, n, slots);
            if (moments != nullptr) Way::add(turned, n, frame, moments);
        }
    }
}

// 0, or -1 for a datatype that has no numbers. Numbered as in tensors.pxd.
template <typename Way> int add_way(const Frozen& frozen, const Rows& rows, const Sums& sums) {
    switch (rows.datatype) {
        case 2: add_typed<Way, uint8_t>(frozen, rows, sums); return 0;
        case 3: add_typed<Way, uint16_t>(frozen, rows, sums); return 0;
        case 4: add_typed<Way, uint32_t>(frozen, rows, sums); return 0;
        case 5: add_typed<Way, uint64_t>(frozen, rows, sums); return 0;
        case 6: add_typed<Way, int8_t>(frozen, rows, sums); return 0;
        case 7: add_typed<Way, int16_t>(frozen, rows, sums); return 0;
        case 8: add_typed<Way, int32_t>(frozen, rows, sums); return 0;
        case 9: add_typed<Way, int64_t>(frozen, rows, sums); return 0;
        case 10: add_typed<Way, Half>(frozen, rows, sums); return 0;
        case 11: add_typed<Way, float>(frozen, rows, sums); return 0;
        case 12: add_typed<Way, double>(frozen, rows, sums); return 0;
        default: return -1;
    }
}

inline int histogram_add(const Frozen& frozen, const Rows& rows, const Sums& sums, bool portable) {
#if defined(__x86_64__)
    if (!portable && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("popcnt")) return add_way<Avx2>(frozen, rows, sums);
#endif
    return add_way<Portable>(frozen, rows, sums);
}

// --- random Fourier features -------------------------------------------------------------------------------------------

template <typename T> bool row_as_float(const uint8_t* at, int64_t n, float* row) {
    bool finite = true;
    for (int64_t i = 0; i < n; i++) {
        T value;
        std::memcpy(&value, at + i * sizeof(T), sizeof(T));
        row[i] = static_cast<float>(widened(value));
        finite &= is_finite(row[i]);
    }
    return finite;
}

// A row of n numbers as float32; false: one of them is not finite, or the datatype has no numbers.
inline bool read_row(int datatype, const uint8_t* at, int64_t n, float* row) {
    switch (datatype) {
        case 2: return row_as_float<uint8_t>(at, n, row);
        case 3: return row_as_float<uint16_t>(at, n, row);
        case 4: return row_as_float<uint32_t>(at, n, row);
        case 5: return row_as_float<uint64_t>(at, n, row);
        case 6: return row_as_float<int8_t>(at, n, row);
        case 7: return row_as_float<int16_t>(at, n, row);
        case 8: return row_as_float<int32_t>(at, n, row);
        case 9: return row_as_float<int64_t>(at, n, row);
        case 10: return row_as_float<Half>(at, n, row);
        case 11: return row_as_float<float>(at, n, row);
        case 12: return row_as_float<double>(at, n, row);
        default: return false;
    }
}

constexpr int FOURIER_BLOCK = 8;    // D is a multiple of it

// sums[d] += sqrt(2 / D) cos(weights[:, d] . x + phases[d]), rounded to a multiple of 2^-30, so that sums are exact in any order.
// Products are summed in the order of the elements: what a row adds depends on nothing but the row.
inline void fourier_add(const float* x, int64_t n, const float* weights, const double* phases, int64_t D, double* sums) {
    const double height = std::sqrt(2.0 / static_cast<double>(D));
    for (int64_t first = 0; first < D; first += FOURIER_BLOCK) {
        double angle[FOURIER_BLOCK];
        for (int d = 0; d < FOURIER_BLOCK; d++) angle[d] = phases[first + d];
        for (int64_t i = 0; i < n; i++) {
            const double v = x[i];
            const float* row = weights + i * D + first;
            for (int d = 0; d < FOURIER_BLOCK; d++) angle[d] += v * static_cast<double>(row[d]);
        }
        for (int d = 0; d < FOURIER_BLOCK; d++) sums[first + d] += rounded(height * std::cos(angle[d]), 0x1p-30);
    }
}

}  // namespace headrace
