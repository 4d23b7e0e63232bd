"""One concurrent run of a session: gather the requests of a batch, run it, cut the answer into the requests' shares.

On the CPU the batch goes through Run. On a GPU it goes through an I/O binding: inputs are copied from page-locked buffers to the
device as they are bound, outputs arrive in page-locked buffers.
"""
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from serve._core.batch_tensor cimport (
    BatchTensor, HostMemory, batch_tensor_adopt, batch_tensor_cut, batch_tensor_free, batch_tensor_gather, batch_tensor_init,
    batch_tensor_prepare, batch_tensor_read, batch_tensor_release, live_values)
from serve._core.counters cimport counter_read
from serve._core.failure cimport INTERNAL, INVALID_ARGUMENT, OK, UNAVAILABLE, Failure, fail
from serve._core.memory cimport Arena, arena_alloc, arena_copy, arena_free
from serve._core.ort cimport Session, signature_free
from serve._core.ort_api cimport (
    ALLOCATOR_FREE, BIND_INPUT, BIND_OUTPUT, BIND_OUTPUT_TO_DEVICE, CREATE_ALLOCATOR, CREATE_IO_BINDING, CREATE_MEMORY_INFO,
    GET_BOUND_OUTPUT_VALUES, ORT_DEVICE_ALLOCATOR, ORT_MEMORY_CPU_OUTPUT, RELEASE_ALLOCATOR, RELEASE_IO_BINDING, RELEASE_MEMORY_INFO,
    RELEASE_VALUE, RUN, RUN_WITH_BINDING, SYNCHRONIZE_BOUND_INPUTS, SYNCHRONIZE_BOUND_OUTPUTS, AllocatorFree, Apply, Bind,
    CreateAllocator, CreateFrom, CreateMemoryInfo, GetBoundOutputs, Release, Run, RunWithBinding)
from serve._core.ort_library cimport check, ort_allocator, ort_api, ort_check, ort_cpu_memory
from serve._core.posix cimport now_ns
from serve._core.tensors cimport DT_BYTES, MAX_RANK, Signature, Tensor, datatype_name

from serve.errors import InternalError, InvalidArgument, Unavailable

cdef enum:
    UNWRITTEN = 0xA5                # fills the kept outputs of the first run

cdef struct Runner:
    void** api
    void* session                   # OrtSession*; borrowed, like the names
    const char** input_names
    const char** output_names
    bint batched
    int64_t max_rows
    int n_inputs
    int n_outputs
    BatchTensor* inputs             # [n_inputs]
    BatchTensor* outputs            # [n_outputs]
    const void** feeds              # [n_inputs] values of a run
    void** fetches                  # [n_outputs]; NULL lets the library allocate
    HostMemory memory
    void* binding                   # OrtIoBinding*; NULL on the CPU
    int64_t rows                    # of the last run, while it can be sliced; else 0
    bint proven                     # whether the library fills the kept outputs is known
    bint open_outputs               # it does not (a declared shape is wrong): it allocates every output itself

cdef extern from * nogil:
    """
    static int64_t headrace_live_runners;
    static inline void headrace_count_runner(int64_t n) { __atomic_fetch_add(&headrace_live_runners, n, __ATOMIC_RELAXED); }
    static inline int64_t headrace_runners(void) { return __atomic_load_n(&headrace_live_runners, __ATOMIC_RELAXED); }
    """
    void count_runner "headrace_count_runner"(int64_t n)
    int64_t count_runners "headrace_runners"()


cdef Runner* runner_new(Session session, const Signature* signature) except NULL:
    cdef Runner* runner = <Runner*>calloc(1, sizeof(Runner))
    if runner == NULL:
        raise MemoryError
    count_runner(1)
    runner.api, runner.session = ort_api(), session.handle
    runner.input_names, runner.output_names = session.input_names, session.output_names
    runner.batched, runner.max_rows = signature.max_batch > 0, max(signature.max_batch, <int64_t>1)
    runner.memory.api, runner.memory.info = runner.api, ort_cpu_memory()
    try:
        if session.device_id >= 0:
            use_device(runner, session.device_id)
        if build_tensors(runner, signature):
            raise MemoryError
    except BaseException:
        runner_free(runner)
        raise
    return runner


cdef int use_device(Runner* runner, int device_id) except -1:
    """Page-locked buffers and an I/O binding. Raises InternalError with the library's words."""
    cdef void** api = runner.api
    runner.memory.info = NULL
    check((<CreateMemoryInfo>api[CREATE_MEMORY_INFO])(
        b"CudaPinned", ORT_DEVICE_ALLOCATOR, device_id, ORT_MEMORY_CPU_OUTPUT, &runner.memory.info))
    check((<CreateAllocator>api[CREATE_ALLOCATOR])(runner.session, runner.memory.info, &runner.memory.pinned))
    check((<CreateFrom>api[CREATE_IO_BINDING])(runner.session, &runner.binding))
    return 0


cdef int build_tensors(Runner* runner, const Signature* signature) noexcept nogil:
    cdef int i
    runner.inputs = <BatchTensor*>calloc(signature.n_inputs + 1, sizeof(BatchTensor))
    runner.outputs = <BatchTensor*>calloc(signature.n_outputs + 1, sizeof(BatchTensor))
    runner.feeds = <const void**>calloc(signature.n_inputs + 1, sizeof(void*))
    runner.fetches = <void**>calloc(signature.n_outputs + 1, sizeof(void*))
    if runner.inputs == NULL or runner.outputs == NULL or runner.feeds == NULL or runner.fetches == NULL:
        return -1
    for i in range(signature.n_inputs):
        runner.n_inputs += 1
        if batch_tensor_init(&runner.inputs[i], &signature.inputs[i], signature.max_batch, &runner.memory):
            return -1
    for i in range(signature.n_outputs):
        runner.n_outputs += 1
        if batch_tensor_init(&runner.outputs[i], &signature.outputs[i], signature.max_batch, &runner.memory):
            return -1
    return 0


cdef void runner_free(Runner* runner) noexcept nogil:
    cdef int i
    if runner == NULL:
        return
    for i in range(runner.n_inputs):
        batch_tensor_free(&runner.inputs[i])
    for i in range(runner.n_outputs):
        batch_tensor_free(&runner.outputs[i])
    if runner.binding != NULL:
        (<Release>runner.api[RELEASE_IO_BINDING])(runner.binding)
    if runner.memory.pinned != NULL:
        (<Release>runner.api[RELEASE_ALLOCATOR])(runner.memory.pinned)
    if runner.memory.info != ort_cpu_memory() and runner.memory.info != NULL:
        (<Release>runner.api[RELEASE_MEMORY_INFO])(runner.memory.info)
    free(runner.inputs)
    free(runner.outputs)
    free(runner.feeds)
    free(runner.fetches)
    free(runner)
    count_runner(-1)


cdef void runner_release(Runner* runner) noexcept nogil:
    cdef int i
    runner.rows = 0
    for i in range(runner.n_inputs):
        batch_tensor_release(&runner.inputs[i])
    for i in range(runner.n_outputs):
        batch_tensor_release(&runner.outputs[i])


cdef uint64_t runner_copied_bytes(const Runner* runner) noexcept nogil:
    return counter_read(&runner.memory.copied_bytes)


cdef int gather(Runner* runner, Tensor*** inputs, const int64_t* rows, int count, int64_t rows_total, Failure* failure) noexcept nogil:
    cdef BatchTensor* tensor
    cdef int i
    for i in range(runner.n_inputs):
        tensor = &runner.inputs[i]
        if batch_tensor_gather(tensor, i, inputs, rows, count, rows_total, failure):
            return -1
        runner.feeds[i] = tensor.value
    for i in range(runner.n_outputs):
        tensor = &runner.outputs[i]
        if is_kept(runner, tensor):
            if batch_tensor_prepare(tensor, rows_total, failure):
                return -1
            if not runner.proven:
                memset(tensor.data, UNWRITTEN, tensor.nbytes)
        runner.fetches[i] = tensor.value
    return 0


cdef bint are_written(const Runner* runner) noexcept nogil:
    """Whether the run has written every kept output. The library returns a graph input that is an output, too, beside our buffer."""
    cdef const BatchTensor* tensor
    cdef size_t at
    cdef int i
    for i in range(runner.n_outputs):
        tensor = &runner.outputs[i]
        if not is_kept(runner, tensor):
            continue
        at = 0
        while at < tensor.nbytes and tensor.data[at] == UNWRITTEN:
            at += 1
        if at == tensor.nbytes:
            return False
    return True


cdef inline bint is_kept(const Runner* runner, const BatchTensor* output) noexcept nogil:
    """Whether the run writes the output straight into its buffer."""
    return output.fixed and not runner.open_outputs


cdef int run_bound(Runner* runner, Failure* failure) noexcept nogil:
    """The run through the I/O binding; fills the fetches that were left open."""
    cdef void** api = runner.api
    cdef void** values = NULL
    cdef size_t n_values = 0
    cdef void* place
    cdef int i
    for i in range(runner.n_inputs):
        if ort_check((<Bind>api[BIND_INPUT])(runner.binding, runner.input_names[i], runner.feeds[i]), failure):
            return -1
    for i in range(runner.n_outputs):
        if runner.fetches[i] != NULL:
            if ort_check((<Bind>api[BIND_OUTPUT])(runner.binding, runner.output_names[i], runner.fetches[i]), failure):
                return -1
            continue
        place = ort_cpu_memory() if runner.outputs[i].spec.datatype == DT_BYTES else runner.memory.info
        if ort_check((<Bind>api[BIND_OUTPUT_TO_DEVICE])(runner.binding, runner.output_names[i], place), failure):
            return -1
    if (ort_check((<Apply>api[SYNCHRONIZE_BOUND_INPUTS])(runner.binding), failure)
            or ort_check((<RunWithBinding>api[RUN_WITH_BINDING])(runner.session, NULL, runner.binding), failure)
            or ort_check((<Apply>api[SYNCHRONIZE_BOUND_OUTPUTS])(runner.binding), failure)
            or ort_check((<GetBoundOutputs>api[GET_BOUND_OUTPUT_VALUES])(runner.binding, ort_allocator(), &values, &n_values), failure)):
        return -1
    for i in range(<int>n_values):
        if runner.fetches[i] == NULL:
            runner.fetches[i] = values[i]
        else:
            (<Release>api[RELEASE_VALUE])(values[i])
    return ort_check((<AllocatorFree>api[ALLOCATOR_FREE])(ort_allocator(), values), failure) if values != NULL else 0


cdef int run_once(Runner* runner, Failure* failure) noexcept nogil:
    cdef int failed
    cdef int i
    if runner.binding != NULL:
        failed = run_bound(runner, failure)
    else:
        failed = ort_check((<Run>runner.api[RUN])(
            runner.session, NULL, runner.input_names, runner.feeds, runner.n_inputs, runner.output_names, runner.n_outputs,
            runner.fetches), failure)
    for i in range(runner.n_outputs):
        if not is_kept(runner, &runner.outputs[i]) and runner.fetches[i] != NULL:
            batch_tensor_adopt(&runner.outputs[i], runner.fetches[i])
    return failed


cdef int run(Runner* runner, Failure* failure) noexcept nogil:
    """Run; until a run has filled the kept outputs, a failure may be their declared shapes': then the library may allocate them."""
    cdef Failure of_retry
    cdef int failed = run_once(runner, failure)
    cdef int i
    if runner.proven:
        return failed
    if not failed and are_written(runner):
        runner.proven = True
        return 0
    for i in range(runner.n_outputs):
        batch_tensor_release(&runner.outputs[i])
        runner.fetches[i] = NULL
    runner.open_outputs = runner.proven = True
    if run_once(runner, &of_retry) == 0:
        failure.kind = OK
        return 0
    runner.open_outputs = runner.proven = False
    if not failed:
        failure[0] = of_retry
    return -1


cdef int runner_run(Runner* runner, Tensor*** inputs, const int64_t* rows, int count, RunTimes* times, Failure* failure) noexcept nogil:
    cdef int64_t rows_total = 0
    cdef int i
    runner_release(runner)
    for i in range(count):
        if rows[i] < 1 or rows[i] > runner.max_rows - rows_total:
            return fail(failure, INTERNAL, "a batch of %d requests does not fit %lld rows", count, <long long>runner.max_rows)
        rows_total += rows[i]
    if rows_total == 0:
        return fail(failure, INTERNAL, "an empty batch")
    if gather(runner, inputs, rows, count, rows_total, failure):
        return -1
    times.gathered = now_ns()
    if run(runner, failure):
        return -1
    times.ran = now_ns()
    for i in range(runner.n_inputs):
        batch_tensor_release(&runner.inputs[i])
    for i in range(runner.n_outputs):
        if not is_kept(runner, &runner.outputs[i]) and batch_tensor_read(&runner.outputs[i], rows_total, failure):
            return -1
    runner.rows = rows_total
    times.scattered = now_ns()
    return 0


cdef int runner_slice(Runner* runner, int index, int64_t first, int64_t rows, int64_t* shape, Tensor* view,
                      Failure* failure) noexcept nogil:
    cdef const BatchTensor* tensor
    if index < 0 or index >= runner.n_outputs or runner.rows == 0:
        return fail(failure, INTERNAL, "no output %d to slice", index)
    if runner.batched and (first < 0 or rows < 1 or rows > runner.rows - first):
        return fail(failure, INTERNAL, "rows %lld to %lld of a batch of %lld", <long long>first, <long long>(first + rows),
                    <long long>runner.rows)
    tensor = &runner.outputs[index]
    memcpy(shape, tensor.shape, tensor.rank * sizeof(int64_t))
    if runner.batched:
        shape[0] = rows
    view.name, view.datatype = tensor.spec.name, tensor.spec.datatype
    view.rank, view.shape, view.binary = tensor.rank, shape, False
    batch_tensor_cut(tensor, first, rows, view)
    return 0


# For the tests: a runner driven from Python, requests and answers as (shape, bytes).

cdef dict ERRORS = {int(INVALID_ARGUMENT): InvalidArgument, int(INTERNAL): InternalError, int(UNAVAILABLE): Unavailable}


def live_objects():
    """{"values": OrtValues, "runners": Runners} that are alive in this process."""
    return {"values": live_values(), "runners": count_runners()}


cdef class RunnerHarness:
    """A runner of a session with the given max_batch (0: not batched)."""
    cdef Session session
    cdef Signature* signature
    cdef Runner* runner
    cdef RunTimes times

    def __cinit__(self, Session session not None, int64_t max_batch):
        self.session = session
        self.signature = session.signature_for(max_batch)
        self.runner = runner_new(session, self.signature)

    def __dealloc__(self):
        runner_free(self.runner)
        signature_free(self.signature)

    def run(self, list requests, *, list rows=None, int repeat=1):
        """Run requests, each a list of (shape, bytes) per input, as one batch `repeat` times.

        Returns the answers, a list of slices per request, and (total, inside Run) nanoseconds of all the runs.
        """
        cdef Arena arena
        cdef Tensor*** inputs
        cdef int64_t* row_counts
        cdef Failure failure
        cdef int count = len(requests)
        cdef int r, failed = 0
        cdef uint64_t begun, inside = 0
        memset(&arena, 0, sizeof(arena))
        failure.kind = OK
        try:
            inputs = <Tensor***>arena_alloc(&arena, (count + 1) * sizeof(void*))
            row_counts = <int64_t*>arena_alloc(&arena, (count + 1) * sizeof(int64_t))
            for r in range(count):
                inputs[r] = native_tensors(&arena, requests[r])
                row_counts[r] = rows[r] if rows is not None else requests[r][0][0][0] if self.runner.batched else 1
            with nogil:
                begun = now_ns()
                for _ in range(repeat):
                    failed = runner_run(self.runner, inputs, row_counts, count, &self.times, &failure)
                    if failed:
                        break
                    inside += self.times.ran - self.times.gathered
                begun = now_ns() - begun
            if failed:
                raise ERRORS[failure.kind](failure.text.decode())
            return self._slices([row_counts[r] for r in range(count)]), (begun, inside)
        finally:
            arena_free(&arena)

    def _slices(self, list rows):
        first, answers = 0, []
        for n in rows:
            answers.append([self.slice(i, first, n) for i in range(self.runner.n_outputs)])
            first += n
        return answers

    def slice(self, int index, int64_t first, int64_t rows):
        """(name, datatype, shape, bytes) of rows [first, first + rows) of an output of the last run."""
        cdef int64_t[MAX_RANK] shape
        cdef Tensor view
        cdef Failure failure
        if runner_slice(self.runner, index, first, rows, shape, &view, &failure):
            raise ERRORS[failure.kind](failure.text.decode())
        content = (<const char*>view.data)[:view.nbytes] if view.nbytes else b""
        name = (<const char*>view.name.data)[:view.name.length].decode()
        return name, datatype_name(view.datatype).decode(), tuple([shape[d] for d in range(view.rank)]), content

    def release(self):
        """Give back what the last run left."""
        runner_release(self.runner)

    def buffer_bytes(self):
        """Capacity of the buffers of all inputs and all outputs."""
        return (sum([self.runner.inputs[i].capacity for i in range(self.runner.n_inputs)]),
                sum([self.runner.outputs[i].capacity for i in range(self.runner.n_outputs)]))


cdef Tensor** native_tensors(Arena* arena, list tensors) except NULL:
    cdef Tensor** pointers = <Tensor**>arena_alloc(arena, (len(tensors) + 1) * sizeof(void*))
    cdef Tensor* tensor
    cdef bytes content
    cdef int i, d
    for i, (shape, data) in enumerate(tensors):
        tensor = <Tensor*>arena_alloc(arena, sizeof(Tensor))
        tensor.rank, content = len(shape), data
        tensor.shape = <int64_t*>arena_alloc(arena, (len(shape) + 1) * sizeof(int64_t))
        for d in range(tensor.rank):
            tensor.shape[d] = shape[d]
        tensor.data, tensor.nbytes = arena_copy(arena, <const char*>content, len(content)).data, len(content)
        pointers[i] = tensor
    return pointers


def run_for_test(Session session not None, int64_t max_batch, list requests):
    """RunnerHarness.run of a runner that lives for one batch."""
    return RunnerHarness(session, max_batch).run(requests)[0]
