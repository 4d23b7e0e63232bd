// Elements of inputs against ranges. guard.pyx says when; the bytes are a client's, and aligned to nothing.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "compare_values.hpp"

namespace headrace {

// Limits of 16-bit floats are floats: narrowing them would move them.
template <class T> struct LimitOf { using type = T; };
template <> struct LimitOf<Half> { using type = float; };
template <> struct LimitOf<Brain> { using type = float; };

template <class T> inline typename LimitOf<T>::type load(const uint8_t *data, int64_t at) {
    T value;
    std::memcpy(&value, data + at * int64_t(sizeof value), sizeof value);
    return typename LimitOf<T>::type(value);
}

// Whether each of n values is in its range; NaN is in none. Without a branch, so that it becomes vector instructions.
template <class T, class L> __attribute__((optimize("O3"), noinline)) bool all_inside(
        const uint8_t *data, const L *low, const L *high, int64_t n) {
    int n_outside = 0;
    for (int64_t i = 0; i < n; i++) {
        const L value = load<T>(data, i);
        n_outside += !(value >= low[i]) | !(value <= high[i]);
    }
    return n_outside == 0;
}

template <class T, class L> __attribute__((optimize("O3"), noinline)) bool all_between(const uint8_t *data, L low, L high, int64_t n) {
    int n_outside = 0;
    for (int64_t i = 0; i < n; i++) {
        const L value = load<T>(data, i);
        n_outside += !(value >= low) | !(value <= high);
    }
    return n_outside == 0;
}

// Index of the first value of `rows` times `width` that is outside of its range, -1 when there is none. n_limits: width, or 1 for all alike.
// may_miss: by limit, whether NaN is let through.
template <class T> int64_t first_outside(
        const uint8_t *data, int64_t rows, int64_t width, const void *lows, const void *highs, const uint8_t *may_miss, int64_t n_limits) {
    using L = typename LimitOf<T>::type;
    const L *low = static_cast<const L *>(lows), *high = static_cast<const L *>(highs);
    const bool is_uniform = n_limits == 1;
    for (int64_t row = 0; row < rows; row++) {
        const uint8_t *values = data + row * width * int64_t(sizeof(T));
        if (is_uniform ? all_between<T>(values, low[0], high[0], width) : all_inside<T>(values, low, high, width))
            continue;
        for (int64_t i = 0; i < width; i++) {
            const L value = load<T>(values, i);
            const int64_t limit = is_uniform ? 0 : i;
            const bool is_inside = value >= low[limit] && value <= high[limit];
            if (!is_inside && !(may_miss[limit] && value != value))
                return row * width + i;
        }
    }
    return -1;
}

inline int64_t guard_first_outside(int datatype, const uint8_t *data, int64_t rows, int64_t width, const void *lows, const void *highs,
                                   const uint8_t *may_miss, int64_t n_limits) {
    return with_values(datatype, nullptr, [&](const auto *typed) {
        using T = std::remove_const_t<std::remove_pointer_t<decltype(typed)>>;
        return first_outside<T>(data, rows, width, lows, highs, may_miss, n_limits);
    });
}

// An integer (BOOL counts as UINT8) as 64 bits, sign extended; those of UINT64 as they are.
inline int64_t guard_integer(int datatype, const uint8_t *data, int64_t at) {
    return with_values(datatype, nullptr, [&](const auto *typed) {
        using T = std::remove_const_t<std::remove_pointer_t<decltype(typed)>>;
        return int64_t(load<T>(data, at));
    });
}

inline double guard_double(int datatype, const uint8_t *data, int64_t at) {
    return with_values(datatype, nullptr, [&](const auto *typed) {
        using T = std::remove_const_t<std::remove_pointer_t<decltype(typed)>>;
        return double(load<T>(data, at));
    });
}

}  // namespace headrace
