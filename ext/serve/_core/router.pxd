"""Where a request goes, and what becomes of it, counted by arm."""
from libc.stdint cimport uint64_t

from serve._core.call cimport Field, Request
from serve._core.memory cimport Slice
from serve._core.model_table cimport ModelEntry
from serve._core.routing cimport Plan, Source

# Which version an inference goes to, once its model is known: an explicit version or label, else an override, else the draw. Sets
# request.version and request.routed, and counts the assignment. request.infer holds the parameters; fields: the call's headers.
# random: the thread's generator, for requests without a key. 0, or -1 with request.failure set.
cdef int route_request(Request* request, const ModelEntry* entry, Slice number, const Field* fields, uint64_t* random,
                       int thread) noexcept nogil
# The request is back: its arm's success, error or refusal, and what the judge counts. On its I/O thread, once; without a plan, nothing.
# outcome: routing.RoutedOutcome. total_ns: first byte to now, for successes.
cdef void count_routed(Request* request, int outcome, uint64_t total_ns, int thread) noexcept nogil
# What a request carries there, of its parameters or of `fields`; False: nothing.
cdef bint find_value(const Source* source, const Request* request, const Field* fields, Slice* value) noexcept nogil
# Position of a unit in [0, 2^53) under a seed.
cdef uint64_t unit_position(uint64_t seed, Slice key) noexcept nogil
# routed.unit of a sticky key, whatever the plan: units are remembered across generations.
cdef uint64_t unit_of(Slice key) noexcept nogil
# Position of a unit in the draw of shadows: sampled when below ShadowTarget.below.
cdef uint64_t shadow_position(const Plan* plan, uint64_t unit) noexcept nogil
# The arm of a unit that is in the segment and that nothing else decides: outside, holdout or a variant.
cdef int drawn_arm(const Plan* plan, Slice key) noexcept nogil
# Which of the plan's variants a unit is drawn to: two by u < w, more by weighted rendezvous. key: the bytes that are hashed.
cdef int draw_variant(const Plan* plan, Slice key) noexcept nogil
