"""The part of OrtApi that the binding calls: positions in the function table and the signatures behind them.

OrtApi is append-only, so a position never changes once released. A call reads `(<Signature>api[POSITION])(arguments)`. Handles are
opaque: every Ort* pointer is a void*. Functions that return a Status succeeded when it is NULL.
"""
from libc.stdint cimport int64_t, uint32_t
from libcpp cimport bool as cbool

cdef enum:
    ORT_API_VERSION = 28            # what is asked for; older libraries answer NULL

cdef enum OrtErrorCode:
    ORT_INVALID_ARGUMENT = 2
    ORT_EP_FAIL = 11
    ORT_DEVICE_RESET = 15

cdef enum OnnxType:
    ONNX_TENSOR = 1

cdef enum:
    ORT_WARNING = 2                 # OrtLoggingLevel
    ORT_DEVICE_ALLOCATOR = 0        # OrtAllocatorType
    ORT_ARENA_ALLOCATOR = 1
    ORT_MEMORY_CPU_OUTPUT = -1      # OrtMemType
    ORT_MEMORY_DEFAULT = 0

cdef enum:                          # positions
    GET_ERROR_CODE = 1
    GET_ERROR_MESSAGE = 2
    CREATE_SESSION = 7
    RUN = 9
    CREATE_SESSION_OPTIONS = 10
    DISABLE_MEM_PATTERN = 17
    SET_GRAPH_OPTIMIZATION_LEVEL = 23
    SET_INTRA_OP_NUM_THREADS = 24
    SESSION_GET_INPUT_COUNT = 30
    SESSION_GET_OUTPUT_COUNT = 31
    SESSION_GET_INPUT_TYPE_INFO = 33
    SESSION_GET_OUTPUT_TYPE_INFO = 34
    SESSION_GET_INPUT_NAME = 36
    SESSION_GET_OUTPUT_NAME = 37
    CREATE_TENSOR = 48
    CREATE_TENSOR_WITH_DATA = 49
    GET_TENSOR_MUTABLE_DATA = 51
    GET_STRING_TENSOR_DATA_LENGTH = 53
    GET_STRING_TENSOR_CONTENT = 54
    CAST_TYPE_INFO_TO_TENSOR_INFO = 55
    GET_ONNX_TYPE = 56
    GET_TENSOR_ELEMENT_TYPE = 60
    GET_DIMENSIONS_COUNT = 61
    GET_DIMENSIONS = 62
    GET_SYMBOLIC_DIMENSIONS = 63
    GET_TENSOR_TYPE_AND_SHAPE = 65
    CREATE_MEMORY_INFO = 68
    CREATE_CPU_MEMORY_INFO = 69
    ALLOCATOR_ALLOC = 75
    ALLOCATOR_FREE = 76
    GET_DEFAULT_ALLOCATOR = 78
    RELEASE_STATUS = 93
    RELEASE_MEMORY_INFO = 94
    RELEASE_SESSION = 95
    RELEASE_VALUE = 96
    RELEASE_TYPE_INFO = 98
    RELEASE_TENSOR_TYPE_AND_SHAPE = 99
    RELEASE_SESSION_OPTIONS = 100
    SESSION_GET_MODEL_METADATA = 111
    METADATA_GET_PRODUCER_NAME = 112
    METADATA_GET_GRAPH_NAME = 113
    METADATA_GET_DESCRIPTION = 115
    METADATA_LOOKUP = 116
    METADATA_GET_VERSION = 117
    RELEASE_MODEL_METADATA = 118
    DISABLE_PER_SESSION_THREADS = 120
    CREATE_THREADING_OPTIONS = 121
    RELEASE_THREADING_OPTIONS = 122
    METADATA_GET_KEYS = 123
    ADD_SESSION_CONFIG_ENTRY = 130
    CREATE_ALLOCATOR = 131
    RELEASE_ALLOCATOR = 132
    RUN_WITH_BINDING = 133
    CREATE_IO_BINDING = 134
    RELEASE_IO_BINDING = 135
    BIND_INPUT = 136
    BIND_OUTPUT = 137
    BIND_OUTPUT_TO_DEVICE = 138
    GET_BOUND_OUTPUT_VALUES = 140
    SET_GLOBAL_INTRA_OP_NUM_THREADS = 147
    SET_GLOBAL_INTER_OP_NUM_THREADS = 148
    SET_GLOBAL_SPIN_CONTROL = 149
    CREATE_ENV_WITH_LOGGER_AND_THREAD_POOLS = 151
    SYNCHRONIZE_BOUND_INPUTS = 202
    SYNCHRONIZE_BOUND_OUTPUTS = 203
    APPEND_CUDA_PROVIDER = 204
    CREATE_CUDA_OPTIONS = 205
    UPDATE_CUDA_OPTIONS = 206
    RELEASE_CUDA_OPTIONS = 208
    GET_STRING_ELEMENT_BUFFER = 252
    HAS_SHAPE = 390                 # TensorTypeAndShape_HasShape, since API 24

ctypedef void* Status

# Entry point: OrtGetApiBase() -> {GetApi, GetVersionString}.
ctypedef void** (*GetApiBase)() noexcept nogil
ctypedef void** (*GetApi)(uint32_t version) noexcept nogil
ctypedef const char* (*GetVersionString)() noexcept nogil

# Signatures that many functions share.
ctypedef void (*Release)(void* handle) noexcept nogil
ctypedef Status (*Create)(void** out) noexcept nogil
ctypedef Status (*CreateFrom)(const void* source, void** out) noexcept nogil
ctypedef Status (*Apply)(void* handle) noexcept nogil
ctypedef Status (*SetInt)(void* handle, int value) noexcept nogil
ctypedef Status (*GetInt)(const void* handle, int* out) noexcept nogil
ctypedef Status (*GetInt64)(const void* handle, int64_t* out) noexcept nogil
ctypedef Status (*GetSize)(const void* handle, size_t* out) noexcept nogil
ctypedef Status (*GetText)(const void* handle, void* allocator, char** out) noexcept nogil

ctypedef int (*GetErrorCode)(const void* status) noexcept nogil
ctypedef const char* (*GetErrorMessage)(const void* status) noexcept nogil

ctypedef void (*LoggingFunction)(void* param, int severity, const char* category, const char* logid, const char* location,
                                 const char* message) noexcept nogil
ctypedef Status (*CreateEnvWithLoggerAndThreadPools)(LoggingFunction log, void* param, int level, const char* logid,
                                                     const void* threading_options, void** out) noexcept nogil

ctypedef Status (*AddConfigEntry)(void* options, const char* key, const char* value) noexcept nogil
ctypedef Status (*UpdateOptions)(void* options, const char* const* keys, const char* const* values, size_t n_keys) noexcept nogil
ctypedef Status (*AppendProvider)(void* options, const void* provider_options) noexcept nogil
ctypedef Status (*CreateSession)(const void* env, const char* path, const void* options, void** out) noexcept nogil
ctypedef Status (*SessionGetName)(const void* session, size_t index, void* allocator, char** out) noexcept nogil
ctypedef Status (*SessionGetTypeInfo)(const void* session, size_t index, void** out) noexcept nogil
ctypedef Status (*MetadataGetKeys)(const void* metadata, void* allocator, char*** keys, int64_t* n_keys) noexcept nogil
ctypedef Status (*MetadataLookup)(const void* metadata, void* allocator, const char* key, char** out) noexcept nogil

ctypedef cbool (*HasShape)(const void* info) noexcept nogil
ctypedef Status (*GetDimensions)(const void* info, int64_t* dims, size_t rank) noexcept nogil
ctypedef Status (*GetSymbolicDimensions)(const void* info, const char** names, size_t rank) noexcept nogil

ctypedef Status (*CreateMemoryInfo)(const char* name, int allocator, int device_id, int memory, void** out) noexcept nogil
ctypedef Status (*CreateCpuMemoryInfo)(int allocator, int memory, void** out) noexcept nogil
ctypedef Status (*CreateAllocator)(const void* session, const void* memory_info, void** out) noexcept nogil
ctypedef Status (*AllocatorAlloc)(void* allocator, size_t size, void** out) noexcept nogil
ctypedef Status (*AllocatorFree)(void* allocator, void* block) noexcept nogil

ctypedef Status (*CreateTensor)(void* allocator, const int64_t* shape, size_t rank, int onnx_type, void** out) noexcept nogil
ctypedef Status (*CreateTensorWithData)(const void* memory_info, void* data, size_t nbytes, const int64_t* shape, size_t rank,
                                        int onnx_type, void** out) noexcept nogil
ctypedef Status (*GetData)(void* value, void** out) noexcept nogil
ctypedef Status (*GetStringContent)(const void* value, void* content, size_t nbytes, size_t* offsets, size_t n_offsets) noexcept nogil
ctypedef Status (*GetStringElementBuffer)(void* value, size_t index, size_t nbytes, char** out) noexcept nogil

ctypedef Status (*Run)(void* session, const void* run_options, const char* const* input_names, const void* const* inputs,
                       size_t n_inputs, const char* const* output_names, size_t n_outputs, void** outputs) noexcept nogil
ctypedef Status (*RunWithBinding)(void* session, const void* run_options, const void* binding) noexcept nogil
ctypedef Status (*Bind)(void* binding, const char* name, const void* value_or_memory_info) noexcept nogil
ctypedef Status (*GetBoundOutputs)(const void* binding, void* allocator, void*** values, size_t* n_values) noexcept nogil
