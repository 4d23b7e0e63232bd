"""The steps of an inference that do not depend on its protocol: decode, resolve, bind; slice, classify, encode."""
from libc.stdint cimport int64_t, uint64_t

from serve._core.call cimport Field, Request
from serve._core.memory cimport Slice
from serve._core.model_table cimport Snapshot
from serve._core.runner cimport Runner

# Decodes request.body, routes it and binds it to its version. json_length as in json_codec; the names come from the path over HTTP.
# fields: the call's headers; random: the thread's generator; thread: its index, for the counters. 0, or -1 with request.failure set;
# request.version and request.routed are set as soon as they are known.
cdef int infer_decode(Request* request, const Snapshot* snapshot, Slice model, Slice number, int64_t json_length, const Field* fields,
                      uint64_t* random, int thread) noexcept nogil
# Rows [first, first + rows) of the runner's outputs into request.reply. -1: request.failure is set.
cdef int infer_encode(Request* request, Runner* runner, int64_t first) noexcept nogil
