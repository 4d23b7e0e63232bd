"""The ONNX Runtime library: opened once for the life of the process, its environment, its log and its errors.

It is never closed: its threads and its log call back into this module.
"""
from libc.stdint cimport uint64_t
from libc.stdio cimport snprintf

import os

from serve._core.failure cimport INTERNAL, INVALID_ARGUMENT, Failure, fail
from serve._core.ort_api cimport (
    ALLOCATOR_FREE, CREATE_CPU_MEMORY_INFO, CREATE_ENV_WITH_LOGGER_AND_THREAD_POOLS, CREATE_THREADING_OPTIONS, GET_DEFAULT_ALLOCATOR,
    GET_ERROR_CODE, GET_ERROR_MESSAGE, ORT_API_VERSION, ORT_ARENA_ALLOCATOR, ORT_INVALID_ARGUMENT, ORT_MEMORY_DEFAULT, ORT_WARNING,
    RELEASE_STATUS, RELEASE_THREADING_OPTIONS, SET_GLOBAL_INTER_OP_NUM_THREADS, SET_GLOBAL_INTRA_OP_NUM_THREADS,
    SET_GLOBAL_SPIN_CONTROL, AllocatorFree, Create, CreateCpuMemoryInfo, CreateEnvWithLoggerAndThreadPools, GetApi, GetApiBase,
    GetErrorCode, GetErrorMessage, GetVersionString, Release, SetInt, Status)
from serve._core.posix cimport RTLD_LOCAL, RTLD_NOW, Mutex, dlerror, dlopen, dlsym, mutex_init, mutex_lock, mutex_unlock

from serve.errors import ConfigurationError, InternalError

cdef enum:
    LOG_LINES = 256                 # kept until drain_log; later ones are dropped and counted
    LOG_TEXT = 1024

cdef struct LogLine:
    int severity                    # OrtLoggingLevel
    char[LOG_TEXT] text

cdef struct Log:
    # Written by any thread of the library, read by drain_log; all under lock.
    Mutex lock
    LogLine[LOG_LINES] lines
    int first                       # the oldest
    int n_lines
    uint64_t n_dropped

cdef void** table = NULL            # set once by load_library, before any other call, like the three below
cdef void* environment = NULL
cdef void* cpu_memory = NULL
cdef void* host_allocator = NULL
cdef Log log
cdef tuple loaded = None                       # (path, intra_op_threads, spinning) of load_library


cdef void** ort_api() noexcept nogil:
    return table


cdef void* ort_environment() noexcept nogil:
    return environment


cdef void* ort_cpu_memory() noexcept nogil:
    return cpu_memory


cdef void* ort_allocator() noexcept nogil:
    return host_allocator


cdef int ort_check(void* status, Failure* failure) noexcept nogil:
    if status == NULL:
        return 0
    cdef int code = (<GetErrorCode>table[GET_ERROR_CODE])(status)
    cdef int kind = INVALID_ARGUMENT if code == ORT_INVALID_ARGUMENT else INTERNAL
    fail(failure, kind, "%s", (<GetErrorMessage>table[GET_ERROR_MESSAGE])(status))
    (<Release>table[RELEASE_STATUS])(status)
    return -1


cdef void log_line(void* param, int severity, const char* category, const char* logid, const char* location,
                   const char* message) noexcept nogil:
    """Called by the library on any of its threads, and on ours inside Run."""
    cdef LogLine* line
    mutex_lock(&log.lock)
    if log.n_lines == LOG_LINES:
        log.n_dropped += 1
    else:
        line = &log.lines[(log.first + log.n_lines) % LOG_LINES]
        line.severity = severity
        snprintf(line.text, LOG_TEXT, "%s", message)
        log.n_lines += 1
    mutex_unlock(&log.lock)


def drain_log():
    """Take what ONNX Runtime has logged since the last call, warnings and above, oldest first.

    Returns (severity, text) pairs; severity is "warning", "error" or "fatal". When more came than is kept, a last pair says how many.
    """
    lines = []
    cdef LogLine line
    cdef uint64_t dropped
    while True:
        mutex_lock(&log.lock)
        if log.n_lines == 0:
            break
        line = log.lines[log.first]
        log.first = (log.first + 1) % LOG_LINES
        log.n_lines -= 1
        mutex_unlock(&log.lock)
        lines.append((("warning", "error", "fatal")[min(max(line.severity - 2, 0), 2)], line.text.decode("utf-8", "replace")))
    dropped, log.n_dropped = log.n_dropped, 0
    mutex_unlock(&log.lock)
    if dropped:
        lines.append(("warning", f"{dropped} more messages of ONNX Runtime were dropped"))
    return lines


cdef tuple take_error(Status status):
    """(code, text) of a failed call; releases the status."""
    code = (<GetErrorCode>table[GET_ERROR_CODE])(status)
    text = (<GetErrorMessage>table[GET_ERROR_MESSAGE])(status).decode("utf-8", "replace")
    (<Release>table[RELEASE_STATUS])(status)
    return code, text


cdef int check(Status status) except -1:
    if status != NULL:
        raise InternalError(f"ONNX Runtime: {take_error(status)[1]}")
    return 0


cdef int check_setting(Status status) except -1:
    if status != NULL:
        raise ConfigurationError(f"ONNX Runtime: {take_error(status)[1]}")
    return 0


cdef str take_text(char* text):
    """The library's string as str; frees it."""
    try:
        return text.decode("utf-8", "replace")
    finally:
        check((<AllocatorFree>table[ALLOCATOR_FREE])(host_allocator, text))


def is_loaded():
    """Whether load_library has succeeded in this process."""
    return loaded is not None


def load_library(str path not None, *, int intra_op_threads=1, bint spinning=False):
    """Open libonnxruntime at `path` and create its environment with one thread pool for all sessions.

    intra_op_threads: threads of that pool, the calling one included; 1 means no pool. spinning: idle pool threads poll before they
    sleep. Calling again with the same arguments does nothing.

    Raises ConfigurationError: the file cannot be opened, is too old, or the library is loaded with other settings.
    """
    global table, loaded
    wanted = (path, intra_op_threads, spinning)
    if loaded is not None:
        if loaded != wanted:
            raise ConfigurationError(f"ONNX Runtime is already loaded with (path, intra_op_threads, spinning) = {loaded}; wanted {wanted}")
        return
    if intra_op_threads < 1:
        raise ConfigurationError(f"intra_op_threads is {intra_op_threads}; the least is 1")
    if table == NULL:
        table = open_library(path)
        mutex_init(&log.lock, NULL)
    create_environment(intra_op_threads, spinning)
    check((<CreateCpuMemoryInfo>table[CREATE_CPU_MEMORY_INFO])(ORT_ARENA_ALLOCATOR, ORT_MEMORY_DEFAULT, &cpu_memory))
    check((<Create>table[GET_DEFAULT_ALLOCATOR])(&host_allocator))
    loaded = wanted


cdef void** open_library(str path) except NULL:
    cdef bytes encoded = os.fsencode(path)
    cdef void* library = dlopen(encoded, RTLD_NOW | RTLD_LOCAL)
    if library == NULL:
        raise ConfigurationError(f"cannot open ONNX Runtime: {dlerror().decode('utf-8', 'replace')}")
    cdef void* symbol = dlsym(library, b"OrtGetApiBase")
    if symbol == NULL:
        raise ConfigurationError(f"{path} is not ONNX Runtime: it exports no OrtGetApiBase")
    cdef void** base = (<GetApiBase>symbol)()
    cdef void** api = (<GetApi>base[0])(ORT_API_VERSION)
    if api == NULL:
        version = (<GetVersionString>base[1])().decode()
        raise ConfigurationError(f"ONNX Runtime {version} is too old: install onnxruntime or onnxruntime-gpu 1.{ORT_API_VERSION} or later")
    return api


cdef int create_environment(int intra_op_threads, bint spinning) except -1:
    global environment
    cdef void* options = NULL
    check((<Create>table[CREATE_THREADING_OPTIONS])(&options))
    try:
        check((<SetInt>table[SET_GLOBAL_INTRA_OP_NUM_THREADS])(options, intra_op_threads))
        check((<SetInt>table[SET_GLOBAL_INTER_OP_NUM_THREADS])(options, 1))
        check((<SetInt>table[SET_GLOBAL_SPIN_CONTROL])(options, spinning))
        check((<CreateEnvWithLoggerAndThreadPools>table[CREATE_ENV_WITH_LOGGER_AND_THREAD_POOLS])(
            log_line, NULL, ORT_WARNING, b"headrace", options, &environment))
    finally:
        (<Release>table[RELEASE_THREADING_OPTIONS])(options)
    return 0
