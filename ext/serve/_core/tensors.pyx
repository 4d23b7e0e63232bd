import os

from libc.stdio cimport snprintf
from libc.string cimport memcpy, memset

from serve._core.failure cimport (CANCELLED, DEADLINE_EXCEEDED, GRPC_CODE, HEADERS_TOO_LARGE, HTTP_STATUS, INTERNAL, INVALID_ARGUMENT,
                                  METHOD_NOT_ALLOWED, N_KINDS, NOT_FOUND, NOT_IMPLEMENTED, OK, REQUEST_TIMEOUT, TOO_LARGE, UNAVAILABLE,
                                  fail)
from serve._core.memory cimport arena_alloc, arena_copy, arena_free, arena_reset, slice_equal, slice_of
from serve._core.raw_body cimport describe_raw_body

cdef extern from * nogil:
    bint multiply_overflow "__builtin_mul_overflow"(uint64_t, uint64_t, uint64_t*)

cdef enum:
    N_ONNX_TYPES = 17
    SHAPE_TEXT = 22 * MAX_RANK + 3  # a sign, 19 digits and a comma for each dimension, brackets, NUL

ctypedef const char* Name

cdef Name[N_DATATYPES] NAMES = [b"", b"BOOL", b"UINT8", b"UINT16", b"UINT32", b"UINT64", b"INT8", b"INT16", b"INT32", b"INT64", b"FP16",
                                b"FP32", b"FP64", b"BYTES", b"BF16"]
cdef size_t[N_DATATYPES] SIZES = [0, 1, 1, 2, 4, 8, 1, 2, 4, 8, 2, 4, 8, 0, 2]
# onnx.TensorProto.DataType, which ONNX Runtime's ONNXTensorElementDataType repeats.
cdef int[N_ONNX_TYPES] FROM_ONNX = [DT_INVALID, DT_FP32, DT_UINT8, DT_INT8, DT_UINT16, DT_INT16, DT_INT32, DT_INT64, DT_BYTES, DT_BOOL,
                                    DT_FP16, DT_FP64, DT_UINT32, DT_UINT64, DT_INVALID, DT_INVALID, DT_BF16]

# Shapes that collide in one bucket of a queue fail together: nobody shall be able to work them out beforehand.
cdef uint64_t SECRET = int.from_bytes(os.urandom(8), "little")


# --- datatypes and sizes ------------------------------------------------------------------------------------------------

cdef int datatype_from_name(Slice name) noexcept nogil:
    cdef int datatype
    for datatype in range(1, N_DATATYPES):
        # The third byte differs between most names of one length: it spares most of the comparisons.
        if name.length > 2 and name.data[2] == <uint8_t>NAMES[datatype][2] and slice_equal(name, slice_of(NAMES[datatype])):
            return datatype
    return DT_INVALID


cdef const char* datatype_name(int datatype) noexcept nogil:
    return NAMES[datatype if 0 <= datatype < N_DATATYPES else 0]


cdef size_t datatype_size(int datatype) noexcept nogil:
    return SIZES[datatype] if 0 <= datatype < N_DATATYPES else 0


cdef int datatype_from_onnx(int onnx_type) noexcept nogil:
    return FROM_ONNX[onnx_type] if 0 <= onnx_type < N_ONNX_TYPES else DT_INVALID


cdef int onnx_from_datatype(int datatype) noexcept nogil:
    cdef int onnx_type
    for onnx_type in range(N_ONNX_TYPES):
        if FROM_ONNX[onnx_type] == datatype:
            return onnx_type
    return 0


cdef int element_count(const int64_t* shape, int rank, uint64_t* count) noexcept nogil:
    """A dimension of 0 makes the product 0 whatever the others are."""
    cdef uint64_t product = 1
    cdef bint empty = False
    cdef int d
    for d in range(rank):
        if shape[d] < 0:
            return -1
        empty |= shape[d] == 0
    for d in range(0 if empty else rank):
        if multiply_overflow(product, <uint64_t>shape[d], &product) or product >> 63:
            return -1
    count[0] = 0 if empty else product
    return 0


cdef int64_t count_bytes_elements(const uint8_t* data, size_t nbytes) noexcept nogil:
    cdef int64_t elements = 0
    cdef size_t at = 0
    cdef uint32_t length
    while at < nbytes:
        if nbytes - at < 4:
            return -1
        memcpy(&length, data + at, 4)
        at += 4
        if length > nbytes - at:
            return -1
        at += length
        elements += 1
    return elements


# --- a request held against a signature ---------------------------------------------------------------------------------

cdef inline int find_spec(const TensorSpec* specs, int n_specs, Slice name, int guess) noexcept nogil:
    """Index of the spec of this name, -1 when there is none. Clients mostly keep the model's order: `guess` is tried first."""
    cdef int i
    if guess < n_specs and slice_equal(specs[guess].name, name):
        return guess
    for i in range(n_specs):
        if slice_equal(specs[i].name, name):
            return i
    return -1


cdef inline uint64_t mix(uint64_t key, int64_t size) noexcept nogil:
    """One step of a hash over dimensions (the finalizer of SplitMix64, on a secret of the process)."""
    key = (key ^ <uint64_t>size) + SECRET
    key = (key ^ (key >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    key = (key ^ (key >> 27)) * <uint64_t>0x94D049BB133111EB
    return key ^ (key >> 31)


cdef void format_shape(const int64_t* shape, int rank, char* text) noexcept nogil:
    """`text` has room for SHAPE_TEXT."""
    cdef size_t n = 1
    cdef int d
    text[0] = b'['
    for d in range(rank):
        n += snprintf(text + n, SHAPE_TEXT - n, "%s%lld", b"," if d else b"", <long long>shape[d])
    text[n] = b']'
    text[n + 1] = 0


cdef int wrong_shape(const TensorSpec* spec, const Tensor* tensor, const char* model, Failure* failure) noexcept nogil:
    cdef char[SHAPE_TEXT] wanted
    cdef char[SHAPE_TEXT] got
    format_shape(spec.shape, spec.rank, wanted)
    format_shape(tensor.shape, tensor.rank, got)
    return fail(failure, INVALID_ARGUMENT, "unexpected shape for input '%.*s' for model '%s'. Expected %s, got %s", shown(spec.name),
                <const char*>spec.name.data, model, <char*>wanted, <char*>got)


cdef int wrong_size(const TensorSpec* spec, const Tensor* tensor, const char* model, uint64_t wanted, Failure* failure) noexcept nogil:
    return fail(failure, INVALID_ARGUMENT, "input byte size mismatch for input '%.*s' for model '%s'. Expected %llu, got %zu",
                shown(spec.name), <const char*>spec.name.data, model, <unsigned long long>wanted, tensor.nbytes)


cdef int check_bytes_elements(const TensorSpec* spec, const Tensor* tensor, uint64_t wanted, Failure* failure) noexcept nogil:
    cdef int64_t got = count_bytes_elements(tensor.data, tensor.nbytes)
    if got < 0:
        return fail(failure, INVALID_ARGUMENT, "incomplete string data for inference input '%.*s': an element or its 4-byte length runs "
                    "past the %zu bytes given", shown(spec.name), <const char*>spec.name.data, tensor.nbytes)
    if <uint64_t>got != wanted:
        return fail(failure, INVALID_ARGUMENT, "expected %llu string elements for inference input '%.*s', got %lld",
                    <unsigned long long>wanted, shown(spec.name), <const char*>spec.name.data, <long long>got)
    return 0


cdef int check_size(const TensorSpec* spec, const Tensor* tensor, int64_t rows, const char* model, Failure* failure) noexcept nogil:
    cdef uint64_t wanted
    cdef uint64_t count
    if spec.row_bytes:
        if multiply_overflow(<uint64_t>rows, spec.row_bytes, &wanted) or tensor.nbytes != wanted:
            return wrong_size(spec, tensor, model, wanted, failure)
        return 0
    if element_count(tensor.shape, tensor.rank, &count):
        return wrong_shape(spec, tensor, model, failure)
    if spec.datatype == DT_BYTES:
        return check_bytes_elements(spec, tensor, count, failure)
    if multiply_overflow(count, SIZES[spec.datatype], &wanted) or tensor.nbytes != wanted:
        return wrong_size(spec, tensor, model, wanted, failure)
    return 0


cdef int check_rows(const Signature* signature, const Tensor* tensor, bint first, const char* model, Binding* binding,
                    Failure* failure) noexcept nogil:
    """The first input says how many rows the request has; the others must agree."""
    cdef int64_t rows = tensor.shape[0]
    if first:
        if rows < 1:
            return fail(failure, INVALID_ARGUMENT, "inference request batch-size must be >= 1 for '%s'", model)
        if rows > signature.max_batch:
            return fail(failure, INVALID_ARGUMENT, "inference request batch-size must be <= %lld for '%s'",
                        <long long>signature.max_batch, model)
        binding.rows = rows
    elif rows != binding.rows:
        return fail(failure, INVALID_ARGUMENT, "input '%.*s' batch size does not match other inputs for '%s'", shown(tensor.name),
                    <const char*>tensor.name.data, model)
    return 0


cdef int check_input(const Signature* signature, int index, const char* model, Binding* binding, Failure* failure) noexcept nogil:
    cdef const TensorSpec* spec = &signature.inputs[index]
    cdef const Tensor* tensor = binding.inputs[index]
    cdef bint batched = signature.max_batch > 0
    cdef int d
    if tensor.datatype != spec.datatype:
        return fail(failure, INVALID_ARGUMENT, "inference input '%.*s' data-type is '%s', but model '%s' expects '%s'", shown(spec.name),
                    <const char*>spec.name.data, datatype_name(tensor.datatype), model, datatype_name(spec.datatype))
    if tensor.rank != spec.rank:
        return wrong_shape(spec, tensor, model, failure)
    if batched and check_rows(signature, tensor, index == 0, model, binding, failure):
        return -1
    for d in range(batched, spec.rank):
        if spec.shape[d] < 0:
            binding.shape_key = mix(binding.shape_key, tensor.shape[d])
        elif spec.shape[d] != tensor.shape[d]:
            return wrong_shape(spec, tensor, model, failure)
    return check_size(spec, tensor, binding.rows, model, failure)


cdef int match_inputs(const Signature* signature, InferRequest* request, const char* model, Binding* binding,
                      Failure* failure) noexcept nogil:
    cdef int i, index
    cdef Tensor* tensor
    memset(binding.inputs, 0, signature.n_inputs * sizeof(Tensor*))
    for i in range(request.n_inputs):
        tensor = &request.inputs[i]
        index = find_spec(signature.inputs, signature.n_inputs, tensor.name, i)
        if index < 0:
            return fail(failure, INVALID_ARGUMENT, "unexpected inference input '%.*s' for model '%s'", shown(tensor.name),
                        <const char*>tensor.name.data, model)
        if binding.inputs[index] != NULL:
            return fail(failure, INVALID_ARGUMENT, "input '%.*s' already exists in request for model '%s'", shown(tensor.name),
                        <const char*>tensor.name.data, model)
        binding.inputs[index] = tensor
    if request.n_inputs == signature.n_inputs:
        return 0
    for index in range(signature.n_inputs):
        if binding.inputs[index] == NULL:
            return fail(failure, INVALID_ARGUMENT, "expected %d inputs but got %d inputs for model '%s'. Missing required input '%.*s'",
                        signature.n_inputs, request.n_inputs, model, shown(signature.inputs[index].name),
                        <const char*>signature.inputs[index].name.data)
    return 0


cdef int match_outputs(const Signature* signature, InferRequest* request, const char* model, Arena* arena, Binding* binding,
                       Failure* failure) noexcept nogil:
    cdef int i, j, index
    cdef RequestedOutput* output
    binding.outputs = NULL
    binding.output_index = NULL
    if request.n_outputs == 0:
        return 0
    binding.outputs = <RequestedOutput**>arena_alloc(arena, request.n_outputs * sizeof(RequestedOutput*))
    binding.output_index = <int*>arena_alloc(arena, request.n_outputs * sizeof(int))
    if binding.outputs == NULL or binding.output_index == NULL:
        return fail(failure, UNAVAILABLE, "the server is out of memory")
    for i in range(request.n_outputs):
        output = &request.outputs[i]
        index = find_spec(signature.outputs, signature.n_outputs, output.name, i)
        if index < 0:
            return fail(failure, INVALID_ARGUMENT, "unexpected inference output '%.*s' for model '%s'", shown(output.name),
                        <const char*>output.name.data, model)
        for j in range(i):
            if binding.output_index[j] == index:
                return fail(failure, INVALID_ARGUMENT, "output '%.*s' is requested more than once for model '%s'", shown(output.name),
                            <const char*>output.name.data, model)
        binding.outputs[i], binding.output_index[i] = output, index
    return 0


cdef int take_raw_body(const Signature* signature, InferRequest* request, const char* model, Arena* arena, Failure* failure) noexcept nogil:
    cdef const TensorSpec* spec = signature.inputs
    if signature.n_inputs != 1:
        return fail(failure, INVALID_ARGUMENT, "a raw binary request needs a model with one input; model '%s' has %d", model,
                    signature.n_inputs)
    return describe_raw_body(spec, signature.max_batch > 0, SIZES[spec.datatype], model, arena, request.inputs, failure)


cdef int bind_request(const Signature* signature, InferRequest* request, const char* model, Arena* arena, Binding* binding,
                      Failure* failure) noexcept nogil:
    """0; -1 and INVALID_ARGUMENT (or UNAVAILABLE: memory is out). A binding that was refused must not be used."""
    cdef int index
    binding.rows, binding.shape_key = 1, 0
    binding.inputs = <Tensor**>arena_alloc(arena, signature.n_inputs * sizeof(Tensor*))
    if binding.inputs == NULL:
        return fail(failure, UNAVAILABLE, "the server is out of memory")
    if request.raw_body and take_raw_body(signature, request, model, arena, failure):
        return -1
    if match_inputs(signature, request, model, binding, failure):
        return -1
    for index in range(signature.n_inputs):
        if check_input(signature, index, model, binding, failure):
            return -1
    return match_outputs(signature, request, model, arena, binding, failure)


# --- For the tests: the same code paths, fed from Python objects --------------------------------------------------------

KINDS = {"OK": OK, "CANCELLED": CANCELLED, "INVALID_ARGUMENT": INVALID_ARGUMENT, "NOT_FOUND": NOT_FOUND,
         "METHOD_NOT_ALLOWED": METHOD_NOT_ALLOWED, "REQUEST_TIMEOUT": REQUEST_TIMEOUT, "TOO_LARGE": TOO_LARGE,
         "HEADERS_TOO_LARGE": HEADERS_TOO_LARGE, "INTERNAL": INTERNAL, "NOT_IMPLEMENTED": NOT_IMPLEMENTED, "UNAVAILABLE": UNAVAILABLE,
         "DEADLINE_EXCEEDED": DEADLINE_EXCEEDED}


def native_status():
    """The number of kinds, and kind -> (gRPC status code, HTTP status) as failure.pxd has it."""
    return N_KINDS, {name: (GRPC_CODE[kind], HTTP_STATUS[kind]) for name, kind in KINDS.items()}


def fail_for_test(bytes text):
    """What `fail` keeps of a text."""
    cdef Failure failure
    fail(&failure, INTERNAL, "%s", <const char*>text)
    return failure.kind, <bytes>failure.text


cdef class Scratch:
    """An arena that dies with its Python object."""
    cdef Arena arena

    def __dealloc__(self):
        arena_free(&self.arena)


cdef Slice copy_of(Scratch scratch, bytes data):
    return arena_copy(&scratch.arena, <const char*>data, len(data))


def datatype_table():
    """(number, name, bytes an element, ONNX type, number found by name, number found by ONNX type) of each datatype."""
    return [(i, datatype_name(i).decode(), datatype_size(i), onnx_from_datatype(i), datatype_from_name(slice_of(datatype_name(i))),
             datatype_from_onnx(onnx_from_datatype(i))) for i in range(N_DATATYPES)]


def datatype_from_name_for_test(bytes name):
    cdef Scratch scratch = Scratch()
    return datatype_from_name(copy_of(scratch, name))


def element_count_for_test(list shape):
    """Elements, None when element_count refuses."""
    cdef int64_t[MAX_RANK] dims
    cdef uint64_t count
    for i, size in enumerate(shape):
        dims[i] = size
    return None if element_count(dims, len(shape), &count) else count


def count_bytes_elements_for_test(bytes data):
    cdef Scratch scratch = Scratch()
    cdef Slice copy = copy_of(scratch, data)
    return count_bytes_elements(copy.data, copy.length)


cdef int64_t* dims_of(Scratch scratch, tuple shape):
    cdef int64_t* dims = <int64_t*>arena_alloc(&scratch.arena, MAX_RANK * sizeof(int64_t))
    for d, size in enumerate(shape):
        dims[d] = size
    return dims


cdef TensorSpec* specs_of(Scratch scratch, list specs, bint batched):
    """specs: (name, datatype name, shape) each."""
    cdef TensorSpec* array = <TensorSpec*>arena_alloc(&scratch.arena, len(specs) * sizeof(TensorSpec))
    cdef uint64_t count
    for i, (name, datatype, shape) in enumerate(specs):
        array[i].name, array[i].rank = copy_of(scratch, name), len(shape)
        array[i].datatype = datatype_from_name(copy_of(scratch, datatype))
        memcpy(array[i].shape, dims_of(scratch, shape), MAX_RANK * sizeof(int64_t))
        # A dynamic dimension makes element_count refuse.
        fixed = element_count(&array[i].shape[<int>batched], len(shape) - batched, &count) == 0
        array[i].row_bytes = count * datatype_size(array[i].datatype) if fixed else 0
    return array


cdef Signature signature_of(Scratch scratch, list inputs, list outputs, int64_t max_batch):
    cdef Signature signature
    signature.n_inputs, signature.inputs = len(inputs), specs_of(scratch, inputs, max_batch > 0)
    signature.n_outputs, signature.outputs = len(outputs), specs_of(scratch, outputs, max_batch > 0)
    signature.max_batch = max_batch
    return signature


cdef InferRequest request_of(Scratch scratch, list inputs, list outputs, bint raw_body):
    """inputs: (name, datatype name, shape, data) each; outputs: names."""
    cdef InferRequest request
    cdef Slice data
    memset(&request, 0, sizeof(InferRequest))
    request.n_inputs, request.n_outputs, request.raw_body = len(inputs), len(outputs), raw_body
    request.inputs = <Tensor*>arena_alloc(&scratch.arena, len(inputs) * sizeof(Tensor))
    request.outputs = <RequestedOutput*>arena_alloc(&scratch.arena, len(outputs) * sizeof(RequestedOutput))
    memset(request.inputs, 0, len(inputs) * sizeof(Tensor))
    for i, (name, datatype, shape, content) in enumerate(inputs):
        data = copy_of(scratch, content)
        request.inputs[i].data, request.inputs[i].nbytes = data.data, data.length
        if not raw_body:
            request.inputs[i].name, request.inputs[i].datatype = copy_of(scratch, name), datatype_from_name(copy_of(scratch, datatype))
            request.inputs[i].rank, request.inputs[i].shape = len(shape), dims_of(scratch, shape)
    for i, name in enumerate(outputs):
        request.outputs[i].name = copy_of(scratch, name)
    return request


cdef tuple dumped(const Tensor* tensor):
    return (tensor.name.data[:tensor.name.length], datatype_name(tensor.datatype), tuple([tensor.shape[d] for d in range(tensor.rank)]),
            tensor.data[:tensor.nbytes])


def bind_for_test(list inputs, list outputs, int64_t max_batch, list given, list wanted=None, *, bint raw_body=False, int repeat=1):
    """bind_request of `given` (and the outputs `wanted`) against a signature of `inputs` and `outputs`, for a model named "m".

    A dict of the binding, or (kind, text) when it is refused. repeat: for measuring; not with raw_body, which a binding fills in.
    """
    cdef Scratch fixture = Scratch()
    cdef Scratch scratch = Scratch()
    cdef Failure failure
    cdef Binding binding
    cdef Signature signature = signature_of(fixture, inputs, outputs, max_batch)
    cdef InferRequest request = request_of(fixture, given, wanted or [], raw_body)
    cdef int status = 0
    failure.kind = OK
    with nogil:
        while repeat > 0:
            repeat -= 1
            arena_reset(&scratch.arena)
            status = bind_request(&signature, &request, "m", &scratch.arena, &binding, &failure)
    if status:
        return failure.kind, (<bytes>failure.text).decode()
    return {
        "inputs": [dumped(binding.inputs[i]) for i in range(signature.n_inputs)],
        "outputs": None if binding.outputs == NULL else [binding.output_index[i] for i in range(request.n_outputs)],
        "rows": binding.rows, "shape_key": binding.shape_key,
    }
