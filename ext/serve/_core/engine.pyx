from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from serve._core.counters cimport counter_read, counter_set
from serve._core.failure cimport Failure, INVALID_ARGUMENT
from serve._core.histogram cimport (Histogram, N_BUCKETS, SizeHistogram, histogram_merge, histogram_value, size_histogram_merge,
                                    size_histogram_value)
from serve._core.memory cimport Slice, slice_make
from serve._core.ort cimport signature_free
from serve._core.posix cimport acquire_pointer, mutex_lock, mutex_unlock, now_ns
from serve._core.runner cimport RunTimes, runner_copied_bytes, runner_free, runner_new, runner_run
from serve._core.tensors cimport DT_BYTES, MAX_RANK, Tensor, datatype_size, element_count
from serve._core.version cimport *

from serve.errors import InternalError, InvalidArgument
from serve.traffic import RunReading
from serve.types import BatchStatistics, Duration, VersionStatistics

PROTOCOLS = ("http", "grpc")
STAGES = ("receive", "queue", "gather", "run", "scatter", "send", "total")
REASONS = ("queue_full", "deadline", "cancelled", "invalid", "failed")


cdef class NativeVersion:
    """One version, ready to be published.

    inputs, outputs: tuples of serve.types.TensorSpec with dimensions narrowed by declarations. max_batch_size: rows, 0 when not batched.
    Raises ValueError for settings out of range, MemoryError.
    """

    def __cinit__(self, Session session not None, InstancePool pool not None, str model not None, str number not None, *,
                  tuple inputs not None, tuple outputs not None, int max_batch_size, int instances,
                  tuple preferred_batch_sizes=(), int max_queue_delay_us=0,
                  int max_queue_size=4096, int default_queue_timeout_us=0, dict class_labels=None):
        cdef Version* version
        if not 1 <= instances <= MAX_INSTANCES:
            raise ValueError(f"instances = {instances}; want 1 to {MAX_INSTANCES}")
        if len(preferred_batch_sizes) > MAX_PREFERRED:
            raise ValueError(f"{len(preferred_batch_sizes)} preferred batch sizes; at most {MAX_PREFERRED}")
        if any([not 1 <= size <= max(1, max_batch_size) for size in preferred_batch_sizes]):
            raise ValueError(f"preferred_batch_sizes = {list(preferred_batch_sizes)}; want 1 to {max(1, max_batch_size)}, the maximum")
        if min(max_batch_size, max_queue_delay_us, max_queue_size, default_queue_timeout_us) < 0:
            raise ValueError("max_batch_size, max_queue_delay_us, max_queue_size and default_queue_timeout_us must not be negative")
        self.session, self.pool, self.model, self.number = session, pool, model, number
        self.inputs, self.outputs, self.max_batch_size = inputs, outputs, max_batch_size
        self.kept = [model.encode() + b"\0", number.encode() + b"\0"]
        self.version = version = <Version*>calloc(1, sizeof(Version))
        if version == NULL:
            raise MemoryError
        self.signature = session.signature_for(max_batch_size)
        self.narrow()
        version.signature = self.signature
        version.model = slice_make(<const char*><bytes>self.kept[0], len(self.kept[0]) - 1)
        version.number = slice_make(<const char*><bytes>self.kept[1], len(self.kept[1]) - 1)
        version.max_batch = max(1, max_batch_size)
        for size in sorted(preferred_batch_sizes):
            version.preferred[version.n_preferred] = size
            version.n_preferred += 1
        version.delay_ns = <uint64_t>max_queue_delay_us * 1000
        version.default_timeout_ns = <uint64_t>default_queue_timeout_us * 1000
        version.queue_limit = max_queue_size
        version.may_inline = session.device == "cpu"
        version.pool = pool.pool
        self.take_labels(class_labels or {})
        for _ in range(instances):
            version.free[version.n_free] = runner_new(session, self.signature)
            version.n_free += 1
        version.instances = instances

    cdef int narrow(self) except -1:
        """Declared shapes are narrower than the graph's: requests are held against them."""
        cdef int i, j
        for i, spec in enumerate(self.inputs):
            for j, size in enumerate(spec.shape):
                self.signature.inputs[i].shape[j] = size
        return 0

    cdef int take_labels(self, dict class_labels) except -1:
        cdef Version* version = self.version
        cdef int i, j
        version.class_labels = <Slice**>calloc(max(1, self.signature.n_outputs), sizeof(void*))
        version.n_labels = <int*>calloc(max(1, self.signature.n_outputs), sizeof(int))
        if version.class_labels == NULL or version.n_labels == NULL:
            raise MemoryError
        for i, spec in enumerate(self.outputs):
            labels = [label.encode() for label in class_labels.get(spec.name, ())]
            if not labels:
                continue
            self.kept.extend(labels)
            version.class_labels[i] = <Slice*>calloc(len(labels), sizeof(Slice))
            if version.class_labels[i] == NULL:
                raise MemoryError
            for j, label in enumerate(labels):
                version.class_labels[i][j] = slice_make(<const char*><bytes>label, len(label))
            version.n_labels[i] = len(labels)
        return 0

    def record(self, NativeRecorder recorder not None, int stream):
        """Its requests go into this stream, opened for its inputs and outputs. Only before the version is published."""
        self.version.recording = recorder.stream(stream)
        self.recorder = recorder

    def guard(self, NativeGuard guard not None):
        """Requests are held against it, which was made for its inputs. Only before the version is published."""
        if guard.inputs != self.inputs:
            raise ValueError(f"the guard is for the inputs {guard.inputs}, the version has {self.inputs}")
        self.version.guard = &guard.guard
        self.guarded = guard

    @property
    def instances(self):
        """Concurrent executions."""
        return self.version.instances

    @property
    def device(self):
        """cpu or cuda:<index>."""
        return self.session.device

    def warm_up(self, dict shapes not None, tuple batch_sizes not None):
        """Run zeros (empty strings) through every instance and batch size, twice, and note how long the second takes.

        shapes: input name -> fixed shape, without the batch dimension when the model is batched. batch_sizes: rows, ascending; empty
        for a model that is not batched. A model that refuses made-up input with an INVALID_ARGUMENT of its own (an index out of range, say)
        is not broken: it stays cold. Raises InternalError when a run fails for any other reason.
        """
        for rows in batch_sizes or (1,):
            for slot in range(self.version.instances):
                self.warm_run(slot, rows, shapes)

    def warm_run(self, int slot, int rows, dict shapes not None):
        """Two runs of one instance at one batch size; see warm_up. Only before the version is published."""
        cdef Tensor[128] tensors
        cdef Tensor* inputs[128]
        cdef Tensor** request = inputs
        cdef int64_t[128][MAX_RANK] dimensions
        cdef uint64_t elements, start = 0
        cdef int64_t n_rows = rows
        cdef RunTimes times
        cdef Failure failure
        cdef int i, j, status = 0
        memset(tensors, 0, sizeof(tensors))
        memset(&failure, 0, sizeof(failure))
        buffers = []
        for i, spec in enumerate(self.inputs):
            shape = ((rows,) if self.max_batch_size else ()) + tuple(shapes[spec.name])
            for j, size in enumerate(shape):
                dimensions[i][j] = size
            tensors[i].name = self.signature.inputs[i].name
            tensors[i].datatype = self.signature.inputs[i].datatype
            tensors[i].rank, tensors[i].shape = len(shape), dimensions[i]
            if element_count(dimensions[i], len(shape), &elements):
                raise InvalidArgument(f"warm-up of {spec.name!r}: shape {shape} is too large")
            width = datatype_size(tensors[i].datatype) if tensors[i].datatype != DT_BYTES else 4        # an empty string is its length
            zeros = bytes(elements * width)
            buffers.append(zeros)
            tensors[i].data, tensors[i].nbytes = <const uint8_t*><const char*>zeros, len(zeros)
            inputs[i] = &tensors[i]
        with nogil:
            for _ in range(2):
                start = now_ns()
                status = runner_run(self.version.free[slot], &request, &n_rows, 1, &times, &failure)
                if status:
                    break
        if status and failure.kind == INVALID_ARGUMENT:
            return
        if status:
            text = failure.text.decode("utf-8", "replace")
            raise InternalError(f"warm-up with {rows} rows failed: {text}")
        counter_set(&self.version.run_ns[min((rows - 1).bit_length(), N_RUN_ESTIMATES - 1)], max(1, times.scattered - start))

    def run_times(self):
        """Measured nanoseconds of a run by rows (powers of two); what decides who runs it."""
        return {2 ** i: counter_read(&self.version.run_ns[i]) for i in range(N_RUN_ESTIMATES) if counter_read(&self.version.run_ns[i])}

    cdef (int, int) queue_state(self):
        """Requests queued, and runs in progress; queued shadows count as such: nobody waits for them, but they keep the version busy."""
        mutex_lock(&self.pool.pool.lock)            # held for a few instructions by others: no need to drop the GIL
        depth, running = self.version.depth, self.version.running + self.version.n_shadows
        mutex_unlock(&self.pool.pool.lock)
        return depth, running

    def copied_bytes(self):
        """Bytes of tensors that went into batch buffers. Counted in debug builds only, and only while nothing runs."""
        return sum([runner_copied_bytes(self.version.free[i]) for i in range(self.version.n_free)])

    def run_reading(self):
        """serve.traffic.RunReading of everything since the load."""
        return _Reading(self).runs()

    def is_idle(self):
        """Nothing queued and nothing running."""
        return self.queue_state() == (0, 0)

    def statistics(self):
        """serve.types.VersionStatistics of everything since the load."""
        return _Reading(self).value()

    def __dealloc__(self):
        cdef Version* version = self.version
        cdef int i
        if version == NULL:
            return
        for i in range(version.n_free):             # all are free: nothing runs what nobody can reach
            runner_free(version.free[i])
        for i in range(MAX_THREADS):
            if version.stats[i] != NULL:
                free(version.stats[i].batches)
                free(version.stats[i])
        if version.class_labels != NULL:
            for i in range(self.signature.n_outputs):
                free(version.class_labels[i])
        free(version.class_labels)
        free(version.n_labels)
        free(version.spare)
        free(version)
        if self.signature != NULL:
            signature_free(self.signature)


cdef class _Reading:
    """Adds up the counters of all threads once."""
    cdef NativeVersion native
    cdef list blocks

    def __cinit__(self, NativeVersion native):
        self.native = native

    cdef VersionStats* block(self, int thread):
        return <VersionStats*>acquire_pointer(<void**>&self.native.version.stats[thread])

    cdef tuple stage(self, int p, int s):
        """(Duration, serve.types.Histogram) of one protocol and stage."""
        cdef VersionStats* stats
        cdef Histogram merged
        memset(&merged, 0, sizeof(merged))
        for thread in range(MAX_THREADS):
            stats = self.block(thread)
            if stats != NULL:
                histogram_merge(&merged, &stats.stages[p][s])
        return Duration(sum([merged.counts[i] for i in range(N_BUCKETS)]), merged.sum), histogram_value(&merged)

    cdef object batch_sizes(self):
        cdef VersionStats* stats
        cdef SizeHistogram merged
        memset(&merged, 0, sizeof(merged))
        for thread in range(MAX_THREADS):
            stats = self.block(thread)
            if stats != NULL:
                size_histogram_merge(&merged, &stats.batch_sizes)
        return size_histogram_value(&merged)

    def counts(self):
        """The plain counters, summed."""
        cdef VersionStats* stats
        cdef int i, thread
        rejections = [0] * <int>N_REJECTIONS
        totals = {"success": 0, "rejection_ns": 0, "rows": 0, "executions": 0, "submitted": 0, "completed": 0, "last_wall_ms": 0}
        for thread in range(MAX_THREADS):
            stats = self.block(thread)
            if stats == NULL:
                continue
            totals["success"] += counter_read(&stats.success[<int>HTTP]) + counter_read(&stats.success[<int>GRPC])
            totals["rejection_ns"] += counter_read(&stats.rejection_ns)
            totals["rows"] += counter_read(&stats.rows)
            totals["executions"] += counter_read(&stats.executions)
            totals["completed"] += counter_read(&stats.completed)
            totals["submitted"] += counter_read(&stats.submitted)
            totals["last_wall_ms"] = max(totals["last_wall_ms"], counter_read(&stats.last_wall_ms))
            for i in range(N_REJECTIONS):
                rejections[i] += counter_read(&stats.rejections[i])
        return totals, dict(zip(REASONS, rejections))

    def batches(self):
        """rows -> [executions, gather ns, run ns, scatter ns]; rows 0: larger than the table."""
        cdef VersionStats* stats
        cdef int i
        table = {}
        for thread in range(MAX_THREADS):
            stats = self.block(thread)
            if stats == NULL:
                continue
            for i in range(stats.n_batches):
                executions = counter_read(&stats.batches[i].executions)
                if executions:
                    row = table.setdefault(i, [0, 0, 0, 0])
                    row[0] += executions
                    row[1] += counter_read(&stats.batches[i].gather_ns)
                    row[2] += counter_read(&stats.batches[i].run_ns)
                    row[3] += counter_read(&stats.batches[i].scatter_ns)
        return table

    def runs(self):
        cdef VersionStats* stats
        cdef Histogram waits
        cdef Histogram[N_RUN_ESTIMATES] runs
        memset(runs, 0, sizeof(runs))
        memset(&waits, 0, sizeof(waits))
        for thread in range(MAX_THREADS):
            stats = self.block(thread)
            if stats != NULL:
                histogram_merge(&waits, &stats.waits)
                for i in range(N_RUN_ESTIMATES):
                    histogram_merge(&runs[i], &stats.runs[i])
        by_rows = {i: tuple([runs[i].counts[j] for j in range(N_BUCKETS)]) for i in range(N_RUN_ESTIMATES)}
        return RunReading(self.native.model, self.native.number, {i: counts for i, counts in by_rows.items() if any(counts)},
                          tuple([waits.counts[j] for j in range(N_BUCKETS)]))

    def value(self):
        stages = {(PROTOCOLS[p], STAGES[s]): self.stage(p, s) for p in range(N_PROTOCOLS) for s in range(N_STAGES)}
        totals, rejected = self.counts()

        def duration(stage):
            parts = [stages[protocol, stage][0] for protocol in PROTOCOLS]
            return Duration(sum([part.count for part in parts]), sum([part.ns for part in parts]))

        native = self.native
        return VersionStatistics(
            name=native.model, version=native.number, last_inference_ms=totals["last_wall_ms"], inference_count=totals["rows"],
            execution_count=totals["executions"], success=duration("total"), fail=Duration(sum(rejected.values()), totals["rejection_ns"]),
            queue=duration("queue"), compute_input=duration("gather"), compute_infer=duration("run"), compute_output=duration("scatter"),
            batch_stats=tuple([
                BatchStatistics(rows or native.max_batch_size, Duration(n, gather), Duration(n, run), Duration(n, scatter))
                for rows, (n, gather, run, scatter) in sorted(self.batches().items())]),
            queue_depth=native.queue_state()[0], in_flight=max(0, totals["submitted"] - totals["completed"]), rejected=rejected,
            stages={key: histogram for key, (_, histogram) in stages.items()}, batch_sizes=self.batch_sizes())
