"""What can be wrong with a request, natively: a kind and a sentence. `serve/errors.py` holds the same table for Python.

tests/core/test_failure.py holds the two tables against each other.
"""

cdef enum Kind:
    OK = 0
    CANCELLED = 1
    INVALID_ARGUMENT = 2
    NOT_FOUND = 3
    METHOD_NOT_ALLOWED = 4
    REQUEST_TIMEOUT = 5
    TOO_LARGE = 6
    HEADERS_TOO_LARGE = 7
    INTERNAL = 8
    NOT_IMPLEMENTED = 9
    UNAVAILABLE = 10
    DEADLINE_EXCEEDED = 11
    N_KINDS = 12

cdef enum:
    FAILURE_TEXT = 512

cdef struct Failure:
    # Owned by the request. kind is OK until something is wrong; text is UTF-8, NUL-terminated.
    int kind
    char[FAILURE_TEXT] text

cdef extern from * nogil:
    """
    #include <stdarg.h>
    #include <stdio.h>
    static const int headrace_grpc_code[] = {0, 1, 3, 5, 12, 4, 8, 8, 13, 12, 14, 4};
    __attribute__((unused)) static const char *const headrace_kind_name[] = {
        "OK", "CANCELLED", "INVALID_ARGUMENT", "NOT_FOUND", "METHOD_NOT_ALLOWED", "REQUEST_TIMEOUT", "TOO_LARGE", "HEADERS_TOO_LARGE",
        "INTERNAL", "NOT_IMPLEMENTED", "UNAVAILABLE", "DEADLINE_EXCEEDED"};
    static const int headrace_http_status[] = {200, 499, 400, 404, 405, 408, 413, 431, 500, 501, 503, 504};
    // Always -1, so that callers can `return fail(...)`. Truncates; a cut UTF-8 sequence at the end is dropped.
    __attribute__((unused, format(printf, 3, 4)))
    static int headrace_fail(void *failure, int kind, const char *format, ...) {
        struct layout { int kind; char text[512]; } *f = (struct layout *)failure;
        va_list arguments;
        va_start(arguments, format);
        int n = vsnprintf(f->text, sizeof(f->text), format, arguments);
        va_end(arguments);
        f->kind = kind;
        if (n >= (int)sizeof(f->text)) {
            int end = (int)sizeof(f->text) - 1, back = end;
            while (back > 0 && (f->text[back - 1] & 0xC0) == 0x80) back--;
            if (back > 0 && (f->text[back - 1] & 0x80)) f->text[back - 1] = 0;
        }
        return -1;
    }
    """
    const int* GRPC_CODE "headrace_grpc_code"
    const int* HTTP_STATUS "headrace_http_status"
    const char** KIND_NAME "headrace_kind_name"
    int fail "headrace_fail"(Failure* failure, int kind, const char* format, ...)
