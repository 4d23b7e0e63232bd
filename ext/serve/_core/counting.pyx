from libc.stdint cimport uint64_t

from serve._core.batcher cimport stats_of
from serve._core.counters cimport counter_add, counter_set
from serve._core.histogram cimport Histogram, histogram_add
from serve._core.version cimport GATHER, QUEUE, RECEIVE, RUN, SCATTER, SEND, TOTAL, VersionStats


cdef void count_success(IoThread* io, Request* request, uint64_t now) noexcept nogil:
    cdef VersionStats* stats = stats_of(request.version, io.index)
    cdef Histogram* stages
    if stats == NULL:
        return
    stages = stats.stages[request.protocol]
    counter_add(&stats.success[request.protocol], 1)
    counter_set(&stats.last_wall_ms, io.hooks.wall_ms)
    histogram_add(&stages[<int>RECEIVE], since(request.t_queued, request.t_received), 1)
    histogram_add(&stages[<int>QUEUE], since(request.t_started, request.t_queued), 1)
    histogram_add(&stages[<int>GATHER], since(request.t_gathered, request.t_started), 1)
    histogram_add(&stages[<int>RUN], since(request.t_ran, request.t_gathered), 1)
    histogram_add(&stages[<int>SCATTER], since(request.t_encoded, request.t_ran), 1)
    histogram_add(&stages[<int>SEND], since(now, request.t_encoded), 1)
    histogram_add(&stages[<int>TOTAL], since(now, request.t_received), 1)


cdef void count_rejection(IoThread* io, Request* request, int reason, uint64_t now) noexcept nogil:
    cdef VersionStats* stats
    if request.version == NULL:
        return
    stats = stats_of(request.version, io.index)
    if stats != NULL:
        counter_add(&stats.rejections[reason], 1)
        counter_add(&stats.rejection_ns, now - request.t_received)
