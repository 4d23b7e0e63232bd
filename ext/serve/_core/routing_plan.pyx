from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from libcpp.atomic cimport memory_order_relaxed, memory_order_seq_cst

from serve._core.compare cimport comparison_free, comparison_new
from serve._core.counters cimport counter_read
from serve._core.engine cimport NativeVersion
from serve._core.hash cimport hash64
from serve._core.histogram cimport N_BUCKETS, Histogram, histogram_merge
from serve._core.memory cimport Slice, slice_make
from serve._core.posix cimport acquire_pointer
from serve._core.router cimport drawn_arm, shadow_position, unit_of, unit_position
from serve._core.routing cimport *
from serve._core.tensors cimport TensorSpec
from serve._core.units cimport UnitMemory

from serve.traffic import SPECIAL_ARMS, WHOLE_BP, ArmReading, PlanReading, RoutingSpec, ShadowReading

cdef enum Purpose:
    # Seeds under which the salt is hashed: what one of them decides says nothing about another.
    GATE = 1
    VARIANT = 2
    HOLDOUT = 3
    SHADOW = 4

cdef enum:
    TEXT_BINS = 1024

cdef dict OUTPUT_KINDS = {"class": OUTPUT_CLASS, "integer": OUTPUT_INTEGER, "float": OUTPUT_FLOAT, "text": OUTPUT_TEXT}


cdef uint64_t below(share) except? 1:
    """The positions in [0, 2^53) of a share in basis points: none for 0, all for 10,000. In Python's numbers: 64 bits are too few."""
    return (share << <int>UNITS) // WHOLE_BP


cdef int check(spec, dict versions) except -1:
    """What the native code relies on; the rest was checked where the spec was made."""
    names = [arm.name for arm in spec.arms]
    if not 1 <= len(names) <= MAX_ARMS or len(set(names)) != len(names):
        raise ValueError(f"{len(names)} variants, {len(set(names))} names; want 1 to {<int>MAX_ARMS}, each with its own name")
    for name in names:                                      # it goes into headers
        if not name or not name.isascii() or not name.isprintable() or " " in name:
            raise ValueError(f"the name of a variant is {name!r}; want printable ASCII without spaces")
    if sum([arm.weight for arm in spec.arms]) != WHOLE_BP or min([arm.weight for arm in spec.arms]) < 0:
        raise ValueError(f"the weights are {[arm.weight for arm in spec.arms]}; want a sum of {WHOLE_BP} and none below 0")
    if max([spec.coverage_bp, spec.holdout_bp] + [shadow.sample_bp for shadow in spec.shadows]) > WHOLE_BP:
        raise ValueError(f"a share is over {WHOLE_BP} basis points")
    wanted = [spec.stable] + ([spec.counting.stable, spec.counting.candidate] if spec.counting else [])
    for name in wanted:
        if name and name not in names:
            raise ValueError(f"no variant is named {name}; they are {', '.join(names)}")
    for number in sorted(spec.versions()):
        if number not in versions:
            raise ValueError(f"version {number} is not loaded")
    return 0


cdef class NativePlan:
    """The traffic of one model as I/O threads follow it, and its counters.

    spec: serve.traffic.RoutingSpec. versions: {number: NativeVersion}, all that the spec names. units: what the rollout remembers of its
    units, shared by all of its plans; None: every request is a unit of its own. wake_fd: an eventfd that a counted error of the candidate
    writes to, once until the next `read`. It keeps its versions alive. Raises ValueError for a spec
    that does not fit its versions, InvalidArgument for a comparison that does not.
    """

    def __cinit__(self, str model not None, spec not None, dict versions not None, UnitMemory units=None, int wake_fd=-1):
        if not isinstance(spec, RoutingSpec):
            raise TypeError(f"{type(spec).__name__} is no RoutingSpec")
        check(spec, versions)
        self.model, self.spec, self.kept = model, spec, [units]
        self.versions = [versions[number] for number in sorted(spec.versions(), key=int)]
        self.plan = <Plan*>calloc(1, sizeof(Plan))
        if self.plan == NULL:
            raise MemoryError
        self.plan.wake_fd = wake_fd
        self.take_salt(spec)
        self.take_arms(spec, versions)
        self.take_conditions(spec, versions)
        self.take_counting(spec, versions, units)
        self.take_shadows(spec, versions)

    cdef Slice keep(self, str text):
        data = text.encode()
        self.kept.append(data)
        return slice_make(<const char*>data, len(data))

    cdef Source source(self, of):
        cdef Source source
        source.is_parameter = of.kind == "parameter"
        source.name = self.keep(of.name)
        return source

    cdef int take_salt(self, spec) except -1:
        cdef Slice salt = self.keep(spec.salt)
        self.plan.generation = spec.generation
        self.plan.generation_text = self.keep(str(spec.generation))
        self.plan.gate_seed, self.plan.variant_seed = hash64(salt, GATE), hash64(salt, VARIANT)
        self.plan.holdout_seed, self.plan.shadow_seed = hash64(salt, HOLDOUT), hash64(salt, SHADOW)
        return 0

    cdef int take_arms(self, spec, dict versions) except -1:
        cdef Plan* plan = self.plan
        cdef Arm* arm
        cdef int i
        arms = sorted(spec.arms, key=lambda arm: int(arm.version))
        plan.arms = <Arm*>calloc(len(arms) + N_SPECIAL_ARMS, sizeof(Arm))
        if plan.arms == NULL:
            raise MemoryError
        plan.n_variants = len(arms)
        for i, listed in enumerate(arms):
            arm = &plan.arms[i]
            arm.name, arm.weight = self.keep(listed.name), listed.weight
            arm.version = (<NativeVersion?>versions[listed.version]).version
            arm.seed = hash64(arm.version.number, plan.variant_seed)
            if listed.name == spec.stable:
                plan.stable = i
        for i, name in enumerate(SPECIAL_ARMS):             # in the order of SpecialArm
            plan.arms[plan.n_variants + i].name = self.keep(name)
        plan.arms[plan.n_variants + ARM_OUTSIDE].version = plan.arms[plan.stable].version
        plan.arms[plan.n_variants + ARM_HOLDOUT].version = plan.arms[plan.stable].version
        plan.second_below = below(plan.arms[1].weight) if plan.n_variants == 2 else 0
        return 0

    cdef int take_conditions(self, spec, dict versions) except -1:
        cdef Plan* plan = self.plan
        cdef int i
        plan.covered_below, plan.held_out_below = below(spec.coverage_bp), below(spec.holdout_bp)
        if spec.sticky is not None:
            plan.is_sticky, plan.sticky = True, self.source(spec.sticky)
        if spec.segment is not None:
            plan.has_segment, plan.segment = True, self.source(spec.segment.source)
            plan.values = <Slice*>calloc(max(1, len(spec.segment.values)), sizeof(Slice))
            if plan.values == NULL:
                raise MemoryError
            for value in spec.segment.values:
                plan.values[plan.n_values] = self.keep(value)
                plan.n_values += 1
        plan.overrides = <Override*>calloc(max(1, len(spec.overrides)), sizeof(Override))
        if plan.overrides == NULL:
            raise MemoryError
        for i, override in enumerate(spec.overrides):
            plan.overrides[i].source, plan.overrides[i].value = self.source(override.source), self.keep(override.value)
            plan.overrides[i].version = (<NativeVersion?>versions[override.version]).version
            plan.n_overrides += 1
        return 0

    cdef int arm_named(self, str name) except -1:
        data = name.encode()
        for i in range(self.plan.n_variants):
            if (<const char*>self.plan.arms[i].name.data)[:self.plan.arms[i].name.length] == data:
                return i
        raise ValueError(f"no variant is named {name}")

    cdef int take_counting(self, spec, dict versions, UnitMemory units) except -1:
        cdef Plan* plan = self.plan
        plan.candidate = plan.control = plan.judged_output = -1
        if spec.counting is None:
            return 0
        plan.control = self.arm_named(spec.counting.stable)
        if spec.counting.candidate:
            plan.candidate = self.arm_named(spec.counting.candidate)
        else:
            plan.counts_all = True
        plan.check_finite = spec.counting.check_finite
        plan.warmup_left.store(spec.counting.warmup)
        if units is not None:
            plan.failing, plan.seen = units.failing, units.seen
        if spec.counting.output is not None and spec.counting.candidate:
            self.take_output(spec.counting.output)
        return 0

    cdef int take_output(self, output) except -1:
        """Both arms name it; its place and, for classes, the larger width decide."""
        cdef Plan* plan = self.plan
        cdef int of_candidate = output_index(plan.arms[plan.candidate].version, output.output)
        cdef int of_control = output_index(plan.arms[plan.control].version, output.output)
        if of_candidate != of_control:
            raise ValueError(f"the judged output {output.output} is output {of_control} of one version and {of_candidate} of the other; "
                             "export them in one order")
        if output.kind not in OUTPUT_KINDS:
            raise ValueError(f"judged output: kind {output.kind}; they are {', '.join(OUTPUT_KINDS)}")
        plan.judged_output, plan.output_kind = of_control, OUTPUT_KINDS[output.kind]
        plan.n_bins = TEXT_BINS if plan.output_kind == OUTPUT_TEXT else MAX_BINS
        if plan.output_kind == OUTPUT_CLASS:
            plan.n_bins = max(width(&plan.arms[plan.candidate].version.signature.outputs[of_candidate]),
                              width(&plan.arms[plan.control].version.signature.outputs[of_control]))
        return 0

    cdef int take_shadows(self, spec, dict versions) except -1:
        cdef Plan* plan = self.plan
        cdef ShadowTarget* target
        plan.shadows = <ShadowTarget*>calloc(max(1, len(spec.shadows)), sizeof(ShadowTarget))
        if plan.shadows == NULL:
            raise MemoryError
        for shadow in spec.shadows:
            target = &plan.shadows[plan.n_shadows]
            plan.n_shadows += 1
            target.version = (<NativeVersion?>versions[shadow.version]).version
            target.below = below(shadow.sample_bp)
            target.comparison = comparison_new(plan.arms[plan.stable].version.signature, target.version.signature, shadow.rules)
        return 0

    def assign(self, bytes key not None):
        """Name of the arm of a sticky key that no override, segment or version in the request decides."""
        cdef Plan* plan = self.plan
        cdef int arm = drawn_arm(plan, slice_make(<const char*>key, len(key)))
        return name_of(&plan.arms[arm])

    def positions(self, bytes key not None):
        """Where a key lies in each draw, in [0, 1)."""
        cdef Plan* plan = self.plan
        cdef Slice data = slice_make(<const char*>key, len(key))
        whole = <double>(<uint64_t>1 << UNITS)
        return {"gate": unit_position(plan.gate_seed, data) / whole, "holdout": unit_position(plan.holdout_seed, data) / whole,
                "variant": unit_position(plan.variant_seed, data) / whole, "shadow": shadow_position(plan, unit_of(data)) / whole}

    def read(self, is_final=False):
        """serve.traffic.PlanReading of the counters now; is_final: nothing will be counted any more (ModelTable.holds says so)."""
        cdef Plan* plan = self.plan
        plan.is_told.exchange(0, memory_order_seq_cst)      # before the counters are read: what comes after is told again
        return PlanReading(
            model=self.model, generation=plan.generation,
            arms=tuple([read_arm(&plan.arms[i], plan.n_bins) for i in range(plan.n_variants + N_SPECIAL_ARMS)]),
            shadows=tuple([read_shadow(&plan.shadows[i]) for i in range(plan.n_shadows)]),
            streak=plan.streak.load(memory_order_relaxed), longest_streak=plan.longest_streak.load(memory_order_relaxed),
            warmup_left=max(0, plan.warmup_left.load(memory_order_relaxed)), is_final=is_final)

    def __dealloc__(self):
        cdef Plan* plan = self.plan
        cdef int i, thread
        if plan == NULL:
            return
        if plan.arms != NULL:
            for i in range(plan.n_variants + N_SPECIAL_ARMS):
                for thread in range(MAX_IO_THREADS):
                    if plan.arms[i].stats[thread] != NULL:
                        free(plan.arms[i].stats[thread].outputs)
                        free(plan.arms[i].stats[thread])
        for i in range(plan.n_shadows):
            comparison_free(plan.shadows[i].comparison)
            for thread in range(MAX_IO_THREADS):
                free(plan.shadows[i].stats[thread])
        free(plan.arms)
        free(plan.values)
        free(plan.overrides)
        free(plan.shadows)
        free(plan)


cdef str name_of(const Arm* arm):
    return (<const char*>arm.name.data)[:arm.name.length].decode()


cdef str number_of(const Version* version):
    return (<const char*>version.number.data)[:version.number.length].decode() if version != NULL else ""


cdef int output_index(const Version* version, str name) except -1:
    data = name.encode()
    for i in range(version.signature.n_outputs):
        if (<const char*>version.signature.outputs[i].name.data)[:version.signature.outputs[i].name.length] == data:
            return i
    raise ValueError(f"version {number_of(version)} has no output {name}")


cdef int width(const TensorSpec* spec):
    """Classes: the last dimension where it is fixed."""
    cdef int64_t last = spec.shape[spec.rank - 1] if spec.rank else 1
    return <int>min(last, <int64_t>MAX_BINS) if last > 0 else MAX_BINS


cdef int add_outputs(ArmStats* stats, int n_bins, dict outputs) except -1:
    cdef int word, block, bin
    cdef uint64_t touched, count
    for word in range(16):
        touched = counter_read(&stats.touched[word])
        for block in range(64):
            if not touched >> block & 1:
                continue
            for bin in range((word << 12) + (block << 6), min((word << 12) + (block << 6) + 64, n_bins)):
                count = counter_read(&stats.outputs[bin])
                if count:
                    outputs[bin] = outputs.get(bin, 0) + count
    return 0


cdef object read_arm(Arm* arm, int n_bins):
    cdef ArmStats* stats
    cdef Histogram total
    cdef int thread
    cdef uint64_t[7] sums
    memset(&total, 0, sizeof(total))
    memset(sums, 0, sizeof(sums))
    outputs = {}
    for thread in range(MAX_IO_THREADS):
        stats = <ArmStats*>acquire_pointer(<void**>&arm.stats[thread])
        if stats == NULL:
            continue
        sums[0] += counter_read(&stats.success)
        sums[1] += counter_read(&stats.errors)
        sums[2] += counter_read(&stats.refused)
        sums[3] += counter_read(&stats.judged_errors)
        sums[4] += counter_read(&stats.judged)
        sums[5] += counter_read(&stats.keyed)
        sums[6] += counter_read(&stats.assigned)
        histogram_merge(&total, &stats.total)
        if stats.outputs != NULL:
            add_outputs(stats, n_bins, outputs)
    return ArmReading(
        name=name_of(arm), version=number_of(arm.version), assigned=sums[6], keyed=sums[5], success=sums[0], errors=sums[1],
        refused=sums[2], judged=sums[4], judged_errors=sums[3], outputs=outputs,
        total_counts=tuple([total.counts[i] for i in range(N_BUCKETS)]))


cdef object read_shadow(ShadowTarget* target):
    cdef ShadowStats* stats
    cdef int thread
    cdef uint64_t[8] sums
    memset(sums, 0, sizeof(sums))
    for thread in range(MAX_IO_THREADS):
        stats = <ShadowStats*>acquire_pointer(<void**>&target.stats[thread])
        if stats == NULL:
            continue
        sums[0] += counter_read(&stats.compared)
        sums[1] += counter_read(&stats.disagreed)
        sums[2] += counter_read(&stats.failed)
        sums[3] += counter_read(&stats.dropped_capacity)
        sums[4] += counter_read(&stats.dropped_late)
        sums[5] += counter_read(&stats.dropped_primary)
        sums[6] += counter_read(&stats.dropped_gone)
        sums[7] += counter_read(&stats.sampled)             # last: never fewer than what became of them
    return ShadowReading(
        version=number_of(target.version), sampled=sums[7], compared=sums[0], disagreement=sums[1] / 1e6, failed=sums[2],
        dropped={"capacity": sums[3], "late": sums[4], "primary": sums[5], "gone": sums[6]})
