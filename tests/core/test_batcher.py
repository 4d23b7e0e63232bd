"""The queues of a device against a plain model: lists of (number, rows, queued at, deadline) for each version and shape, and a clock that
only the test moves."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from serve._core.batcher import InstancePool
from serve._core.queue_harness import QueueHarness
from tests.core.test_batch_policy import oracle

US = 1000
UNHURRIED_NS = 60 * 10**9           # what a request without a deadline counts as in the order of deadlines
Settings = tuple[int, list[int], int, int, int, bool]
Shape = tuple[int, bool]            # shape key, and whether it is of shadows


@dataclass
class Waiting:
    number: int
    rows: int
    queued_at: int
    deadline: int

    def urgency(self) -> int:
        return self.deadline or self.queued_at + UNHURRIED_NS


@dataclass
class Model:
    """One version as it should be."""

    max_batch: int
    preferred: list[int]
    delay_ns: int
    queue_limit: int
    instances: int
    may_inline: bool
    shapes: dict[Shape, list[Waiting]] = field(default_factory=dict)
    running: int = 0

    def depth(self, *, shadows: bool = False) -> int:
        return sum(len(queue) for (_, is_shadow), queue in self.shapes.items() if is_shadow == shadows)

    def ready(self, now: int, shadows: bool) -> dict[Shape, int]:
        """shape -> rows that may go now."""
        rows = {shape: self.decide(shape, queue, now) for shape, queue in self.shapes.items() if shape[1] == shadows}
        return {shape: n for shape, n in rows.items() if n}

    def decide(self, shape: Shape, queue: list[Waiting], now: int) -> int:
        delay_ns = 0 if shape[1] else self.delay_ns
        return oracle(self.max_batch, self.preferred, delay_ns, sum(w.rows for w in queue), queue[0].queued_at, now)

    def seal(self, shape: Shape, limit: int, now: int) -> tuple[list[Waiting], list[Waiting]]:
        """(batch, expired); both leave the queue."""
        queue = self.shapes[shape]
        batch: list[Waiting] = []
        expired: list[Waiting] = []
        for waiting in list(queue):
            if waiting.deadline and now >= waiting.deadline:
                expired.append(waiting)
            elif batch and sum(w.rows for w in batch) + waiting.rows > limit:
                break
            else:
                batch.append(waiting)
        for waiting in batch + expired:
            queue.remove(waiting)
        if not queue:
            del self.shapes[shape]
        return batch, expired


@st.composite
def version_settings(draw: st.DrawFn) -> Settings:
    max_batch = draw(st.integers(1, 12))
    preferred = sorted(draw(st.sets(st.integers(1, max_batch), max_size=3)))
    delay = draw(st.sampled_from([0, 0, 50 * US, 1000 * US]))
    return max_batch, preferred, delay, draw(st.integers(1, 20)), draw(st.integers(1, 3)), draw(st.booleans())


class Queues(RuleBasedStateMachine):
    @initialize(versions=st.lists(version_settings(), min_size=1, max_size=3))
    def build(self, versions: list[Settings]) -> None:
        self.models = [Model(*version) for version in versions]
        self.harness = QueueHarness(versions)
        self.now = 10**9
        self.batches: dict[int, tuple[Model, bool]] = {}

    def may_shadow(self) -> bool:
        """No client waits on the device, and no other shadow runs there."""
        return not any(model.depth() for model in self.models) and not any(is_shadow for _, is_shadow in self.batches.values())

    @rule(chain=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 12), st.integers(1, 3), st.sampled_from([0, 0, 0, 1, 200, 5000]),
                                   st.sampled_from([False, False, True])), min_size=1, max_size=6))
    def submit(self, chain: list[tuple[int, int, int, int, bool]]) -> None:
        """Requests as binding lets them through: of no more rows than a batch may have. Shadows do not count for the limit."""
        requests = []
        for version, rows, shape, deadline_us, is_shadow in chain:
            version %= len(self.models)
            deadline = self.now + deadline_us * US if deadline_us else 0
            requests.append((version, min(rows, self.models[version].max_batch), shape, self.now, deadline, is_shadow))
        numbers = self.harness.submit(requests)
        for number, (version, rows, shape, queued_at, deadline, is_shadow) in zip(numbers, requests, strict=True):
            model = self.models[version]
            assert (number is None) == (model.depth() >= model.queue_limit and not is_shadow)
            if number is not None:
                model.shapes.setdefault((shape, is_shadow), []).append(Waiting(number, rows, queued_at, deadline))

    @rule(us=st.sampled_from([0, 1, 10, 49, 50, 200, 1000, 6000]))
    def pass_time(self, us: int) -> None:
        self.now += us * US

    @rule(data=st.data())
    def cancel(self, data: Any) -> None:
        queues = [queue for model in self.models for queue in model.shapes.values()]
        if not queues:
            return
        queue = data.draw(st.sampled_from(queues))
        waiting = data.draw(st.sampled_from(queue))
        assert self.harness.cancel(waiting.number)
        queue.remove(waiting)
        for model in self.models:
            model.shapes = {shape: rest for shape, rest in model.shapes.items() if rest}

    @precondition(lambda self: self.batches)
    @rule(data=st.data())
    def finish(self, data: Any) -> None:
        number = data.draw(st.sampled_from(sorted(self.batches)))
        self.harness.finish(number)
        self.batches.pop(number)[0].running -= 1

    @rule()
    def take(self) -> None:
        free = [model for model in self.models if model.running < model.instances and model.shapes]
        ready = [(model, shape, rows) for model in free for shape, rows in model.ready(self.now, False).items()]
        if not ready and self.may_shadow():
            ready = [(model, shape, rows) for model in free for shape, rows in model.ready(self.now, True).items()]
        taken = self.harness.take(self.now)
        if not ready:
            times = [queue[0].queued_at + model.delay_ns for model in free for (_, shadow), queue in model.shapes.items() if not shadow]
            assert taken == (min(times) if times else None)
            return
        assert isinstance(taken, tuple)
        self.check(taken, ready)

    @rule(longest_us=st.sampled_from([1, 100]), measured_us=st.sampled_from([0, 50, 500]), shadows=st.booleans())
    def take_inline(self, longest_us: int, measured_us: int, shadows: bool) -> None:
        """By whoever received them: only what is short, of a version that is not running and does not wait on purpose."""
        for index in range(len(self.models)):
            for rows in (1, 2, 4, 8, 16):
                self.harness.measure(index, rows, measured_us * US)
        is_short = 0 < measured_us < longest_us
        fit = [model for model in self.models
               if is_short and model.may_inline and not model.running and not model.delay_ns and model.depth(shadows=shadows)
               and (not shadows or self.may_shadow())]
        taken = self.harness.take_inline(self.now, longest_us * US, shadows=shadows)
        assert (taken is not None) == bool(fit)
        if taken is not None:
            self.check(taken, [(model, shape, rows) for model in fit for shape, rows in model.ready(self.now, shadows).items()
                               if model is self.models[taken[0]]])

    def check(self, taken: tuple[int, int, list[tuple[int, int]], list[int]], ready: list[tuple[Model, Shape, int]]) -> None:
        """The batch is one of the most urgent of `ready`, and holds what the model says."""
        version, number, members, expired = taken
        model = self.models[version]
        most_urgent = min(m.shapes[shape][0].urgency() for m, shape, _ in ready)
        chosen = [(m, shape, rows) for m, shape, rows in ready
                  if m is model and any(w.number in {n for n, _ in members} | set(expired) for w in m.shapes[shape])]
        assert len(chosen) == 1, "a batch is of one shape"
        _, shape, limit = chosen[0]
        assert model.shapes[shape][0].urgency() == most_urgent
        batch, late = model.seal(shape, limit, self.now)
        assert members == [(waiting.number, waiting.rows) for waiting in batch]
        assert set(expired) == {waiting.number for waiting in late}
        assert sum(rows for _, rows in members) <= model.max_batch
        if members:
            model.running += 1
            self.batches[number] = model, shape[1]
        else:
            self.harness.finish(number)

    @invariant()
    def counts_agree(self) -> None:
        if not hasattr(self, "harness"):
            return
        rows, active = self.harness.state()
        for model, (depth, shadows, running, n_free, shapes) in zip(self.models, rows, strict=True):
            assert (depth, shadows) == (model.depth(), model.depth(shadows=True))
            assert (running, n_free) == (model.running, model.instances - model.running)
            assert shapes == {shape: (sum(w.rows for w in queue), [w.number for w in queue]) for shape, queue in model.shapes.items()}
        assert sorted(active) == [i for i, model in enumerate(self.models) if model.shapes]


Queues.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestQueues = Queues.TestCase


def test_a_request_that_is_running_cannot_be_cancelled() -> None:
    harness = QueueHarness([(4, [], 0, 10, 1, False)])
    (number,) = harness.submit([(0, 1, 7, 0, 0)])
    _, batch, members, _ = harness.take(0)
    assert members == [(number, 1)]
    assert not harness.cancel(number)
    harness.finish(batch)


def test_a_shadow_waits_for_every_client_of_the_device() -> None:
    """Also for one that waits on purpose, on another version; and it does not share a batch with clients of its own version."""
    harness = QueueHarness([(8, [], 1000, 10, 2, False), (8, [], 0, 10, 2, False)])
    (client, *shadows, other) = harness.submit([(0, 1, 7, 0, 0), (1, 1, 7, 0, 0, True), (1, 1, 7, 0, 0, True), (1, 1, 7, 0, 0)])
    assert harness.take(1)[2] == [(other, 1)]
    assert harness.take(2) == 1000
    _, first, members, _ = harness.take(1000)
    assert members == [(client, 1)]
    _, batch, members, _ = harness.take(1001)
    assert members == [(number, 1) for number in shadows]
    harness.submit([(1, 1, 7, 0, 0, True)])
    harness.finish(first)
    assert harness.take(1002) is None                       # one run of shadows at a time
    harness.finish(batch)
    assert len(harness.take(1003)[2]) == 1


def test_shadows_leave_the_queue_to_clients() -> None:
    harness = QueueHarness([(8, [], 0, 2, 1, False)])
    assert None not in harness.submit([(0, 1, 7, 0, 0, True)] * 5)
    assert harness.submit([(0, 1, 7, 0, 0)] * 3).count(None) == 1
    assert None not in harness.submit([(0, 1, 7, 0, 0, True)])
    harness.stop()
    assert harness.submit([(0, 1, 7, 0, 0, True)]) == [None]


def test_an_unmeasured_run_is_not_short() -> None:
    harness = QueueHarness([(4, [], 0, 10, 1, True)])
    harness.submit([(0, 1, 7, 0, 0)])
    assert harness.take_inline(0, 10**9) is None


def test_how_short_a_run_is_depends_on_the_batch_that_would_be_taken() -> None:
    """One shape waits with four rows, which take long, another, younger one with a single row, which does not."""
    harness = QueueHarness([(8, [], 0, 10, 1, True)])
    harness.measure(0, 1, 1)
    harness.measure(0, 4, 1000)
    harness.submit([(0, 4, 7, 0, 0), (0, 1, 8, 1, 0)])
    assert harness.take_inline(2, 100) is None
    version, _, members, _ = harness.take_inline(2, 10_000)
    assert (version, [rows for _, rows in members]) == (0, [4])


def test_a_pool_of_a_thread_too_many_is_refused() -> None:
    with pytest.raises(ValueError, match="65 instance threads; want 1 to 64"):
        InstancePool(65)
    with pytest.raises(ValueError, match="0 instance threads"):
        InstancePool(0)


def test_a_pool_starts_once_and_again_after_it_was_stopped() -> None:
    pool = InstancePool(2)
    for _ in range(3):
        pool.start()
        with pytest.raises(RuntimeError, match="run already"):
            pool.start()
        pool.stop()
        pool.stop()


def test_a_version_that_kept_an_io_thread_waiting_is_left_to_instance_threads() -> None:
    harness = QueueHarness([(8, [], 0, 10, 1, True)])
    harness.measure(0, 1, 100)
    harness.ban_inline(0, 50)
    harness.submit([(0, 1, 0, 1, 0)])
    assert harness.take_inline(49, 10_000) is None
    version, _, members, _ = harness.take_inline(50, 10_000)
    assert (version, len(members)) == (0, 1)


def test_a_delayed_batch_does_not_hold_up_the_end() -> None:
    harness = QueueHarness([(8, [], 10**9, 10, 1, False)])
    harness.submit([(0, 1, 0, 5, 0)])
    assert harness.take(10) == 5 + 10**9
    harness.stop()
    _, _, members, _ = harness.take(10)
    assert len(members) == 1
    assert harness.submit([(0, 1, 0, 11, 0)]) == [None]
