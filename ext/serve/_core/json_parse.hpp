// What the JSON codec needs of C++, as plain functions that never throw: simdjson's DOM parser and std::to_chars.
#pragma once
#define SIMDJSON_EXCEPTIONS 0
#include <simdjson.h>

#include <charconv>
#include <cstdint>

namespace headrace {

constexpr size_t JSON_DEPTH = 100;
constexpr size_t JSON_KEPT = 1 << 20;  // bytes of text for which a thread keeps its parser's memory, about 14 times as much

struct JsonThread {
    simdjson::dom::parser parser;
    simdjson::dom::document document;
};

inline JsonThread &json_thread() noexcept {
    static thread_local JsonThread thread;
    return thread;
}

// 0 or simdjson's error code. The text needs 64 readable bytes behind it. The tape (its format: simdjson's doc/tape.md) and the strings
// live until this thread's next json_parse or json_release. Capacity grows in powers of two, so that growing bodies do not reallocate each time.
inline int json_parse(const uint8_t *text, size_t length, uint64_t **tape, const uint8_t **strings) noexcept {
    JsonThread &thread = json_thread();
    if (length > simdjson::SIMDJSON_MAXSIZE_BYTES / 2) return simdjson::CAPACITY;
    if (length > thread.document.capacity() || length > thread.parser.capacity()) {
        size_t capacity = 4096;
        while (capacity < length) capacity *= 2;
        if (auto error = thread.parser.allocate(capacity, JSON_DEPTH)) return error;
        if (auto error = thread.document.allocate(capacity)) return error;
    }
    if (auto error = thread.parser.parse_into_document(thread.document, text, length, false).error()) return error;
    *tape = thread.document.tape.get();
    *strings = thread.document.string_buf.get();
    return 0;
}

inline void json_release() noexcept {
    JsonThread &thread = json_thread();
    if (thread.document.capacity() > JSON_KEPT) thread = JsonThread();
}

inline const char *json_error_text(int code) noexcept { return simdjson::error_message(static_cast<simdjson::error_code>(code)); }

inline bool is_utf8(const uint8_t *data, size_t length) noexcept {
    return simdjson::validate_utf8(reinterpret_cast<const char *>(data), length);
}

// The shortest decimal that reads back as the same value; the end of what was written, at most NUMBER_ROOM bytes on.
constexpr size_t NUMBER_ROOM = 32;
template <class Number>
inline char *put_number(char *at, Number value) noexcept {
    return std::to_chars(at, at + NUMBER_ROOM, value).ptr;
}

}  // namespace headrace
