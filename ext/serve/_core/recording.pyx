from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from serve._core.counters cimport counter_add
from serve._core.counting cimport since
from serve._core.failure cimport HTTP_STATUS, OK, TOO_LARGE, UNAVAILABLE, Failure, fail
from serve._core.hash cimport hash64
from serve._core.ids cimport UUID_TEXT, uuid7_text
from serve._core.memory cimport Slice, arena_alloc, arena_copy, slice_make
from serve._core.observe cimport is_shadow
from serve._core.record cimport *
from serve._core.record_ring cimport ring_publish, ring_reserve, ring_room, ring_takes, ring_unreserve
from serve._core.router cimport find_value
from serve._core.routing cimport Plan
from serve._core.runner cimport runner_slice
from serve._core.tensors cimport MAX_RANK, Signature, Tensor

cdef enum:
    SAMPLE_SEED = 0x5EED                # of the ids' hash
    TRACE_TEXT = 32
    VARIABLE_ALLOWANCE = 4096           # reserved a row for a tensor whose size is known only after the run

cdef extern from "<string.h>" nogil:
    size_t strnlen(const char*, size_t)

cdef extern from * nogil:
    """
    static inline uint64_t headrace_take_numbers(uint64_t *next, uint64_t n) { return __atomic_fetch_add(next, n, __ATOMIC_RELAXED); }
    """
    uint64_t take_numbers "headrace_take_numbers"(uint64_t* next_number, uint64_t n)

cdef inline RecordStream* stream_of(const Request* request) noexcept nogil:
    return <RecordStream*>request.version.recording


# --- in -----------------------------------------------------------------------------------------------------------------

cdef bint copy_text(uint8_t* out, Slice text) noexcept nogil:
    """Whether it is ASCII, as nearly every text is: by words, as a text is too short for what memcpy does first."""
    cdef uint64_t word, found = 0
    cdef size_t i = 0
    while i + 8 <= text.length:
        memcpy(&word, text.data + i, 8)
        memcpy(out + i, &word, 8)
        found |= word
        i += 8
    while i < text.length:
        out[i] = text.data[i]
        found |= text.data[i]
        i += 1
    return not found & 0x8080808080808080ULL


cdef bint is_utf8(Slice text) noexcept nogil:
    """RFC 3629: no overlong forms, no surrogates, nothing over U+10FFFF."""
    cdef size_t i = 0
    cdef size_t n, j
    cdef uint8_t lead
    while i < text.length:
        lead = text.data[i]
        if 0x80 <= lead < 0xC2 or lead > 0xF4:
            return False
        n = 1 if lead < 0x80 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
        if i + n > text.length:
            return False
        for j in range(1, n):
            if text.data[i + j] & 0xC0 != 0x80:
                return False
        if n == 3 and (lead == 0xE0 and text.data[i + 1] < 0xA0 or lead == 0xED and text.data[i + 1] > 0x9F):
            return False
        if n == 4 and (lead == 0xF0 and text.data[i + 1] < 0x90 or lead == 0xF4 and text.data[i + 1] > 0x8F):
            return False
        i += n
    return True


cdef Slice plain_text(Request* request, Slice text) noexcept nogil:
    """A copy of at most MAX_RECORDED_TEXT bytes of a client's text; unless it is UTF-8, what is not ASCII becomes `?`."""
    cdef size_t i
    text.length = min(text.length, <size_t>MAX_RECORDED_TEXT)
    cdef uint8_t* letters = <uint8_t*>arena_alloc(&request.arena, text.length)
    if letters == NULL:
        return slice_make(NULL, 0)
    if not copy_text(letters, text) and not is_utf8(text):
        for i in range(text.length):
            if letters[i] > 127:
                letters[i] = b'?'
    return slice_make(letters, text.length)


cdef Slice id_of(IoThread* io, const Call* call, Request* request) noexcept nogil:
    """The OIP id, else x-request-id or ours; messages of a stream that bring none get one each. The client's bytes, or the arena's."""
    cdef char* made
    cdef Slice text = call.request_id
    if request.infer.has_id and request.infer.id.length:
        text = request.infer.id
    elif request.stream:
        made = <char*>arena_alloc(&request.arena, UUID_TEXT)
        if made == NULL:
            return slice_make(NULL, 0)
        uuid7_text(io.hooks.wall_ms, io.hooks.random, made)
        return slice_make(made, UUID_TEXT)
    return slice_make(text.data, min(text.length, <size_t>MAX_RECORDED_TEXT))


cdef Slice trace_of(Slice parent) noexcept nogil:
    """The trace id of a W3C traceparent, 00-<32 hex>-<16 hex>-<2 hex>; its bytes, none of what is no such."""
    cdef size_t i
    if parent.length < 55:
        return slice_make(NULL, 0)
    for i in range(3, 3 + TRACE_TEXT):
        if not (48 <= parent.data[i] <= 57 or 97 <= parent.data[i] <= 102):
            return slice_make(NULL, 0)
    return slice_make(parent.data + 3, TRACE_TEXT)


cdef Slice tags_of(const RecordStream* stream, const Call* call, Request* request) noexcept nogil:
    """name NUL value NUL ...; values as plain_text."""
    cdef uint8_t* text = <uint8_t*>arena_alloc(&request.arena, MAX_RECORDED_TEXT)
    cdef size_t length = 0
    cdef Slice value
    cdef int i
    if text == NULL:
        return slice_make(NULL, 0)
    for i in range(stream.n_tags):
        if not find_value(&stream.tags[i].source, request, call.fields, &value):
            continue
        value = plain_text(request, value)
        value.length = strnlen(<const char*>value.data, value.length)           # a NUL would end it anyway
        if length + stream.tags[i].name.length + value.length + 2 > MAX_RECORDED_TEXT:
            continue
        memcpy(text + length, stream.tags[i].name.data, stream.tags[i].name.length)
        length += stream.tags[i].name.length
        text[length] = 0
        if value.length:
            memcpy(text + length + 1, value.data, value.length)
        length += value.length + 2
        text[length - 1] = 0
    return slice_make(text, length)


cdef void record_begin(IoThread* io, const Call* call, Request* request) noexcept nogil:
    cdef RecordStream* stream = stream_of(request)
    cdef RecordNote* note
    cdef Slice id
    if io.ring == NULL:
        return
    id = id_of(io, call, request)
    if stream.below < <uint64_t>1 << 53 and hash64(id, SAMPLE_SEED) >> 11 >= stream.below:
        return
    note = <RecordNote*>arena_alloc(&request.arena, sizeof(RecordNote))
    if note == NULL:
        take_numbers(&io.shared.record_page[PAGE_ASSIGNED], 1)
        counter_add(&stream.stats[io.index].sampled, 1)
        drop(io, stream, DROPPED_MEMORY, 1)
        return
    memset(note, 0, sizeof(RecordNote))
    note.id = plain_text(request, id)                   # only now: of most requests nothing is copied where few are recorded
    note.trace = trace_of(call.traceparent)
    if note.trace.length:
        note.trace = arena_copy(&request.arena, note.trace.data, note.trace.length)
        if note.trace.data == NULL:
            note.trace.length = 0
    if stream.n_tags:
        note.tags = tags_of(stream, call, request)
    request.record = note


cdef uint64_t promised_bytes(const Request* request) noexcept nogil:
    """What its record takes at most, but for tensors that turn out larger than their allowance: those are left out then."""
    cdef const RecordStream* stream = stream_of(request)
    cdef const Signature* signature = request.version.signature
    cdef const RecordNote* note = request.record
    cdef uint64_t total = sizeof(RecordHeader) + padded(note.id.length + note.trace.length + note.tags.length + MAX_RECORDED_TEXT)
    cdef uint64_t rows = <uint64_t>request.binding.rows
    cdef uint64_t row_bytes
    cdef int i
    for i in range(stream.n_inputs):
        total += sizeof(RecordedPart) + MAX_RANK * 8 + padded(request.binding.inputs[stream.inputs[i].index].nbytes)
    for i in range(stream.n_outputs):
        row_bytes = signature.outputs[stream.outputs[i].index].row_bytes
        total += sizeof(RecordedPart) + MAX_RANK * 8 + padded(rows * (row_bytes if row_bytes else <uint64_t>VARIABLE_ALLOWANCE))
    return total


cdef int record_reserve(IoThread* io, Request* request) noexcept nogil:
    cdef RecordStream* stream
    cdef uint64_t promised
    if request.record == NULL:
        return 0
    stream = stream_of(request)
    if stream.policy != RECORD_FAIL_CLOSED:
        return 0
    promised = promised_bytes(request)
    if ring_reserve(io.ring, promised):
        request.record.promised = promised
        return 0
    request.record = NULL
    counter_add(&stream.stats[io.index].refused, 1)
    if not ring_takes(io.ring, promised):
        return fail(&request.failure, TOO_LARGE, "the record of this request would take %llu bytes, more than the recorder's ring takes, "
                    "and this model answers nothing that is not recorded", <unsigned long long>promised)
    return fail(&request.failure, UNAVAILABLE, b"the recorder has no room, and this model answers nothing that is not recorded; try again")


# --- the answer ---------------------------------------------------------------------------------------------------------

cdef void record_outputs(Request* request, Runner* runner, int64_t first) noexcept nogil:
    cdef const RecordStream* stream = stream_of(request)
    cdef RecordNote* note = request.record
    cdef int64_t[MAX_RANK] shape
    cdef Tensor* kept
    cdef Tensor view
    cdef Slice data
    cdef Failure failure
    cdef int i
    note.outputs = NULL
    if stream == NULL or stream.n_outputs == 0:
        return
    kept = <Tensor*>arena_alloc(&request.arena, stream.n_outputs * sizeof(Tensor))
    if kept == NULL:
        return
    for i in range(stream.n_outputs):
        if runner_slice(runner, stream.outputs[i].index, first, request.binding.rows, shape, &view, &failure):
            return
        kept[i] = view
        kept[i].data = NULL
        if is_too_large(&stream.outputs[i], &view, request.binding.rows):
            continue
        kept[i].shape = NULL
        if stream.outputs[i].has_dynamic_shape:
            kept[i].shape = <int64_t*>arena_copy(&request.arena, shape, <size_t>view.rank * sizeof(int64_t)).data
            if kept[i].shape == NULL:
                continue
        data = arena_copy(&request.arena, view.data, view.nbytes)
        kept[i].data = data.data
    note.outputs = kept


cdef inline bint is_too_large(const KeptTensor* kept, const Tensor* tensor, int64_t rows) noexcept nogil:
    return kept.max_row_bytes != 0 and tensor.nbytes > kept.max_row_bytes * <size_t>rows


# --- out ----------------------------------------------------------------------------------------------------------------

cdef inline size_t part_bytes(const KeptTensor* kept, const Tensor* tensor, bint is_kept, bint batched) noexcept nogil:
    cdef size_t dims = <size_t>(tensor.rank - (1 if batched else 0)) if kept.has_dynamic_shape else 0
    return sizeof(RecordedPart) + (dims * 8 + padded(tensor.nbytes) if is_kept else 0)


cdef inline void clear_padding(uint8_t* at, size_t n) noexcept nogil:
    """Of n bytes that are to be written here: a ring's old bytes are those of other requests, and records go to the disk as they are."""
    if n & 7:
        memset(at + (n & ~<size_t>7), 0, 8)


cdef uint8_t* put_part(uint8_t* at, const KeptTensor* kept, const Tensor* tensor, bint is_kept, bint batched) noexcept nogil:
    cdef RecordedPart* part = <RecordedPart*>at
    cdef int skipped = 1 if batched else 0
    at += sizeof(RecordedPart)
    part.nbytes, part.is_left_out, part.n_dims = 0, not is_kept, 0
    if not is_kept:
        return at
    part.nbytes = tensor.nbytes
    if kept.has_dynamic_shape:
        part.n_dims = tensor.rank - skipped
        memcpy(at, tensor.shape + skipped, <size_t>part.n_dims * 8)
        at += part.n_dims * 8
    clear_padding(at, tensor.nbytes)
    memcpy(at, tensor.data, tensor.nbytes)
    return at + padded(tensor.nbytes)


cdef inline bint keeps_input(const RecordStream* stream, const Request* request, int i) noexcept nogil:
    return not is_too_large(&stream.inputs[i], request.binding.inputs[stream.inputs[i].index], request.binding.rows)


cdef inline bint keeps_output(const RecordNote* note, int i) noexcept nogil:
    return note.outputs != NULL and note.outputs[i].data != NULL


cdef size_t tensors_bytes(const RecordStream* stream, const Request* request, bint batched, int* left_out) noexcept nogil:
    cdef const RecordNote* note = request.record
    cdef size_t total = 0
    cdef bint is_kept
    cdef int i
    left_out[0] = 0
    for i in range(stream.n_inputs):
        is_kept = keeps_input(stream, request, i)
        left_out[0] += not is_kept
        total += part_bytes(&stream.inputs[i], request.binding.inputs[stream.inputs[i].index], is_kept, batched)
    for i in range(stream.n_outputs):
        is_kept = keeps_output(note, i)
        left_out[0] += not is_kept
        total += part_bytes(&stream.outputs[i], &note.outputs[i], True, batched) if is_kept else sizeof(RecordedPart)
    return total


cdef void put_tensors(uint8_t* at, const RecordStream* stream, const Request* request, bint batched) noexcept nogil:
    cdef const RecordNote* note = request.record
    cdef Tensor nothing
    cdef int i
    memset(&nothing, 0, sizeof(nothing))
    for i in range(stream.n_inputs):
        at = put_part(at, &stream.inputs[i], request.binding.inputs[stream.inputs[i].index], keeps_input(stream, request, i), batched)
    for i in range(stream.n_outputs):
        if keeps_output(note, i):
            at = put_part(at, &stream.outputs[i], &note.outputs[i], True, batched)
        else:
            at = put_part(at, &stream.outputs[i], &nothing, False, batched)


cdef inline uint32_t microseconds(uint64_t later, uint64_t earlier) noexcept nogil:
    return <uint32_t>min(since(later, earlier) // 1000, <uint64_t>0x7FFFFFFF)


cdef Slice variant_of(const Request* request) noexcept nogil:
    cdef const Plan* plan = request.routed.plan
    if is_shadow(request):
        return slice_make(b"shadow", 6)
    return plan.arms[request.routed.arm].name if plan != NULL else request.version.number


cdef void fill_header(RecordHeader* header, const IoThread* io, const Request* request, uint64_t now) noexcept nogil:
    """But for length, seq and rows."""
    cdef const RecordNote* note = request.record
    cdef const Plan* plan = request.routed.plan
    cdef bint has_run = request.t_started != 0 and request.batch_id != 0
    memset(header, 0, sizeof(RecordHeader))
    header.stream = stream_of(request).id
    header.ts_ns = <int64_t>(request.t_received + io.hooks.wall_offset)
    if plan != NULL:
        header.generation = plan.generation
    if request.routed.is_keyed:
        header.unit, header.flags = request.routed.unit, RECORD_HAS_UNIT
    if has_run:
        header.batch_id = request.batch_id
        header.queue_us = microseconds(request.t_started, request.t_queued)
        header.compute_us = microseconds(request.t_ran, request.t_gathered)
    header.total_us = microseconds(now, request.t_queued if is_shadow(request) else request.t_received)
    header.status, header.error = <int>HTTP_STATUS[request.failure.kind], request.failure.kind
    header.protocol = <uint8_t>request.protocol
    header.id_length, header.trace_length = <uint16_t>note.id.length, <uint16_t>note.trace.length
    header.tags_length = <uint16_t>note.tags.length


cdef inline uint8_t* put_text(uint8_t* at, Slice text) noexcept nogil:
    if text.length:
        memcpy(at, text.data, text.length)
    return at + text.length


cdef void write_record(IoThread* io, uint8_t* at, uint64_t length, int32_t rows, uint64_t seq, const Request* request,
                       uint64_t now) noexcept nogil:
    cdef RecordHeader* header = <RecordHeader*>at
    cdef const RecordNote* note = request.record
    cdef Slice variant = variant_of(request)
    cdef uint8_t* text = at + sizeof(RecordHeader)
    variant.length = min(variant.length, <size_t>MAX_RECORDED_TEXT)
    cdef size_t n_texts = note.id.length + variant.length + note.trace.length + note.tags.length
    fill_header(header, io, request, now)
    header.length, header.seq, header.rows = <uint32_t>length, seq, rows
    header.variant_length = <uint16_t>variant.length
    clear_padding(text, n_texts)
    put_text(put_text(put_text(put_text(text, note.id), variant), note.trace), note.tags)
    text += padded(n_texts)
    if rows:
        put_tensors(text, stream_of(request), request, request.version.signature.max_batch > 0)


cdef void drop(IoThread* io, RecordStream* stream, int reason, uint64_t rows) noexcept nogil:
    counter_add(&stream.stats[io.index].dropped[reason], rows)
    take_numbers(&io.shared.record_page[PAGE_DROPPED + reason], rows)


cdef bint record_done(IoThread* io, Request* request, uint64_t now) noexcept nogil:
    cdef RecordStream* stream = stream_of(request)
    cdef RecordNote* note = request.record
    cdef bint batched
    cdef int32_t rows
    cdef uint64_t length, counted, seq, tensors
    cdef uint8_t* at
    cdef int left_out = 0
    if stream == NULL or io.ring == NULL:               # a shadow's version may record nothing
        return True
    batched = request.version.signature.max_batch > 0
    rows = <int32_t>request.binding.rows if request.failure.kind == OK else 0
    counted = <uint64_t>max(rows, 1)
    length = sizeof(RecordHeader) + padded(note.id.length + min(variant_of(request).length, <size_t>MAX_RECORDED_TEXT)
                                           + note.trace.length + note.tags.length)
    if rows:
        tensors = tensors_bytes(stream, request, batched, &left_out)
        if note.promised and length + tensors > note.promised:          # outputs over their allowance
            note.outputs = NULL
            tensors = tensors_bytes(stream, request, batched, &left_out)
        length += tensors
    at = ring_room(io.ring, length, note.promised != 0)
    if at == NULL and stream.policy == RECORD_BLOCK and ring_takes(io.ring, length) and not note.gave_up:
        return False
    if note.promised:
        ring_unreserve(io.ring, note.promised)
        note.promised = 0
    seq = take_numbers(&io.shared.record_page[PAGE_ASSIGNED], counted)
    counter_add(&stream.stats[io.index].sampled, counted)
    if at == NULL:
        drop(io, stream, DROPPED_TOO_LARGE if not ring_takes(io.ring, length) else
             DROPPED_BLOCKED if note.gave_up and stream.policy == RECORD_BLOCK else DROPPED_RING_FULL, counted)
        return True
    write_record(io, at, length, rows, seq, request, now)
    ring_publish(io.ring, length)
    counter_add(&stream.stats[io.index].written, counted)
    counter_add(&stream.stats[io.index].left_out, <uint64_t>left_out)
    return True


# --- answers that wait for room -----------------------------------------------------------------------------------------

cdef bint record_park(IoThread* io, Request* request, uint64_t now) noexcept nogil:
    if io.n_parked >= MAX_PARKED:
        request.record.gave_up = True
        record_done(io, request, now)
        return False
    request.record.t_parked = now
    request.next = NULL
    io.parked_tail[0] = request
    io.parked_tail = &request.next
    io.n_parked += 1
    return True


cdef Request* record_unpark(IoThread* io, uint64_t now, bint is_last) noexcept nogil:
    """In the order in which they came: nobody overtakes who waits longer, but for those whose own time is over."""
    cdef Request** link = &io.parked
    cdef Request* request
    while link[0] != NULL:
        request = link[0]
        request.record.gave_up = is_last or now >= request.record.t_parked + stream_of(request).block_ns
        if (link == &io.parked or request.record.gave_up) and record_done(io, request, now):
            link[0] = request.next
            if link[0] == NULL:
                io.parked_tail = link
            io.n_parked -= 1
            request.next = NULL
            return request
        link = &request.next
    return NULL
