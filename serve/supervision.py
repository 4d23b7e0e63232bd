"""When the supervisor starts, drains, kills and gives up on its worker: `(state, event, now_ns) -> (state, actions)`.

    STARTING ──WorkerReady──▶ SERVING
       ▲   │                     │ WorkerExited
     Tick  └──WorkerExited──▶ BACKOFF ◀┘
       └───────────────────────┘            Stop in STARTING or SERVING ──▶ DRAINING ──WorkerExited──▶ OVER

A worker that dies after it was ready is replaced at once: the time that it took to become ready bounds how often that can happen, and
every moment without a worker is one in which clients wait. Only deaths before that are held against it: the delay doubles from one
to the next and starts over when a worker becomes ready. A worker that says Failed, or ends with 1 or 3 before it was ever ready, would
fail again: its exit code is ours. The last resort against a worker that hangs is SIGKILL, after SILENT_TICKS unanswered pings. Ticks
are counted, not time: a machine that was suspended as a whole finds its worker alive.

Rules for editing: every transition is in _TRANSITIONS; an event that a phase does not list raises and changes nothing; nothing here
reads a clock, sleeps or logs.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, auto

from serve.errors import InternalError

MS = 1_000_000
FIRST_DELAY_NS = 100 * MS
LAST_DELAY_NS = 10_000 * MS
PING_NS = 500 * MS
SILENT_TICKS = 6            # 3 s
KILL_GRACE_NS = 5_000 * MS  # what a worker may take on top of the drain time-out to end itself
INTERRUPTED = 130


class Phase(Enum):
    STARTING = auto()
    SERVING = auto()
    BACKOFF = auto()
    DRAINING = auto()
    OVER = auto()


@dataclass(frozen=True, slots=True)
class State:
    """deaths: in a row, without a worker that became ready between. wake_ns: when a Tick is due, None for never. verdict: the exit code
    that the worker announced. unanswered: pings since the last pong.
    """

    phase: Phase = Phase.STARTING
    restarts: int = 0
    deaths: int = 0
    wake_ns: int | None = None
    verdict: int | None = None
    unanswered: int = 0


@dataclass(frozen=True, slots=True)
class WorkerReady:
    pass


@dataclass(frozen=True, slots=True)
class WorkerFailed:
    exit: int
    text: str


@dataclass(frozen=True, slots=True)
class WorkerDrained:
    pass


@dataclass(frozen=True, slots=True)
class WorkerPong:
    pass


@dataclass(frozen=True, slots=True)
class WorkerExited:
    """status: the exit code, or minus the signal that ended it."""

    status: int


@dataclass(frozen=True, slots=True)
class Stop:
    """SIGTERM or SIGINT came. drain_ns: the longest that a drain may take, pre-stop delay included."""

    drain_ns: int


@dataclass(frozen=True, slots=True)
class Tick:
    """wake_ns has passed."""


Event = WorkerReady | WorkerFailed | WorkerDrained | WorkerPong | WorkerExited | Stop | Tick


@dataclass(frozen=True, slots=True)
class Spawn:
    restarts: int


@dataclass(frozen=True, slots=True)
class Ping:
    pass


@dataclass(frozen=True, slots=True)
class Drain:
    """Tell the worker to drain and close our own listening sockets, so that its close is the last."""


@dataclass(frozen=True, slots=True)
class Kill:
    pass


@dataclass(frozen=True, slots=True)
class Say:
    text: str


@dataclass(frozen=True, slots=True)
class Exit:
    code: int


Action = Spawn | Ping | Drain | Kill | Say | Exit
Outcome = tuple[State, tuple[Action, ...]]


def begin() -> Outcome:
    """The state before anything happened, and the first worker."""
    return State(), (Spawn(restarts=0),)


def step(state: State, event: Event, now_ns: int) -> Outcome:
    """Raises InternalError for an event that the phase does not know, or a Tick before its time."""
    transition = _TRANSITIONS.get((state.phase, type(event)))
    if transition is None:
        raise InternalError(f"{type(event).__name__} in phase {state.phase.name}")
    if isinstance(event, Tick) and (state.wake_ns is None or now_ns < state.wake_ns):
        raise InternalError(f"Tick at {now_ns} ns, due at {state.wake_ns}")
    return transition(state, event, now_ns)


def backoff_ns(deaths: int) -> int:
    """Delay before the next worker after `deaths` >= 1 in a row, the last one's included."""
    return min(LAST_DELAY_NS, FIRST_DELAY_NS << min(deaths - 1, 16))


def _ready(state: State, event: Event, now_ns: int) -> Outcome:
    return replace(state, phase=Phase.SERVING, deaths=0, wake_ns=now_ns + PING_NS, unanswered=0), ()


def _failed(state: State, event: Event, now_ns: int) -> Outcome:
    assert isinstance(event, WorkerFailed)
    return replace(state, verdict=event.exit), (Say(event.text),)


def _drained(state: State, event: Event, now_ns: int) -> Outcome:
    return replace(state, verdict=0, wake_ns=now_ns + KILL_GRACE_NS), (Say("drained"),)


def _pong(state: State, event: Event, now_ns: int) -> Outcome:
    return replace(state, unanswered=0), ()


def _unchanged(state: State, event: Event, now_ns: int) -> Outcome:
    return state, ()


def _died_starting(state: State, event: Event, now_ns: int) -> Outcome:
    assert isinstance(event, WorkerExited)
    verdict = state.verdict if state.verdict is not None else event.status if event.status in (1, 3) else None
    return _replace_worker(state, event.status, now_ns) if verdict is None else _over(state, verdict)


def _died_serving(state: State, event: Event, now_ns: int) -> Outcome:
    assert isinstance(event, WorkerExited)
    if state.verdict is not None:
        return _over(state, state.verdict)
    return _replace_worker(state, event.status, now_ns)


def _replace_worker(state: State, status: int, now_ns: int) -> Outcome:
    deaths = state.deaths + 1
    delay = backoff_ns(deaths)
    words = f"worker ended by signal {-status}" if status < 0 else f"worker ended with {status}"
    state = replace(state, phase=Phase.BACKOFF, deaths=deaths, wake_ns=now_ns + delay, unanswered=0)
    return state, (Say(f"{words}; the next one starts in {delay / 1e9:.1f} s"),)


def _respawn(state: State, event: Event, now_ns: int) -> Outcome:
    restarts = state.restarts + 1
    return replace(state, phase=Phase.STARTING, restarts=restarts, wake_ns=None), (Spawn(restarts),)


def _heartbeat(state: State, event: Event, now_ns: int) -> Outcome:
    state = replace(state, wake_ns=now_ns + PING_NS, unanswered=state.unanswered + 1)
    if state.unanswered <= SILENT_TICKS:
        return state, (Ping(),)
    return state, (Say(f"worker silent for {SILENT_TICKS * PING_NS / 1e9:g} s: killed"), Kill())


def _drain(state: State, event: Event, now_ns: int) -> Outcome:
    assert isinstance(event, Stop)
    return replace(state, phase=Phase.DRAINING, wake_ns=now_ns + event.drain_ns + KILL_GRACE_NS), (Say("draining"), Drain())


def _drain_too_long(state: State, event: Event, now_ns: int) -> Outcome:
    return replace(state, wake_ns=None), (Say("the worker does not end in time: killed"), Kill())


def _died_draining(state: State, event: Event, now_ns: int) -> Outcome:
    assert isinstance(event, WorkerExited)
    if state.verdict is not None:       # drained, and only then killed or crashed: nothing was lost
        return _over(state, state.verdict)
    return _over(state, 128 - event.status if event.status < 0 else event.status)


def _interrupt(state: State, event: Event, now_ns: int) -> Outcome:
    state, _ = _over(state, INTERRUPTED)
    return state, (Kill(), Say("stopped at once"), Exit(INTERRUPTED))


def _nothing_to_drain(state: State, event: Event, now_ns: int) -> Outcome:
    return _over(state, 0)


def _over(state: State, code: int) -> Outcome:
    return replace(state, phase=Phase.OVER, wake_ns=None), (Exit(code),)


_TRANSITIONS: dict[tuple[Phase, type[Event]], Callable[[State, Event, int], Outcome]] = {
    (Phase.STARTING, WorkerReady): _ready,
    (Phase.STARTING, WorkerFailed): _failed,
    (Phase.STARTING, WorkerExited): _died_starting,
    (Phase.STARTING, Stop): _drain,
    (Phase.SERVING, WorkerPong): _pong,
    (Phase.SERVING, WorkerFailed): _failed,
    (Phase.SERVING, WorkerDrained): _drained,
    (Phase.SERVING, WorkerExited): _died_serving,
    (Phase.SERVING, Tick): _heartbeat,
    (Phase.SERVING, Stop): _drain,
    (Phase.BACKOFF, Tick): _respawn,
    (Phase.BACKOFF, Stop): _nothing_to_drain,
    (Phase.DRAINING, WorkerReady): _unchanged,      # the order crossed its report
    (Phase.DRAINING, WorkerPong): _unchanged,
    (Phase.DRAINING, WorkerFailed): _failed,
    (Phase.DRAINING, WorkerDrained): _drained,
    (Phase.DRAINING, WorkerExited): _died_draining,
    (Phase.DRAINING, Tick): _drain_too_long,
    (Phase.DRAINING, Stop): _interrupt,
}
