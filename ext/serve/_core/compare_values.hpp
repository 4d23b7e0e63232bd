// Numeric elements of every datatype: the largest of them, and whether two vectors disagree. compare.pyx says when.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace headrace {

// As in tensors.pxd, whose numbers are those of Triton's model_config.proto.
enum Datatype {
    UINT8 = 2, UINT16 = 3, UINT32 = 4, UINT64 = 5, INT8 = 6, INT16 = 7, INT32 = 8, INT64 = 9, FP16 = 10, FP32 = 11, FP64 = 12, BF16 = 14
};

inline float float_of(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// 16-bit floats that compare and convert like numbers.
struct Half {
    uint16_t bits;
    operator float() const {
        const uint32_t sign = uint32_t(bits >> 15) << 31, exponent = bits >> 10 & 31, fraction = bits & 1023;
        if (exponent == 0)                                      // zero and subnormals: units of 2^-24
            return float_of(sign | 0x3F800000u) * (float(fraction) / 16777216.0f);
        return float_of(sign | (exponent == 31 ? 255u : exponent + 112u) << 23 | fraction << 13);
    }
};

struct Brain {
    uint16_t bits;
    operator float() const { return float_of(uint32_t(bits) << 16); }
};

struct Rule {
    int kind;                                                   // compare.CompareKind; exact is not among what comes here
    double atol, rtol;
    int k;
    double min_overlap;
};

enum Kind { ARGMAX = 1, TOLERANCE = 2, TOP_K = 3 };
constexpr int MAX_TOP_K = 1000;

template <class T> inline bool is_nan(T) { return false; }
inline bool is_nan(Half v) { return std::isnan(float(v)); }
inline bool is_nan(Brain v) { return std::isnan(float(v)); }
inline bool is_nan(float v) { return std::isnan(v); }
inline bool is_nan(double v) { return std::isnan(v); }

// Larger first, NaN last, the lower index first among equals: a total order.
template <class T> inline bool is_better(const T *values, int64_t a, int64_t b) {
    if (values[a] > values[b])
        return true;
    if (values[a] < values[b])
        return false;
    if (is_nan(values[a]) != is_nan(values[b]))
        return is_nan(values[b]);
    return a < b;
}

template <class T> int64_t best_of(const T *values, int64_t n) {
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (values[i] > values[best] || is_nan(values[best]))   // of NaNs any will do
            best = i;
    return n > 0 && !is_nan(values[best]) ? best : -1;
}

// NaN agrees with NaN, an infinity with itself.
template <class T> bool is_apart(const Rule &rule, const T *a, const T *b, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        if (a[i] == b[i] || (is_nan(a[i]) && is_nan(b[i])))
            continue;
        const double x = double(a[i]), y = double(b[i]);
        if (!std::isfinite(x) || !std::isfinite(y) || std::fabs(x - y) > rule.atol + rule.rtol * std::fabs(x))
            return true;
    }
    return false;
}

template <class T> void sift_down(const T *values, int64_t *heap, int64_t n, int64_t at) {
    const int64_t moved = heap[at];
    while (2 * at + 1 < n) {
        int64_t child = 2 * at + 1;
        if (child + 1 < n && is_better(values, heap[child], heap[child + 1]))
            child++;                                            // the worst on top
        if (!is_better(values, moved, heap[child]))
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = moved;
}

// Index of the k-th best of n, 1 <= k <= min(n, MAX_TOP_K), in O(n log k).
template <class T> int64_t kth_best(const T *values, int64_t n, int64_t k) {
    int64_t heap[MAX_TOP_K];
    for (int64_t i = 0; i < k; i++)
        heap[i] = i;
    for (int64_t i = k / 2; i-- > 0;)
        sift_down(values, heap, k, i);
    for (int64_t i = k; i < n; i++)
        if (is_better(values, i, heap[0])) {
            heap[0] = i;
            sift_down(values, heap, k, 0);
        }
    return heap[0];
}

// Jaccard of the two sets of the k best, shared / (2 k - shared), is less than the rule's minimum.
template <class T> bool overlap_is_small(const Rule &rule, const T *a, const T *b, int64_t n) {
    const int64_t k = rule.k < n ? rule.k : n;
    const int64_t last_a = kth_best(a, n, k), last_b = kth_best(b, n, k);
    int64_t shared = 0;
    for (int64_t i = 0; i < n; i++)
        shared += !is_better(a, last_a, i) && !is_better(b, last_b, i);
    return double(shared) < rule.min_overlap * double(2 * k - shared);
}

// n elements of one row, in vectors of `width`.
template <class T> bool values_differ(const Rule &rule, const T *a, const T *b, int64_t n, int64_t width) {
    if (rule.kind == TOLERANCE)
        return is_apart(rule, a, b, n);
    for (int64_t at = 0; at < n; at += width)
        if (rule.kind == ARGMAX ? best_of(a + at, width) != best_of(b + at, width) : overlap_is_small(rule, a + at, b + at, width))
            return true;
    return false;
}

// call(typed pointer) for the elements of a datatype; BOOL counts as UINT8.
template <class Call> auto with_values(int datatype, const uint8_t *data, Call call) {
    switch (datatype) {
    case UINT16: return call(reinterpret_cast<const uint16_t *>(data));
    case UINT32: return call(reinterpret_cast<const uint32_t *>(data));
    case UINT64: return call(reinterpret_cast<const uint64_t *>(data));
    case INT8: return call(reinterpret_cast<const int8_t *>(data));
    case INT16: return call(reinterpret_cast<const int16_t *>(data));
    case INT32: return call(reinterpret_cast<const int32_t *>(data));
    case INT64: return call(reinterpret_cast<const int64_t *>(data));
    case FP16: return call(reinterpret_cast<const Half *>(data));
    case FP32: return call(reinterpret_cast<const float *>(data));
    case FP64: return call(reinterpret_cast<const double *>(data));
    case BF16: return call(reinterpret_cast<const Brain *>(data));
    default: return call(data);
    }
}

inline double element_value(int datatype, const uint8_t *at) {
    return with_values(datatype, at, [](const auto *value) { return double(*value); });
}

inline int64_t largest(int datatype, const uint8_t *data, int64_t n) {
    return with_values(datatype, data, [n](const auto *values) { return best_of(values, n); });
}

inline bool numbers_differ(const Rule &rule, int datatype, const uint8_t *left, const uint8_t *right, int64_t n, int64_t width) {
    return with_values(datatype, left, [&](const auto *a) {
        return values_differ(rule, a, reinterpret_cast<decltype(a)>(right), n, width);
    });
}

}  // namespace headrace
