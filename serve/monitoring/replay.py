"""A version's answers to rows: all of them, and how they compare with other answers to the same rows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from serve.errors import HeadraceError
from serve.models.offline import OfflineVersion
from serve.monitoring.gate_evidence import Agreed, Bools, Consistency, Floats
from serve.monitoring.gate_settings import Agreement, Tolerance
from serve.monitoring.replay_rows import Array, Column, ReplayRows

Progress = Callable[[int, int], object]     # done, of how many

REPLAY_BATCH = 64


@dataclass(frozen=True, slots=True)
class Answers:
    """outputs: by name, a row each, None where it was not answered. failures: row -> what the model said of it."""

    outputs: Mapping[str, list[Array | None]]
    failures: Mapping[int, str]

    def answered(self, n: int) -> Bools:
        """Which of n rows."""
        return np.array([row not in self.failures for row in range(n)], bool)

    def of(self, rows: Sequence[int]) -> dict[str, Array]:
        """Outputs of answered rows, those of one shape stacked; others are left out."""
        found = {}
        for name, column in self.outputs.items():
            stacked = stack(column, rows)
            if stacked is not None:
                found[name] = stacked
        return found

    def not_finite(self) -> int:
        """Rows with NaN or infinity in an output."""
        bad = {row for column in self.outputs.values() for row, value in enumerate(column)
               if value is not None and value.dtype.kind == "f" and not np.isfinite(value).all()}
        return len(bad)


def replay(version: OfflineVersion, rows: ReplayRows, progress: Progress = lambda done, of: None) -> Answers:
    """Answers to all rows, in batches. A batch that fails is asked again row by row."""
    outputs: dict[str, list[Array | None]] = {spec.name: [None] * rows.n for spec in version.outputs}
    failures: dict[int, str] = {}
    n_done = 0
    for batch in rows.batches(_batch_size(version)):
        try:
            _put(outputs, version, rows, batch)
        except HeadraceError:
            for row in batch:
                try:
                    _put(outputs, version, rows, [row])
                except HeadraceError as error:
                    failures[row] = str(error)
        n_done += len(batch)
        progress(n_done, rows.n)
    return Answers(outputs, failures)


def _batch_size(version: OfflineVersion) -> int:
    return min(version.max_batch_size, REPLAY_BATCH) or 1


def _put(outputs: dict[str, list[Array | None]], version: OfflineVersion, rows: ReplayRows, batch: Sequence[int]) -> None:
    is_batched = version.max_batch_size > 0
    for name, values in version.run(rows.batch(batch, is_batched)).items():
        for at, row in enumerate(batch):
            outputs[name][row] = np.asarray(values[at]) if is_batched else values


def stack(column: Column | list[Array | None], rows: Sequence[int]) -> Array | None:
    """Of rows that are there; None where their shapes differ, or one is missing."""
    values = [column[row] for row in rows]
    present = [value for value in values if value is not None]
    if len(present) < len(values) or len({np.asarray(value).shape for value in present}) > 1:
        return None
    return np.stack([np.asarray(value) for value in present]) if present else None


# --- the same version again ---------------------------------------------------------------------------------------------

def consistency(version: OfflineVersion, rows: ReplayRows, first: Answers, chosen: Sequence[int], tolerance: Tolerance) -> Consistency:
    """The chosen rows, all answered, asked twice one by one, and together in another order."""
    differing: dict[int, str] = {}
    worst = 0.0
    for what, again in _again(version, rows, chosen):
        for row in chosen:
            for name, column in first.outputs.items():
                before, after = column[row], again.outputs[name][row]
                apart, is_close = _apart(before, after, tolerance)
                worst = max(worst, apart)
                if not is_close:
                    differing.setdefault(row, f"{what}, output {name!r} of row {row} is {_shown(after)}, was {_shown(before)}")
    return Consistency(len(chosen), len(differing), worst, next(iter(differing.values()), ""))


def _again(version: OfflineVersion, rows: ReplayRows, chosen: Sequence[int]) -> list[tuple[str, Answers]]:
    found = []
    plans: list[tuple[str, list[list[int]]]] = [("by itself", [[row] for row in chosen]), ("by itself again", [[row] for row in chosen])]
    if version.max_batch_size > 1:
        backwards = list(reversed(chosen))
        plans.append(("in another batch", list(rows.batches(version.max_batch_size, backwards))))
    for what, batches in plans:
        outputs: dict[str, list[Array | None]] = {spec.name: [None] * rows.n for spec in version.outputs}
        failures: dict[int, str] = {}
        for batch in batches:
            try:
                _put(outputs, version, rows, batch)
            except HeadraceError as error:
                failures |= dict.fromkeys(batch, str(error))
        found.append((what, Answers(outputs, failures)))
    return found


def _apart(before: Array | None, after: Array | None, tolerance: Tolerance) -> tuple[float, bool]:
    """The largest absolute difference of numbers, and whether the two are alike."""
    if before is None or after is None or before.shape != after.shape:
        return 0.0, False
    if before.dtype.kind == "O":
        return 0.0, before.ravel().tolist() == after.ravel().tolist()
    a, b = after.astype(np.float64), before.astype(np.float64)
    difference = np.abs(a - b)[np.isfinite(a) & np.isfinite(b)]
    is_close = bool(np.isclose(a, b, atol=tolerance.atol, rtol=tolerance.rtol, equal_nan=True).all())
    return float(difference.max(initial=0.0)), is_close


def _shown(value: Array | None) -> str:
    if value is None:
        return "nothing"
    text = np.array2string(value, threshold=6, edgeitems=3).replace("\n", "")
    return text if len(text) <= 80 else f"{text[:77]}..."


# --- other answers to the same rows -------------------------------------------------------------------------------------

def agreed(answers: Mapping[str, Column], reference: Mapping[str, Column], rows: Sequence[int], wanted: Agreement) -> Agreed:
    """On how many of the rows, answered by both, the answers are alike; see gate_settings.Agreement.

    Recorded rows may lack an output: they agree where the others do. One that lacks them all is not among them.
    """
    names = [name for name in reference if name in answers and name in (wanted.outputs or reference)]
    rows = [row for row in rows if any(reference[name][row] is not None for name in names)]
    if not names or not rows:
        return Agreed(0, 0)
    alike = {name: _alike([answers[name][row] for row in rows], [reference[name][row] for row in rows], wanted.spread) for name in names}
    together = np.logical_and.reduce(list(alike.values()))
    return Agreed(int(together.sum()), len(rows), {name: int((~same).sum()) for name, same in alike.items()})


def _alike(ours: list[Array | None], theirs: list[Array | None], spread: float) -> Bools:
    both = [(np.asarray(one), np.asarray(other)) for one, other in zip(ours, theirs, strict=True) if one is not None and other is not None]
    numbers = [other.astype(np.float64).ravel() for _, other in both if other.dtype.kind == "f" and other.size]
    most = spread * float(np.nanstd(np.concatenate(numbers))) if numbers else 0.0
    return np.array([one is None or other is None or _is_alike(np.asarray(one), np.asarray(other), most)
                     for one, other in zip(ours, theirs, strict=True)], bool)


def _is_alike(one: Array, other: Array, most: float) -> bool:
    if one.size != other.size:
        return False
    one = one.reshape(other.shape)
    if one.dtype.kind != "f" or other.dtype.kind != "f":
        return bool(one.ravel().tolist() == other.ravel().tolist())
    if other.ndim and other.shape[-1] > 1:
        return bool((one.argmax(axis=-1) == other.argmax(axis=-1)).all())
    return bool(np.isclose(one.astype(np.float64), other.astype(np.float64), atol=most, rtol=1e-6, equal_nan=True).all())


# --- time ---------------------------------------------------------------------------------------------------------------

def time_in_turns(versions: Sequence[OfflineVersion], inputs: Mapping[str, Array], runs: int, seconds: float,
                  now_ns: Callable[[], int]) -> list[Floats]:
    """Nanoseconds of runs of the same batch, version by version in turns, the first one changing; a tenth of them before it counts.

    At most `runs` of each, and about `seconds` together, but ten of each at the least.
    """
    taken: list[list[int]] = [[] for _ in versions]
    for _ in range(max(3, runs // 10)):
        for version in versions:
            version.time(inputs)
    begun = now_ns()
    for turn in range(runs):
        order = range(len(versions)) if turn % 2 == 0 else reversed(range(len(versions)))
        for which in order:
            taken[which].append(versions[which].time(inputs))
        if turn >= 9 and now_ns() - begun > seconds * 1e9:
            break
    return [np.array(one, np.float64) for one in taken]


__all__ = ["Answers", "Progress", "agreed", "consistency", "replay", "stack", "time_in_turns"]
