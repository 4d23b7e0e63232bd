"""A model's traffic as I/O threads read it: arms and their shares, overrides, shadows, and the counters of each arm. Declarations only.

A Plan is built by Python (routing_plan.NativePlan), immutable but for its counters, and published inside the model table's snapshot: who
holds the snapshot may use the plan. A request that was routed by a plan counts into that plan, whatever has been published since.
"""
from libc.stdint cimport int64_t, uint64_t
from libcpp.atomic cimport atomic

from serve._core.compare cimport Comparison
from serve._core.histogram cimport Histogram
from serve._core.memory cimport Slice
from serve._core.tensors cimport Tensor
from serve._core.units cimport UnitSet
from serve._core.version cimport MAX_IO_THREADS, Version

cdef enum:
    MAX_ARMS = 16                       # variants of a plan
    MAX_BINS = 65536                    # of a judged output
    UNITS = 53                          # bits of a unit's position: u = (hash >> 11) in [0, 2^53)

cdef enum SpecialArm:
    # Behind the variants in Plan.arms, at n_variants + SpecialArm. None of them is judged.
    ARM_EXPLICIT = 0                    # the request named a version or label
    ARM_FORCED = 1                      # an override matched
    ARM_OUTSIDE = 2                     # not in the segment, or not in the covered share
    ARM_HOLDOUT = 3                     # kept on stable
    N_SPECIAL_ARMS = 4

cdef enum OutputKind:
    # Of the judged output: the first row of an answer becomes a bin. serve.traffic.JudgedOutput says how.
    OUTPUT_NONE = 0
    OUTPUT_CLASS = 1
    OUTPUT_INTEGER = 2
    OUTPUT_FLOAT = 3
    OUTPUT_TEXT = 4

cdef struct Source:
    # Where a request carries a value.
    bint is_parameter                   # else a header, its name in lower case
    Slice name                          # owned by the NativePlan

cdef struct Override:
    Source source
    Slice value
    Version* version

cdef struct ArmStats:
    # One per arm and I/O thread, allocated at its first use; that thread alone writes.
    uint64_t assigned
    uint64_t keyed                      # of them, by their sticky key
    uint64_t success
    uint64_t errors                     # failed runs, runs that ended after the deadline, answers that are not finite
    uint64_t refused                    # queue full, deadline in the queue, client gone
    uint64_t judged                     # completed (success or error) after the warm-up
    uint64_t judged_errors              # of them errors; with a sticky key, each unit's first
    Histogram total                     # successes: first byte of the call to the answer handed to the socket
    uint64_t* outputs                   # [Plan.n_bins] judged answers by bin; NULL: no output is judged
    uint64_t touched[16]                # a bit for each 64 bins that are not all 0, so that a reading skips the others

cdef struct Arm:
    Slice name                          # variants: as the plan says; else the special arm's
    Version* version                    # variants; ARM_OUTSIDE and ARM_HOLDOUT: of stable; else NULL: the request says
    uint64_t weight                     # basis points
    uint64_t seed                       # of weighted rendezvous: XXH3-64 of the version's number, seeded with Plan.variant_seed
    ArmStats* stats[MAX_IO_THREADS]

cdef struct ShadowStats:
    # One per shadow and I/O thread; that thread alone writes.
    uint64_t sampled
    uint64_t compared
    uint64_t disagreed                  # sum over compared pairs of the share of rows that disagree, in millionths
    uint64_t failed                     # the shadow failed where the primary answered; also compared, all of its rows disagreeing
    uint64_t dropped_capacity
    uint64_t dropped_late
    uint64_t dropped_primary
    uint64_t dropped_gone

cdef struct ShadowTarget:
    Version* version
    uint64_t below                      # of 2^53: sampled when the draw is below
    Comparison* comparison              # what is held against what, by the primary's output; owned by the NativePlan
    ShadowStats* stats[MAX_IO_THREADS]

cdef struct Plan:
    uint64_t generation
    Slice generation_text
    # XXH3-64 of the salt under a seed of each purpose, so that no two draws of a unit depend on each other.
    uint64_t gate_seed
    uint64_t variant_seed
    uint64_t holdout_seed
    uint64_t shadow_seed
    bint is_sticky
    Source sticky
    bint has_segment
    Source segment
    int n_values
    Slice* values                       # of the segment
    uint64_t covered_below              # of 2^53
    uint64_t held_out_below             # of 2^53
    int n_variants
    Arm* arms                           # [n_variants + N_SPECIAL_ARMS], variants ascending by version number
    uint64_t second_below               # two variants: a unit with u < second_below goes to arms[1]. 2^53: always; 0: never
    int stable                          # arm of what is not drawn
    int n_overrides
    Override* overrides
    int n_shadows
    ShadowTarget* shadows
    # What is counted for a judge; candidate -1: nothing.
    int candidate
    int control                         # the arm that the candidate is held against; -1: nothing is counted
    int judged_output                   # index in the signature of both arms' versions; -1: none
    int output_kind                     # OutputKind
    int n_bins
    bint check_finite
    UnitSet* failing                    # units with an error that counted; NULL: every request is a unit of its own
    UnitSet* seen                       # units with an answer that counted in outputs; NULL likewise. Both outlive the plan
    atomic[int64_t] warmup_left         # answers of the candidate until judged counting begins; <= 0: it has begun
    atomic[uint64_t] streak             # counted failures of the candidate since its last success
    atomic[uint64_t] longest_streak
    bint counts_all                     # every variant is counted as judged, and none is the candidate: an experiment
    int wake_fd                         # eventfd of whoever judges, told of the candidate's errors; -1: nobody. Outlives the plan
    atomic[int] is_told                 # since the last reading

cdef struct Routed:
    # The decision on one request; in the Request. Zeroed = no plan.
    Plan* plan                          # NULL: none was in force; valid while the request holds its pins
    int arm                             # index in plan.arms
    bint is_keyed
    uint64_t unit                       # the unit's hash: of its key, else random
    int bin                             # of the judged output; -1: none. Set when the answer is encoded
    bint is_not_finite                  # set when the answer is encoded

cdef enum RoutedOutcome:
    ROUTED_SUCCESS = 0                  # may still count as an error: routed.is_not_finite
    ROUTED_ERROR = 1
    ROUTED_REFUSED = 2

cdef struct ShadowCopy:
    # In the request's arena; Request.shadow. From the sampling decision to the comparison.
    ShadowTarget* target
    Tensor* primary                     # what the primary answered, from compare.keep_outputs; NULL until it has run, or memory is out
    bint is_shadow                      # the primary is answered: the request is the shadow's now
    uint64_t disagreed                  # millionths; set by whoever ran the shadow
    uint64_t t_waiting                  # since when it waits
