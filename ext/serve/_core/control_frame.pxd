"""What an I/O thread and Python tell each other of a call that Python answers. Declarations only; call.Frame carries them."""

cdef enum FrameKind:
    FRAME_OPEN = 0                  # down: method, path, query, fields; HTTP: with the whole body
    FRAME_MESSAGE = 1               # both ways: one gRPC message
    FRAME_HALF_CLOSE = 2            # down
    FRAME_CANCEL = 3                # down: the client went away
    FRAME_RESPONSE = 4              # up: HTTP status, fields, body
    FRAME_END = 5                   # up: gRPC status and text
    FRAME_RELEASE = 6               # up: Python is done with it
    FRAME_TAKEN = 7                 # up: Python begins with a message of `taken` bytes
