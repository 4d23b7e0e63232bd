"""Requests run again on another version once they are answered, when nothing else wants the capacity.

The Request itself goes on: its body and decoded inputs are the shadow's, its call is gone. An I/O thread keeps those that wait in a
bounded list and submits some of them only in a turn that brought no event, and only while their device has no queue; so a primary
can at most find one run of a shadow ahead of it. What the threads that run batches do for a pair is observe.observe_pair.
"""
from libc.stdint cimport uint64_t

from serve._core.call cimport Request
from serve._core.io_thread cimport IoThread

cdef enum:
    MAX_WAITING_SHADOWS = 256           # of an I/O thread
    MAX_RUNNING_SHADOWS = 16            # of an I/O thread, submitted and not back
    SHADOW_BUDGET_SHARE = 8             # all that wait may hold 1/8 of the worker's in-flight bytes
    LATE_NS = 1000000000                # what was not begun by then is dropped
    SHADOW_TURN_NS = 200000             # of shadows run by an I/O thread itself, in one turn

# Once a request is routed and bound, with the plan's shadows: decides by the unit's draw. Never fails the request.
cdef void shadow_sample(IoThread* io, Request* request) noexcept nogil
# Instead of freeing a finished request that has a ShadowCopy and is off its call's list. True: it waits as a shadow now.
cdef bint shadow_keep(IoThread* io, Request* request) noexcept nogil
# A request that was submitted as a shadow is back: count it and free it.
cdef void shadow_done(IoThread* io, Request* request) noexcept nogil
# In a turn without events: submit what may run now, and run what is short. Returns how many left the list.
cdef int shadow_turn(IoThread* io, uint64_t now) noexcept nogil
# Drop what has waited too long.
cdef void shadow_expire(IoThread* io, uint64_t now) noexcept nogil
# The in-flight bytes are used up: drop all that wait. Returns how many bytes they held.
cdef size_t shadow_make_room(IoThread* io) noexcept nogil
# The server drains or stops: drop all that wait, and what is queued.
cdef void shadow_drop_all(IoThread* io) noexcept nogil
