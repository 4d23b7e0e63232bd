"""Decisions are pure functions of (salt, weights, key): no state, no lock, so that a restart or another worker decides alike.

u < w over two arms moves exactly the units of the change of weight. Over more arms it is weighted rendezvous: the arm with the least
-ln(u_i) / w_i (Schindelhauer and Schomaker, Weighted Distributed Hash Tables, SPAA 2005, section 3, logarithmic method), in which an arm
whose weight alone changes wins or loses units only itself. Any change of total variation d moves at most 2d / (1 + d) of the units
(Moulton and Jiang, Maximally Consistent Sampling and the Jaccard Index of Probability Distributions, 2018); without memory there is no less
for every change.
"""
from libc.math cimport log
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from libcpp.atomic cimport memory_order_relaxed, memory_order_seq_cst

from serve._core.counters cimport counter_add, counter_read, counter_set
from serve._core.hash cimport hash64
from serve._core.histogram cimport histogram_add
from serve._core.ids cimport random_next
from serve._core.memory cimport slice_equal, slice_make
from serve._core.model_table cimport entry_version
from serve._core.posix cimport publish_pointer, wake
from serve._core.routing cimport *
from serve._core.tensors cimport NamedParameter
from serve._core.units cimport units_add

cdef enum:
    UNIT_SEED = 0                   # of routed.unit: the same under every salt


# --- draws --------------------------------------------------------------------------------------------------------------

cdef uint64_t unit_position(uint64_t seed, Slice key) noexcept nogil:
    return hash64(key, seed) >> (64 - UNITS)


cdef uint64_t unit_of(Slice key) noexcept nogil:
    return hash64(key, UNIT_SEED)


cdef uint64_t shadow_position(const Plan* plan, uint64_t unit) noexcept nogil:
    return unit_position(plan.shadow_seed, slice_make(&unit, sizeof(unit)))


cdef int draw_variant(const Plan* plan, Slice key) noexcept nogil:
    cdef double best = 0
    cdef double score
    cdef int winner = -1
    cdef int i
    if plan.n_variants == 1:
        return 0
    if plan.n_variants == 2:
        return 1 if unit_position(plan.variant_seed, key) < plan.second_below else 0
    for i in range(plan.n_variants):
        if plan.arms[i].weight == 0:
            continue
        # (position + 1) / 2^53 lies in (0, 1]: the logarithm is finite.
        score = -log(<double>(unit_position(plan.arms[i].seed, key) + 1) / <double>(<uint64_t>1 << UNITS)) / <double>plan.arms[i].weight
        if winner < 0 or score < best:
            winner, best = i, score
    return winner


# --- where a request goes -----------------------------------------------------------------------------------------------

cdef bint find_value(const Source* source, const Request* request, const Field* fields, Slice* value) noexcept nogil:
    """Of a header that is sent several times the first one counts, of a parameter the last, as in a protobuf map."""
    cdef const NamedParameter* parameter = request.infer.parameters
    cdef bint found = False
    if not source.is_parameter:
        while fields != NULL:                           # newest first
            if slice_equal(fields.name, source.name):
                value[0] = fields.value
                found = True
            fields = fields.next
        return found
    while parameter != NULL:
        if slice_equal(parameter.name, source.name):
            value[0] = parameter.text
            return True
        parameter = parameter.next
    return False


cdef const Override* matching_override(const Plan* plan, const Request* request, const Field* fields) noexcept nogil:
    cdef Slice value
    cdef int i
    for i in range(plan.n_overrides):
        if find_value(&plan.overrides[i].source, request, fields, &value) and slice_equal(plan.overrides[i].value, value):
            return &plan.overrides[i]
    return NULL


cdef bint in_segment(const Plan* plan, const Request* request, const Field* fields) noexcept nogil:
    cdef Slice value
    cdef int i
    if not plan.has_segment:
        return True
    if find_value(&plan.segment, request, fields, &value):
        for i in range(plan.n_values):
            if slice_equal(plan.values[i], value):
                return True
    return False


cdef int drawn_arm(const Plan* plan, Slice key) noexcept nogil:
    """The draw of a unit that is in the segment: gate, holdout and variant, each under a seed of its own."""
    cdef uint64_t whole = <uint64_t>1 << UNITS
    if plan.covered_below < whole and unit_position(plan.gate_seed, key) >= plan.covered_below:
        return plan.n_variants + ARM_OUTSIDE
    if plan.held_out_below and unit_position(plan.holdout_seed, key) < plan.held_out_below:
        return plan.n_variants + ARM_HOLDOUT
    return draw_variant(plan, key)


cdef ArmStats* arm_stats(const Plan* plan, int arm, int thread) noexcept nogil:
    """NULL: memory is out; the request goes uncounted then."""
    cdef Arm* of = &plan.arms[arm]
    cdef ArmStats* stats = of.stats[thread]                  # written by this thread only
    if stats != NULL:
        return stats
    stats = <ArmStats*>calloc(1, sizeof(ArmStats))
    if stats == NULL:
        return NULL
    if plan.n_bins and (arm == plan.candidate or arm == plan.control):
        stats.outputs = <uint64_t*>calloc(plan.n_bins, sizeof(uint64_t))
        if stats.outputs == NULL:
            free(stats)
            return NULL
    publish_pointer(<void**>&of.stats[thread], stats)
    return stats


cdef void choose_unit(Request* request, const Plan* plan, const Field* fields, uint64_t* random, Slice* key) noexcept nogil:
    """Who is drawn: the sticky key's bytes, or without one eight random bytes."""
    cdef Routed* routed = &request.routed
    if plan.is_sticky and find_value(&plan.sticky, request, fields, key) and key.length:
        routed.is_keyed = True
        routed.unit = unit_of(key[0])
        return
    routed.unit = random_next(random)
    key[0] = slice_make(&routed.unit, sizeof(routed.unit))


cdef int route_request(Request* request, const ModelEntry* entry, Slice number, const Field* fields, uint64_t* random,
                       int thread) noexcept nogil:
    cdef Plan* plan = entry.plan
    cdef Routed* routed = &request.routed
    cdef const Override* override
    cdef ArmStats* stats
    cdef Slice key
    routed.bin = -1
    if plan == NULL:
        return entry_version(entry, number, &request.version, &request.failure)
    choose_unit(request, plan, fields, random, &key)
    if number.length:
        if entry_version(entry, number, &request.version, &request.failure):
            return -1
        routed.arm = plan.n_variants + ARM_EXPLICIT
    else:
        override = matching_override(plan, request, fields)
        if override != NULL:
            routed.arm = plan.n_variants + ARM_FORCED
            request.version = override.version
        else:
            routed.arm = drawn_arm(plan, key) if in_segment(plan, request, fields) else plan.n_variants + ARM_OUTSIDE
            request.version = plan.arms[routed.arm].version
    routed.plan = plan
    stats = arm_stats(plan, routed.arm, thread)
    if stats != NULL:
        counter_add(&stats.assigned, 1)
        counter_add(&stats.keyed, routed.is_keyed)
    return 0


# --- what becomes of it -------------------------------------------------------------------------------------------------

cdef bint is_judged(Plan* plan, int arm) noexcept nogil:
    """An answer of the two arms that are held against each other, after the warm-up, which takes the candidate's answers."""
    if plan.counts_all:
        return arm < plan.n_variants
    if plan.candidate < 0 or (arm != plan.candidate and arm != plan.control):
        return False
    if plan.warmup_left.load(memory_order_relaxed) <= 0:
        return True
    if arm == plan.candidate:
        plan.warmup_left.fetch_sub(1, memory_order_relaxed)
    return False


cdef void lengthen_streak(Plan* plan) noexcept nogil:
    cdef uint64_t streak = plan.streak.fetch_add(1, memory_order_relaxed) + 1
    cdef uint64_t longest = plan.longest_streak.load(memory_order_relaxed)
    while streak > longest and not plan.longest_streak.compare_exchange_weak(longest, streak, memory_order_relaxed):
        pass


cdef void tell_judge(Plan* plan) noexcept nogil:
    """Once until it looks: an error costs a system call only when nobody is on the way already."""
    if plan.wake_fd >= 0 and not plan.is_told.exchange(1, memory_order_seq_cst):
        wake(plan.wake_fd)


cdef bint is_first(UnitSet* units, const Routed* routed) noexcept nogil:
    """A unit counts once in a set; a request without a key is a unit of its own."""
    return units == NULL or not routed.is_keyed or units_add(units, routed.unit)


cdef inline void count_output(ArmStats* stats, int bin) noexcept nogil:
    cdef uint64_t* word = &stats.touched[bin >> 12]
    cdef uint64_t bit = <uint64_t>1 << (bin >> 6 & 63)
    counter_add(&stats.outputs[bin], 1)
    if not counter_read(word) & bit:
        counter_set(word, counter_read(word) | bit)


cdef void count_judged(Plan* plan, const Routed* routed, ArmStats* stats, bint is_error) noexcept nogil:
    counter_add(&stats.judged, 1)
    if is_error:
        if is_first(plan.failing, routed):
            counter_add(&stats.judged_errors, 1)
            if routed.arm == plan.candidate:
                lengthen_streak(plan)
                tell_judge(plan)
        return
    if routed.arm == plan.candidate and plan.streak.load(memory_order_relaxed):
        plan.streak.store(0, memory_order_relaxed)
    if 0 <= routed.bin < plan.n_bins and stats.outputs != NULL and is_first(plan.seen, routed):
        count_output(stats, routed.bin)


cdef void count_routed(Request* request, int outcome, uint64_t total_ns, int thread) noexcept nogil:
    cdef Plan* plan = request.routed.plan
    cdef ArmStats* stats
    cdef bint is_error = outcome == ROUTED_ERROR or request.routed.is_not_finite
    if plan == NULL:
        return
    stats = arm_stats(plan, request.routed.arm, thread)
    if stats == NULL:
        return
    if outcome == ROUTED_REFUSED:
        counter_add(&stats.refused, 1)
        return
    if is_error:
        counter_add(&stats.errors, 1)
    else:
        counter_add(&stats.success, 1)
        histogram_add(&stats.total, total_ns, 1)
    if is_judged(plan, request.routed.arm):
        count_judged(plan, &request.routed, stats, is_error)
