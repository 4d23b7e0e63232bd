"""Tensors as views, datatypes with their sizes, and the decoded request and answer that every codec shares.

A codec turns a body into an InferRequest whose tensors are views into that body where the wire form is already little-endian
row-major bytes, and into the request's arena where it had to be converted (JSON numbers, typed protobuf contents). From there on
nothing knows which protocol a request came by.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from serve._core.failure cimport Failure
from serve._core.memory cimport Arena, Slice

cdef enum DataType:
    # Numbered like Triton's model_config.proto DataType; names on the wire are the OIP's (TYPE_STRING is BYTES there).
    DT_INVALID = 0
    DT_BOOL = 1
    DT_UINT8 = 2
    DT_UINT16 = 3
    DT_UINT32 = 4
    DT_UINT64 = 5
    DT_INT8 = 6
    DT_INT16 = 7
    DT_INT32 = 8
    DT_INT64 = 9
    DT_FP16 = 10
    DT_FP32 = 11
    DT_FP64 = 12
    DT_BYTES = 13
    DT_BF16 = 14
    N_DATATYPES = 15

cdef enum:
    MAX_RANK = 16                   # dimensions of a tensor
    MAX_TENSORS = 128               # inputs of a request, outputs of a request
    MAX_PARAMETERS = 256            # kept of a request, for routing; more are let be

cdef struct Tensor:
    Slice name                      # body, arena or signature
    int datatype
    int rank
    int64_t* shape                  # arena or runner; every dimension >= 0
    const uint8_t* data             # little-endian, row-major; BYTES: each element behind its uint32 length. NULL when there is none
    size_t nbytes
    bint binary                     # in an answer over HTTP: goes behind the JSON

cdef struct RequestedOutput:
    Slice name
    bint binary
    int n_classes                   # > 0: the classification extension

cdef struct NamedParameter:
    # A request parameter that is not ours, for routing. Numbers and booleans as JSON writes them.
    Slice name
    Slice text
    NamedParameter* next

cdef struct InferRequest:
    Slice model_name                # gRPC only; over HTTP they come from the path
    Slice model_version
    Slice id
    bint has_id
    int n_inputs
    Tensor* inputs                  # arena
    int n_outputs                   # 0: every output of the model
    RequestedOutput* outputs        # arena
    bint binary_default             # outputs that are not named go binary
    bint raw_body                   # HTTP header length 0: the body is the one input; name, datatype and shape come from the model
    bint empty_final_response       # triton_enable_empty_final_response
    int64_t timeout_us              # OIP `timeout`; 0: none
    uint64_t priority               # 0: the model's default
    NamedParameter* parameters      # arena; newest first, at most MAX_PARAMETERS; strings, integers and booleans only
    int n_parameters

cdef struct InferResponse:
    Slice model_name
    Slice model_version
    Slice id
    bint has_id
    int n_outputs
    Tensor* outputs
    bint final_response             # ModelStreamInfer: say triton_final_response = true

cdef struct TensorSpec:
    # One input or output of a model. Owned by its Signature.
    Slice name
    int datatype
    int rank
    int64_t[MAX_RANK] shape         # -1: dynamic
    size_t row_bytes                # bytes of one row (batched) or of the tensor; 0 when dynamic or BYTES

cdef struct Signature:
    # Owned by a Version; immutable once built.
    int n_inputs
    TensorSpec* inputs
    int n_outputs
    TensorSpec* outputs
    int64_t max_batch               # 0: the model is not batched

cdef struct Binding:
    # A request held against a signature. Arrays are in the arena, in the model's order.
    Tensor** inputs                 # [n_inputs]
    RequestedOutput** outputs       # [n_outputs of the request]; NULL: all
    int* output_index               # [n_outputs of the request]: which output of the model
    int64_t rows                    # rows of this request; 1 when the model is not batched
    uint64_t shape_key              # equal for requests that may share a batch

cdef inline int shown(Slice text) noexcept nogil:
    """Bytes of a client's text that a failure repeats (for "%.*s"): at most 100, cut between characters."""
    cdef int length = 100
    if text.length <= 100:
        return <int>text.length
    while length > 0 and (text.data[length] & 0xC0) == 0x80:
        length -= 1
    return length


cdef int datatype_from_name(Slice name) noexcept nogil              # DT_INVALID when unknown
cdef const char* datatype_name(int datatype) noexcept nogil         # OIP name
cdef size_t datatype_size(int datatype) noexcept nogil              # bytes of an element; 0 for BYTES
cdef int datatype_from_onnx(int onnx_type) noexcept nogil
cdef int onnx_from_datatype(int datatype) noexcept nogil

cdef int element_count(const int64_t* shape, int rank, uint64_t* count) noexcept nogil      # 0; -1 negative dimension or over 2^63
cdef int64_t count_bytes_elements(const uint8_t* data, size_t nbytes) noexcept nogil        # elements of framed BYTES; -1 when torn

cdef int bind_request(const Signature* signature, InferRequest* request, const char* model, Arena* arena, Binding* binding,
                      Failure* failure) noexcept nogil
