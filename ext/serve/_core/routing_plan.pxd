"""Builds a Plan from a serve.traffic.RoutingSpec and reads its counters."""
from serve._core.memory cimport Slice
from serve._core.routing cimport Plan, Source
from serve._core.units cimport UnitMemory

cdef class NativePlan:
    cdef Plan* plan
    cdef readonly object spec           # serve.traffic.RoutingSpec
    cdef readonly str model
    cdef readonly list versions         # NativeVersions that requests may reach through it
    cdef list kept                      # encoded names and the UnitMemory: what the plan borrows from
    cdef Slice keep(self, str text)
    cdef Source source(self, of)
    cdef int take_salt(self, spec) except -1
    cdef int take_arms(self, spec, dict versions) except -1
    cdef int take_conditions(self, spec, dict versions) except -1
    cdef int arm_named(self, str name) except -1
    cdef int take_counting(self, spec, dict versions, UnitMemory units) except -1
    cdef int take_output(self, output) except -1
    cdef int take_shadows(self, spec, dict versions) except -1
