"""When a batch is sealed, and how large: a pure function of what waits. (Triton's dynamic batcher semantics, without its early sealing.)"""
from libc.stdint cimport int64_t, uint64_t

cdef struct Decision:
    int64_t rows                    # > 0: seal a batch of at most so many rows now
    uint64_t wait_until             # else: look again at this time (monotonic ns)


cdef inline Decision batch_decide(int64_t max_batch, const int64_t* preferred, int n_preferred, uint64_t delay_ns,
                                  int64_t waiting_rows, uint64_t oldest_ns, uint64_t now) noexcept nogil:
    """preferred: ascending sizes, each <= max_batch. waiting_rows > 0 rows of one shape, the oldest queued at oldest_ns.

    Without a delay whatever waits goes at once: whoever asks is free to run, so waiting would only cost. With one, a batch goes when it
    is full, when a preferred size is reached, or when the oldest request has waited for the delay.
    """
    cdef Decision decision
    cdef int i
    decision.wait_until = 0
    decision.rows = min(waiting_rows, max_batch)
    if waiting_rows >= max_batch:
        return decision
    for i in range(n_preferred - 1, -1, -1):
        if preferred[i] <= waiting_rows:
            decision.rows = preferred[i]
            return decision
    if delay_ns and now < oldest_ns + delay_ns:
        decision.rows = 0
        decision.wait_until = oldest_ns + delay_ns
    return decision
