from libc.math cimport isinf, isnan
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from serve._core.failure cimport INVALID_ARGUMENT, OK, fail
from serve._core.hash cimport hash64
from serve._core.memory cimport Arena, arena_alloc, arena_copy, arena_free, slice_equal, slice_make
from serve._core.posix cimport now_ns
from serve._core.protobuf cimport is_utf8
from serve._core.tensors cimport *

cdef extern from "guard_values.hpp" namespace "headrace" nogil:
    int64_t first_outside "headrace::guard_first_outside"(int datatype, const uint8_t* data, int64_t rows, int64_t width, const void* low,
                                                          const void* high, const uint8_t* may_miss, int64_t n_limits)
    int64_t integer_at "headrace::guard_integer"(int datatype, const uint8_t* data, int64_t at)
    double double_at "headrace::guard_double"(int datatype, const uint8_t* data, int64_t at)

cdef enum:
    NUMBER_TEXT = 40                # any number, with its NUL
    PLACE_TEXT = 64                 # "row <number>, element <number>"
    FIBONACCI_SHIFT = 32


# --- what a failure says ------------------------------------------------------------------------------------------------

cdef void format_double(double value, int digits, char* text) noexcept nogil:
    if isnan(value):
        snprintf(text, NUMBER_TEXT, b"%s", <const char*>b"NaN")
    elif isinf(value):
        snprintf(text, NUMBER_TEXT, b"%sInfinity", <const char*>b"" if value > 0 else <const char*>b"-")
    else:
        snprintf(text, NUMBER_TEXT, b"%.*g", digits, value)


cdef void format_value(int datatype, const uint8_t* data, int64_t at, char* text) noexcept nogil:
    """`text` has room for NUMBER_TEXT."""
    if datatype == DT_FP64:
        format_double(double_at(datatype, data, at), 15, text)
    elif datatype in (DT_FP32, DT_FP16, DT_BF16):
        format_double(double_at(datatype, data, at), 7, text)
    elif datatype == DT_UINT64:
        snprintf(text, NUMBER_TEXT, b"%llu", <unsigned long long>integer_at(datatype, data, at))
    else:
        snprintf(text, NUMBER_TEXT, b"%lld", <long long>integer_at(datatype, data, at))


cdef void format_place(const Signature* signature, int64_t row, int64_t element, char* text) noexcept nogil:
    """`text` has room for PLACE_TEXT."""
    if signature.max_batch > 0:
        snprintf(text, PLACE_TEXT, b"row %lld, element %lld", <long long>row, <long long>element)
    else:
        snprintf(text, PLACE_TEXT, b"element %lld", <long long>element)


cdef int out_of_range(const GuardRule* rule, const Signature* signature, const Tensor* tensor, int64_t at, int64_t width,
                      const char* model, Failure* failure) noexcept nogil:
    cdef const TensorSpec* spec = &signature.inputs[rule.index]
    cdef int64_t limit = at % width if rule.n_limits > 1 else 0
    # Limits of 16-bit floats are floats.
    cdef int limit_type = DT_FP32 if spec.datatype in (DT_FP16, DT_BF16) else spec.datatype
    cdef char[NUMBER_TEXT] value
    cdef char[NUMBER_TEXT] low
    cdef char[NUMBER_TEXT] high
    cdef char[PLACE_TEXT] place
    format_value(spec.datatype, tensor.data, at, value)
    format_value(limit_type, <const uint8_t*>rule.low, limit, low)
    format_value(limit_type, <const uint8_t*>rule.high, limit, high)
    format_place(signature, at // width, at % width, place)
    return fail(failure, INVALID_ARGUMENT, "input '%.*s' for model '%s': %s is %s; allowed is %s to %s, the range of its baseline",
                shown(spec.name), <const char*>spec.name.data, model, <char*>place, <char*>value, <char*>low, <char*>high)


cdef bint is_printable(Slice text) noexcept nogil:
    cdef size_t i
    for i in range(text.length):
        if text.data[i] < 32 or text.data[i] == 127:
            return False
    return is_utf8(text)


cdef int unknown_category(const GuardRule* rule, const Signature* signature, const CategorySet* allowed, Slice text, const char* number,
                          int64_t at, int64_t width, const char* model, Failure* failure) noexcept nogil:
    """text: the element of BYTES; number: of another datatype, "" for BYTES."""
    cdef const TensorSpec* spec = &signature.inputs[rule.index]
    cdef char[PLACE_TEXT] place
    cdef const char* name = <const char*>spec.name.data
    cdef const char* categories = <const char*>allowed.shown.data
    format_place(signature, at // width, at % width, place)
    if number[0]:
        return fail(failure, INVALID_ARGUMENT, "input '%.*s' for model '%s': %s is %s; allowed are the categories of its baseline: %s",
                    shown(spec.name), name, model, <char*>place, number, categories)
    if is_printable(text):
        return fail(failure, INVALID_ARGUMENT, "input '%.*s' for model '%s': %s is '%.*s'; allowed are the categories of its baseline: %s",
                    shown(spec.name), name, model, <char*>place, shown(text), <const char*>text.data, categories)
    return fail(failure, INVALID_ARGUMENT, "input '%.*s' for model '%s': %s is %zu bytes of no text; allowed are the categories of its "
                "baseline: %s", shown(spec.name), name, model, <char*>place, text.length, categories)


# --- the check ----------------------------------------------------------------------------------------------------------

cdef inline uint64_t hash_of(Slice text, int64_t number, bint is_text) noexcept nogil:
    cdef uint64_t product
    if is_text:
        return hash64(text, 0)
    product = <uint64_t>number * <uint64_t>0x9E3779B97F4A7C15
    return product ^ (product >> FIBONACCI_SHIFT)


cdef inline bint is_known(const CategorySet* allowed, Slice text, int64_t number, bint is_text) noexcept nogil:
    cdef uint64_t key, at
    if allowed.slots == NULL:
        return True
    key = hash_of(text, number, is_text)
    at = key & allowed.mask
    while allowed.slots[at].is_taken:
        if allowed.slots[at].hash == key and (slice_equal(allowed.slots[at].text, text) if is_text else allowed.slots[at].number == number):
            return True
        at = (at + 1) & allowed.mask
    return False


cdef int check_texts(const GuardRule* rule, const Signature* signature, const Tensor* tensor, int64_t n, int64_t width, const char* model,
                     Failure* failure) noexcept nogil:
    """Elements behind their lengths, which the binding has checked."""
    cdef const CategorySet* allowed
    cdef uint32_t length
    cdef size_t cursor = 0
    cdef Slice text
    cdef int64_t at
    for at in range(n):
        memcpy(&length, tensor.data + cursor, 4)
        text = slice_make(tensor.data + cursor + 4, length)
        allowed = &rule.sets[at % width if rule.n_limits > 1 else 0]
        if not is_known(allowed, text, 0, True):
            return unknown_category(rule, signature, allowed, text, b"", at, width, model, failure)
        cursor += 4 + length
    return 0


cdef int check_integers(const GuardRule* rule, const Signature* signature, const Tensor* tensor, int64_t n, int64_t width,
                        const char* model, Failure* failure) noexcept nogil:
    cdef const CategorySet* allowed
    cdef char[NUMBER_TEXT] text
    cdef int64_t at
    for at in range(n):
        allowed = &rule.sets[at % width if rule.n_limits > 1 else 0]
        if not is_known(allowed, slice_make(NULL, 0), integer_at(tensor.datatype, tensor.data, at), False):
            format_value(tensor.datatype, tensor.data, at, text)
            return unknown_category(rule, signature, allowed, slice_make(NULL, 0), text, at, width, model, failure)
    return 0


cdef int check_rule(const GuardRule* rule, const Signature* signature, const Binding* binding, const char* model,
                    Failure* failure) noexcept nogil:
    cdef const Tensor* tensor = binding.inputs[rule.index]
    cdef int64_t rows = binding.rows if signature.max_batch > 0 else 1
    cdef uint64_t total
    cdef int64_t width, at
    if element_count(tensor.shape, tensor.rank, &total) or total == 0:
        return 0
    width = <int64_t>total // rows
    if rule.low != NULL:
        at = first_outside(tensor.datatype, tensor.data, rows, width, rule.low, rule.high, rule.may_miss, rule.n_limits)
        if at >= 0:
            return out_of_range(rule, signature, tensor, at, width, model, failure)
    if rule.sets == NULL:
        return 0
    if tensor.datatype == DT_BYTES:
        return check_texts(rule, signature, tensor, <int64_t>total, width, model, failure)
    return check_integers(rule, signature, tensor, <int64_t>total, width, model, failure)


cdef int guard_check(const Guard* guard, const Signature* signature, const Binding* binding, const char* model,
                     Failure* failure) noexcept nogil:
    cdef int i
    for i in range(guard.n_rules):
        if check_rule(&guard.rules[i], signature, binding, model, failure):
            return -1
    return 0


# --- making one ---------------------------------------------------------------------------------------------------------

cdef class NativeGuard:
    """inputs: the version's, a tuple of serve.types.TensorSpec. limits: input name -> serve.models.guard_limits.PackedLimits.

    Raises KeyError for an input that there is not, MemoryError. What fits which datatype is for whoever packs the limits to see to.
    """

    def __cinit__(self, tuple inputs not None, dict limits not None):
        cdef GuardRule* rule
        self.inputs = inputs
        self.kept = []
        self.guard.rules = <GuardRule*>calloc(max(1, len(limits)), sizeof(GuardRule))
        if self.guard.rules == NULL:
            raise MemoryError
        places = {spec.name: place for place, spec in enumerate(inputs)}
        for name, packed in limits.items():
            rule = &self.guard.rules[self.guard.n_rules]
            rule.index, rule.n_limits = places[name], packed.n_limits
            self.guard.n_rules += 1
            self.add_range(rule, packed)
            self.add_categories(rule, packed, inputs[places[name]].datatype == "BYTES")

    cdef int add_range(self, GuardRule* rule, object limits) except -1:
        cdef bytes low = limits.low, high = limits.high, may_miss = limits.may_miss
        if not low:
            return 0
        self.kept += [low, high, may_miss]
        rule.low, rule.high, rule.may_miss = <const char*>low, <const char*>high, <const uint8_t*><const char*>may_miss
        return 0

    cdef int add_categories(self, GuardRule* rule, object limits, bint is_text) except -1:
        cdef CategorySet* one
        cdef Category category
        cdef uint64_t at
        cdef int i
        if not limits.categories:
            return 0
        rule.sets = <CategorySet*>calloc(rule.n_limits, sizeof(CategorySet))
        if rule.sets == NULL:
            raise MemoryError
        for i, (categories, text) in enumerate(zip(limits.categories, limits.shown)):
            if categories is None:
                continue
            one = &rule.sets[i]
            one.mask = (1 << (2 * len(categories)).bit_length()) - 1
            one.slots = <Category*>calloc(one.mask + 1, sizeof(Category))
            if one.slots == NULL:
                raise MemoryError
            self.kept.append(text)
            one.shown = slice_make(<const char*><bytes>text, len(text))
            for value in categories:
                memset(&category, 0, sizeof(Category))
                category.is_taken = True
                if is_text:
                    self.kept.append(value)
                    category.text = slice_make(<const char*><bytes>value, len(value))
                else:
                    category.number = <int64_t><uint64_t>(value & 0xFFFFFFFFFFFFFFFF)
                category.hash = hash_of(category.text, category.number, is_text)
                at = category.hash & one.mask
                while one.slots[at].is_taken:
                    at = (at + 1) & one.mask
                one.slots[at] = category
        return 0

    def __dealloc__(self):
        cdef int i
        cdef int64_t j
        for i in range(self.guard.n_rules):
            if self.guard.rules[i].sets != NULL:
                for j in range(self.guard.rules[i].n_limits):
                    free(self.guard.rules[i].sets[j].slots)
            free(self.guard.rules[i].sets)
        free(self.guard.rules)

    def check(self, int64_t max_batch_size, list given not None, *, str model="m", int repeat=1):
        """What a request that holds these inputs is refused with, "" when it is not, and the nanoseconds of a check.

        given: (shape, bytes) of each input, in the model's order, valid for it. max_batch_size: rows, 0 when not batched.
        """
        cdef Arena arena
        cdef Signature signature
        cdef Binding binding
        cdef Failure failure
        cdef uint64_t begun
        cdef int n = repeat
        cdef bytes name = model.encode()
        cdef const char* shown_name = name
        memset(&arena, 0, sizeof(Arena))
        memset(&failure, 0, sizeof(Failure))
        try:
            signature.n_inputs, signature.max_batch = len(self.inputs), max_batch_size
            signature.inputs = specs_of(&arena, self.inputs)
            binding.inputs = tensors_of(&arena, self.inputs, given)
            binding.rows = given[0][0][0] if max_batch_size else 1
            with nogil:
                begun = now_ns()
                while n > 0:
                    n -= 1
                    guard_check(&self.guard, &signature, &binding, shown_name, &failure)
                begun = now_ns() - begun
            return failure.text.decode() if failure.kind != OK else "", <double>begun / repeat
        finally:
            arena_free(&arena)


cdef TensorSpec* specs_of(Arena* arena, tuple inputs) except NULL:
    cdef TensorSpec* specs = <TensorSpec*>arena_alloc(arena, (len(inputs) + 1) * sizeof(TensorSpec))
    cdef bytes name
    if specs == NULL:
        raise MemoryError
    for i, spec in enumerate(inputs):
        name = spec.name.encode()
        specs[i].name = arena_copy(arena, <const char*>name, len(name))
        specs[i].datatype = datatype_of(spec.datatype.encode())
        specs[i].rank = len(spec.shape)
    return specs


cdef int datatype_of(bytes name) except -1:
    return datatype_from_name(slice_make(<const char*>name, len(name)))


cdef Tensor** tensors_of(Arena* arena, tuple inputs, list given) except NULL:
    """Data that begins at an odd address, as it may in a body."""
    cdef Tensor* tensors = <Tensor*>arena_alloc(arena, (len(inputs) + 1) * sizeof(Tensor))
    cdef Tensor** pointers = <Tensor**>arena_alloc(arena, (len(inputs) + 1) * sizeof(void*))
    cdef uint8_t* copy
    cdef bytes content
    if tensors == NULL or pointers == NULL:
        raise MemoryError
    for i, (spec, (shape, data)) in enumerate(zip(inputs, given)):
        content = data
        copy = <uint8_t*>arena_alloc(arena, len(content) + 1)
        tensors[i].shape = <int64_t*>arena_alloc(arena, (len(shape) + 1) * sizeof(int64_t))
        if copy == NULL or tensors[i].shape == NULL:
            raise MemoryError
        memcpy(copy + 1, <const char*>content, len(content))
        tensors[i].data, tensors[i].nbytes = copy + 1, len(content)
        tensors[i].datatype, tensors[i].rank = datatype_of(spec.datatype.encode()), len(shape)
        for d, size in enumerate(shape):
            tensors[i].shape[d] = size
        pointers[i] = &tensors[i]
    return pointers
