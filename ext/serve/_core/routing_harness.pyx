"""For the tests: route_request on a request that Python describes, without a server."""
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from serve._core.call cimport Field, Request
from serve._core.ids cimport RANDOM_WORDS, seed_random
from serve._core.memory cimport Slice, arena_alloc, arena_copy, arena_free
from serve._core.model_table cimport ModelEntry
from serve._core.parameters cimport parameter_keep
from serve._core.posix cimport now_ns
from serve._core.router cimport count_routed, route_request
from serve._core.routing cimport ROUTED_SUCCESS, Routed
from serve._core.routing_plan cimport NativePlan


cdef class RouteHarness:
    """One request of thread 0 under a plan. headers: (name, value) in the order received; parameters likewise."""
    cdef NativePlan plan
    cdef Request* request
    cdef Field* fields
    cdef uint64_t[RANDOM_WORDS] random

    def __cinit__(self, NativePlan plan not None, list headers not None, list parameters not None):
        cdef Field* field
        self.plan = plan
        self.request = <Request*>calloc(1, sizeof(Request))
        if self.request == NULL or seed_random(self.random):
            raise MemoryError
        for name, value in headers:
            field = <Field*>arena_alloc(&self.request.arena, sizeof(Field))
            if field == NULL:
                raise MemoryError
            field.name, field.value, field.next = self.copy(name), self.copy(value), self.fields
            self.fields = field
        for name, value in parameters:
            if parameter_keep(&self.request.infer, &self.request.arena, self.copy(name), self.copy(value)):
                raise MemoryError

    cdef Slice copy(self, bytes text) except *:
        cdef Slice slice = arena_copy(&self.request.arena, <const char*>text, len(text))
        if slice.data == NULL:
            raise MemoryError
        return slice

    def route(self, int repeats=1):
        """(name of the arm, whether by its key, mean nanoseconds to route it, mean to count its success), `repeats` times over."""
        cdef ModelEntry entry
        cdef Slice number, name
        cdef uint64_t start, routed, counted
        memset(&entry, 0, sizeof(entry))
        memset(&number, 0, sizeof(number))
        entry.plan = self.plan.plan
        with nogil:
            start = now_ns()
            for _ in range(repeats):
                memset(&self.request.routed, 0, sizeof(Routed))
                route_request(self.request, &entry, number, self.fields, self.random, 0)
            routed = now_ns()
            for _ in range(repeats):
                count_routed(self.request, ROUTED_SUCCESS, 1000000, 0)
            counted = now_ns()
        name = self.plan.plan.arms[self.request.routed.arm].name
        return ((<const char*>name.data)[:name.length].decode(), bool(self.request.routed.is_keyed), (routed - start) / <double>repeats,
                (counted - routed) / <double>repeats)

    def __dealloc__(self):
        if self.request != NULL:
            arena_free(&self.request.arena)
            free(self.request)
