"""Sessions of ONNX Runtime: a model loaded by path, described, and its native signature."""
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

import os

from serve._core.memory cimport slice_make
from serve._core.ort_api cimport (
    ADD_SESSION_CONFIG_ENTRY, ALLOCATOR_FREE, APPEND_CUDA_PROVIDER, CAST_TYPE_INFO_TO_TENSOR_INFO, CREATE_CUDA_OPTIONS, CREATE_SESSION,
    CREATE_SESSION_OPTIONS, DISABLE_MEM_PATTERN, DISABLE_PER_SESSION_THREADS, GET_DIMENSIONS, GET_DIMENSIONS_COUNT, GET_ONNX_TYPE,
    GET_SYMBOLIC_DIMENSIONS, GET_TENSOR_ELEMENT_TYPE, HAS_SHAPE, METADATA_GET_DESCRIPTION, METADATA_GET_GRAPH_NAME, METADATA_GET_KEYS,
    METADATA_GET_PRODUCER_NAME, METADATA_GET_VERSION, METADATA_LOOKUP, ONNX_TENSOR, ORT_DEVICE_RESET, ORT_EP_FAIL, RELEASE_CUDA_OPTIONS,
    RELEASE_MODEL_METADATA, RELEASE_SESSION, RELEASE_SESSION_OPTIONS, RELEASE_TYPE_INFO, SESSION_GET_INPUT_COUNT,
    SESSION_GET_INPUT_NAME, SESSION_GET_INPUT_TYPE_INFO, SESSION_GET_MODEL_METADATA, SESSION_GET_OUTPUT_COUNT, SESSION_GET_OUTPUT_NAME,
    SESSION_GET_OUTPUT_TYPE_INFO, SET_GRAPH_OPTIMIZATION_LEVEL, SET_INTRA_OP_NUM_THREADS, UPDATE_CUDA_OPTIONS, AddConfigEntry,
    AllocatorFree, AppendProvider, Apply, Create, CreateFrom, CreateSession, GetDimensions, GetInt, GetInt64, GetSize,
    GetSymbolicDimensions, GetText, HasShape, MetadataGetKeys, MetadataLookup, Release, SessionGetName, SessionGetTypeInfo, SetInt,
    Status, UpdateOptions)
from serve._core.ort_library cimport check, check_setting, ort_allocator, ort_api, ort_environment, take_error, take_text
from serve._core.tensors cimport (
    DT_INVALID, MAX_RANK, MAX_TENSORS, Signature, datatype_from_name, datatype_from_onnx, datatype_name, datatype_size,
    element_count)
from serve._core.tensors cimport TensorSpec as NativeSpec

from serve._core.ort_library import is_loaded
from serve.errors import ConfigurationError, InternalError, InvalidArgument
from serve.types import TensorSpec

cdef enum:
    MAX_OPTIONS = 32                # CUDA provider options of a session
    MAX_BATCH = 1 << 16             # rows of a run; with MAX_ELEMENTS it keeps every size below 2^63 without a check at each product
    MAX_ELEMENTS = 1 << 30          # of a row whose size the model fixes

cdef dict OPTIMIZATION_LEVELS = {"none": 0, "basic": 1, "extended": 2, "all": 99}
# ONNXType and ONNXTensorElementDataType that cannot be served, in words.
cdef dict VALUE_KINDS = {2: "a sequence", 3: "a map", 4: "an opaque value", 5: "a sparse tensor", 6: "an optional value"}
cdef dict ELEMENT_TYPES = {14: "complex64", 15: "complex128", 17: "float8e4m3fn", 18: "float8e4m3fnuz", 19: "float8e5m2",
                           20: "float8e5m2fnuz", 21: "uint4", 22: "int4", 23: "float4e2m1"}
# Tuning convolutions exhaustively at every new batch size shows as latency spikes; doubling arenas keep memory that nobody asked for.
cdef dict CUDA_DEFAULTS = {"arena_extend_strategy": "kSameAsRequested", "cudnn_conv_algo_search": "HEURISTIC"}


cdef int append_cuda(void* options, dict settings) except -1:
    cdef void* cuda = NULL
    cdef const char* keys[MAX_OPTIONS]
    cdef const char* values[MAX_OPTIONS]
    cdef size_t n = 0
    if len(settings) > MAX_OPTIONS:
        raise ConfigurationError(f"{len(settings)} CUDA options; at most {MAX_OPTIONS} can be set")
    encoded = [(str(key).encode(), str(value).encode()) for key, value in settings.items()]
    for key, value in encoded:
        keys[n], values[n] = key, value
        n += 1
    check_setting((<Create>ort_api()[CREATE_CUDA_OPTIONS])(&cuda))
    try:
        check_setting((<UpdateOptions>ort_api()[UPDATE_CUDA_OPTIONS])(cuda, keys, values, n))
        check_setting((<AppendProvider>ort_api()[APPEND_CUDA_PROVIDER])(options, cuda))
    finally:
        (<Release>ort_api()[RELEASE_CUDA_OPTIONS])(cuda)
    return 0


cdef int describe_tensor(void* info, str label, bytes name, list specs, dict dimensions) except -1:
    """Append the TensorSpec of an input or output and note the names of its dimensions. Raises InvalidArgument: not servable."""
    cdef int kind = 0
    cdef int onnx_type = 0
    cdef size_t rank = 0
    cdef void* tensor = NULL
    cdef int64_t[MAX_RANK] shape
    cdef const char* symbols[MAX_RANK]
    cdef uint64_t count = 0
    cdef size_t i
    check((<GetInt>ort_api()[GET_ONNX_TYPE])(info, &kind))
    if kind != ONNX_TENSOR:
        raise InvalidArgument(f"{label} is {VALUE_KINDS.get(kind, 'of an unknown kind')}; only tensors can be served")
    check((<CreateFrom>ort_api()[CAST_TYPE_INFO_TO_TENSOR_INFO])(info, &tensor))
    check((<GetInt>ort_api()[GET_TENSOR_ELEMENT_TYPE])(tensor, &onnx_type))
    cdef int datatype = datatype_from_onnx(onnx_type)
    if datatype == DT_INVALID:
        raise InvalidArgument(f"{label} has elements of type {ELEMENT_TYPES.get(onnx_type, onnx_type)}, which the protocol cannot carry")
    check((<GetSize>ort_api()[GET_DIMENSIONS_COUNT])(tensor, &rank))
    if rank > MAX_RANK:
        raise InvalidArgument(f"{label} has {rank} dimensions; at most {MAX_RANK} can be served")
    if rank == 0 and label.startswith("input") and not (<HasShape>ort_api()[HAS_SHAPE])(tensor):
        raise InvalidArgument(f"{label} declares no shape; give it one, with dynamic dimensions where they vary")
    check((<GetDimensions>ort_api()[GET_DIMENSIONS])(tensor, shape, rank))
    check((<GetSymbolicDimensions>ort_api()[GET_SYMBOLIC_DIMENSIONS])(tensor, symbols, rank))
    dims = tuple([shape[i] for i in range(rank)])
    for i in range(rank):
        shape[i] = max(shape[i], <int64_t>1)
    if element_count(shape, <int>rank, &count) or count > MAX_ELEMENTS:
        raise InvalidArgument(f"{label} has shape {list(dims)}, which is too large")
    text = name.decode("utf-8", "replace")
    specs.append(TensorSpec(text, datatype_name(datatype).decode(), dims))
    dimensions[text] = tuple([symbols[i].decode("utf-8", "replace") for i in range(rank)])
    return 0


cdef class Session:
    """A model loaded by path, so that external data beside the file is found.

    path: an .onnx file. device: "cpu", "cuda" or "cuda:N". intra_op_threads: 0 shares the pool of load_library (one thread of its
    own on CUDA). optimization: none, basic, extended or all. disable_cpu_fallback: on CUDA, a node that only the CPU can run is an
    error. cuda: CUDA provider options; config: session configuration entries; both by ONNX Runtime's names.

    inputs and outputs are serve.types.TensorSpec, -1 for a dynamic dimension; an output whose rank the model leaves open has shape ().

    Raises InvalidArgument: the model cannot be loaded or served, in ONNX Runtime's words where they are its own.
    ConfigurationError: the settings cannot be honoured. InternalError: the device failed.
    """

    def __cinit__(self, str path not None, str device not None="cpu", *, int intra_op_threads=0, str optimization not None="all",
                  bint disable_cpu_fallback=False, object cuda=None, object config=None):
        if not is_loaded():
            raise ConfigurationError("ONNX Runtime is not loaded: call load_library first")
        if optimization not in OPTIMIZATION_LEVELS:
            raise ConfigurationError(f"optimization is {optimization!r}; it can be {', '.join(OPTIMIZATION_LEVELS)}")
        self.path = path
        self.device_id = parse_device(device)
        self.device = "cpu" if self.device_id < 0 else f"cuda:{self.device_id}"
        entries = {"session.disable_cpu_ep_fallback": "1" if disable_cpu_fallback and self.device_id >= 0 else "0", **(config or {})}
        cdef void* options = NULL
        check((<Create>ort_api()[CREATE_SESSION_OPTIONS])(&options))
        try:
            configure(self, options, intra_op_threads, OPTIMIZATION_LEVELS[optimization], entries, cuda or {})
            load_model(self, options)
        finally:
            (<Release>ort_api()[RELEASE_SESSION_OPTIONS])(options)
        try:
            describe(self)
        except InvalidArgument as error:
            raise InvalidArgument(f"failed to load {os.path.basename(path)}: {error}") from None
        read_metadata(self)

    def __dealloc__(self):
        if self.handle != NULL:
            with nogil:                                 # waits for the device
                (<Release>ort_api()[RELEASE_SESSION])(self.handle)
        free(self.input_names)
        free(self.output_names)

    def __repr__(self):
        return f"Session({os.path.basename(self.path)!r}, {self.device!r}, {self.n_inputs} inputs, {self.n_outputs} outputs)"

    @property
    def batchable(self) -> bool:
        """Whether the first dimension of every input and output is dynamic, so that requests can share a run."""
        return self.n_inputs > 0 and not [spec for spec in self.inputs + self.outputs if spec.shape[:1] != (-1,)]

    cdef Signature* signature_for(self, int64_t max_batch) except NULL:
        """The native description of inputs and outputs, in one block. Raises ConfigurationError: the model cannot be batched so."""
        if not 0 <= max_batch <= MAX_BATCH:
            raise ConfigurationError(f"max_batch_size is {max_batch}; it can be 0 (not batched) to {MAX_BATCH}")
        cdef size_t n = self.n_inputs + self.n_outputs
        cdef size_t name_bytes = sum([len(name) for name in self.names])
        cdef Signature* signature = <Signature*>calloc(1, sizeof(Signature) + n * sizeof(NativeSpec) + name_bytes)
        if signature == NULL:
            raise MemoryError
        cdef NativeSpec* spec = <NativeSpec*>(signature + 1)
        cdef char* text = <char*>(spec + n)
        signature.max_batch = max_batch
        signature.n_inputs, signature.inputs = self.n_inputs, spec
        signature.n_outputs, signature.outputs = self.n_outputs, spec + self.n_inputs
        try:
            for name, described in zip(self.names, self.inputs + self.outputs, strict=True):
                memcpy(text, <const char*>name, len(name))
                spec.name = slice_make(text, len(name))
                fill_spec(spec, described, max_batch)
                text += len(name)
                spec += 1
        except BaseException:
            signature_free(signature)
            raise
        return signature


cdef int configure(Session session, void* options, int intra_op_threads, int level, dict entries, dict cuda) except -1:
    check_setting((<SetInt>ort_api()[SET_GRAPH_OPTIMIZATION_LEVEL])(options, level))
    # A pattern is kept for every combination of input shapes ever seen: without bound when dimensions are dynamic.
    check_setting((<Apply>ort_api()[DISABLE_MEM_PATTERN])(options))
    if session.device_id >= 0 or intra_op_threads:
        check_setting((<SetInt>ort_api()[SET_INTRA_OP_NUM_THREADS])(options, intra_op_threads or 1))
    else:
        check_setting((<Apply>ort_api()[DISABLE_PER_SESSION_THREADS])(options))
    for key, value in entries.items():
        check_setting((<AddConfigEntry>ort_api()[ADD_SESSION_CONFIG_ENTRY])(options, str(key).encode(), str(value).encode()))
    if session.device_id >= 0:
        append_cuda(options, {**CUDA_DEFAULTS, "device_id": session.device_id, **cuda})
    return 0


cdef int load_model(Session session, void* options) except -1:
    cdef bytes encoded = os.fsencode(session.path)
    cdef const char* path = encoded
    cdef Status status
    with nogil:                                     # seconds for a large model
        status = (<CreateSession>ort_api()[CREATE_SESSION])(ort_environment(), path, options, &session.handle)
    if status == NULL:
        return 0
    code, text = take_error(status)
    name = os.path.basename(session.path)
    kind = InternalError if code in (ORT_EP_FAIL, ORT_DEVICE_RESET) else InvalidArgument
    raise kind(f"failed to load {name}: {text.replace(session.path, name)}")


cdef int describe(Session session) except -1:
    cdef size_t n_inputs = 0
    cdef size_t n_outputs = 0
    # Initializers that a caller could override are graph inputs too, but not counted here.
    check((<GetSize>ort_api()[SESSION_GET_INPUT_COUNT])(session.handle, &n_inputs))
    check((<GetSize>ort_api()[SESSION_GET_OUTPUT_COUNT])(session.handle, &n_outputs))
    if n_inputs > MAX_TENSORS or n_outputs > MAX_TENSORS:
        raise InvalidArgument(f"it has {n_inputs} inputs and {n_outputs} outputs; at most {MAX_TENSORS} of each can be served")
    session.names, session.dimensions = [], {}
    session.n_inputs, session.n_outputs = <int>n_inputs, <int>n_outputs
    session.input_names = <const char**>calloc(n_inputs + 1, sizeof(char*))
    session.output_names = <const char**>calloc(n_outputs + 1, sizeof(char*))
    if session.input_names == NULL or session.output_names == NULL:
        raise MemoryError
    session.inputs = describe_all(session, "input", session.n_inputs, session.input_names, SESSION_GET_INPUT_NAME,
                                  SESSION_GET_INPUT_TYPE_INFO)
    session.outputs = describe_all(session, "output", session.n_outputs, session.output_names, SESSION_GET_OUTPUT_NAME,
                                   SESSION_GET_OUTPUT_TYPE_INFO)
    return 0


cdef tuple describe_all(Session session, str side, int n, const char** names, int get_name, int get_type):
    cdef list specs = []
    cdef char* text = NULL
    cdef void* info = NULL
    cdef int i
    for i in range(n):
        check((<SessionGetName>ort_api()[get_name])(session.handle, i, ort_allocator(), &text))
        name = <bytes>text
        check((<AllocatorFree>ort_api()[ALLOCATOR_FREE])(ort_allocator(), text))
        session.names.append(name)
        names[i] = name
        check((<SessionGetTypeInfo>ort_api()[get_type])(session.handle, i, &info))
        try:
            describe_tensor(info, f"{side} {name.decode('utf-8', 'replace')!r}", name, specs, session.dimensions)
        finally:
            (<Release>ort_api()[RELEASE_TYPE_INFO])(info)
    return tuple(specs)


cdef int read_metadata(Session session) except -1:
    cdef void* model = NULL
    cdef char* text = NULL
    cdef char** keys = NULL
    cdef int64_t n_keys = 0
    cdef int64_t i
    session.metadata = {}
    check((<CreateFrom>ort_api()[SESSION_GET_MODEL_METADATA])(session.handle, &model))
    try:
        check((<GetText>ort_api()[METADATA_GET_PRODUCER_NAME])(model, ort_allocator(), &text))
        session.producer = take_text(text)
        check((<GetText>ort_api()[METADATA_GET_GRAPH_NAME])(model, ort_allocator(), &text))
        session.graph_name = take_text(text)
        check((<GetText>ort_api()[METADATA_GET_DESCRIPTION])(model, ort_allocator(), &text))
        session.description = take_text(text)
        check((<GetInt64>ort_api()[METADATA_GET_VERSION])(model, &session.model_version))
        check((<MetadataGetKeys>ort_api()[METADATA_GET_KEYS])(model, ort_allocator(), &keys, &n_keys))
        for i in range(n_keys):
            check((<MetadataLookup>ort_api()[METADATA_LOOKUP])(model, ort_allocator(), keys[i], &text))
            session.metadata[take_text(keys[i])] = take_text(text)
        if keys != NULL:
            check((<AllocatorFree>ort_api()[ALLOCATOR_FREE])(ort_allocator(), keys))
    finally:
        (<Release>ort_api()[RELEASE_MODEL_METADATA])(model)
    return 0


cdef int parse_device(str device) except? -1:
    """-1 for the CPU, else the number of the CUDA device."""
    if device == "cpu":
        return -1
    kind, _, number = device.partition(":")
    if kind != "cuda" or (number and not (number.isascii() and number.isdigit())) or device.endswith(":") or len(number) > 3:
        raise ConfigurationError(f"device is {device!r}; it can be cpu, cuda or cuda:N")
    return int(number or 0)


cdef int fill_spec(NativeSpec* spec, object described, int64_t max_batch) except -1:
    cdef bytes datatype = described.datatype.encode()
    cdef int first = 1 if max_batch > 0 else 0
    cdef uint64_t count = 0
    cdef int i
    if first and described.shape[:1] != (-1,):
        raise ConfigurationError(f"max_batch_size is {max_batch}, but the first dimension of {described.name!r} is not dynamic: "
                                 f"its shape is {list(described.shape)}; set max_batch_size to 0")
    spec.datatype = datatype_from_name(slice_make(<const char*>datatype, len(datatype)))
    spec.rank = len(described.shape)
    for i in range(spec.rank):
        spec.shape[i] = described.shape[i]
    if element_count(spec.shape + first, spec.rank - first, &count) == 0:           # -1 when a dimension is dynamic
        spec.row_bytes = count * datatype_size(spec.datatype)
    return 0


cdef void signature_free(Signature* signature) noexcept nogil:
    free(signature)


# For the tests: what signature_for builds.

def signature_for_test(Session session not None, int64_t max_batch):
    """[(name, rank, shape, row_bytes)] of inputs, the same of outputs, and max_batch."""
    cdef Signature* signature = session.signature_for(max_batch)
    try:
        sides = [[spec_for_test(&signature.inputs[i]) for i in range(signature.n_inputs)],
                 [spec_for_test(&signature.outputs[i]) for i in range(signature.n_outputs)]]
        return sides[0], sides[1], signature.max_batch
    finally:
        signature_free(signature)


cdef tuple spec_for_test(const NativeSpec* spec):
    name = (<const char*>spec.name.data)[:spec.name.length].decode()
    return name, datatype_name(spec.datatype).decode(), [spec.shape[i] for i in range(spec.rank)], spec.row_bytes
