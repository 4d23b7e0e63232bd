"""A worker that does as its model path's stem says; started by test_supervisor.py in place of serve.app."""

import asyncio
import os
import signal
import socket
import sys

from serve.control import Drained, Event, Failed, InputLine, ModelLine, Pong, Ready
from serve.worker_channel import WorkerChannel

READY = Ready(models=(ModelLine(name="m", versions=("1",), inputs=(InputLine(name="x", datatype="FP32", shape=(-1, 2)),)),))


async def serve_until_drained(channel: WorkerChannel) -> None:
    order = await channel.wait_drain()
    print(f"order {order.pre_stop_delay_s:g} {order.timeout_s:g}", file=sys.stderr, flush=True)
    channel.send(Drained())


def stop_supervisor() -> None:
    os.kill(os.getppid(), signal.SIGTERM)


def answer_one(channel: WorkerChannel) -> None:
    """Accepts one connection: b"die" kills this worker, anything else is answered with the epoch."""
    listener = socket.socket(fileno=os.dup(channel.start.sockets.http[0]))
    listener.setblocking(True)
    connection, _ = listener.accept()
    if connection.recv(3) == b"die":
        os.kill(os.getpid(), signal.SIGKILL)
    connection.sendall(b"epoch %d restarts %d" % (channel.start.epoch, channel.start.restarts))


def answer_pings(channel: WorkerChannel, count: int) -> None:
    """Has the supervisor stopped after so many pings were answered."""
    send, n_sent = channel.send, 0

    def counted(event: Event) -> None:
        nonlocal n_sent
        send(event)
        if isinstance(event, Pong):
            n_sent += 1
            if n_sent == count:
                stop_supervisor()

    channel.send = counted      # type: ignore[method-assign]
    channel.send(READY)


def main() -> int:
    channel = WorkerChannel.open()
    role = channel.start.settings.paths[0].stem
    if role == "drains":
        stop_supervisor()
        asyncio.run(serve_until_drained(channel))
    elif role == "fails":
        channel.send(Failed(exit=3, text="no model loaded: m: broken"))
        return 3
    elif role == "raises":
        raise SystemExit(1)
    elif role == "crashes":
        channel.send(READY)
        answer_one(channel)
        stop_supervisor()
        asyncio.run(serve_until_drained(channel))
    elif role == "idles":
        signal.pause()
    elif role == "ignores":
        channel.send(READY)
        stop_supervisor()
        signal.pause()
    elif role == "hangs" and channel.start.epoch == 1:
        channel.send(READY)
        os.kill(os.getpid(), signal.SIGSTOP)
    elif role == "hangs":
        stop_supervisor()
        asyncio.run(serve_until_drained(channel))
    elif role == "answers":
        answer_pings(channel, 20)
        asyncio.run(serve_until_drained(channel))
    elif role == "babbles" and channel.start.epoch == 1:
        channel._connection.sendall(b'{"event":"nonsense"}\n')
        signal.pause()
    elif role == "babbles":
        stop_supervisor()
        asyncio.run(serve_until_drained(channel))
    return 0


if __name__ == "__main__":
    sys.exit(main())
