"""What a version must show before traffic is shifted to it: its own cases, or that it answers at all with what it declares.

A case is a file in the version's folder `tests`, with inputs, expected outputs and a tolerance:
    <name>.json  {"inputs": {name: values}, "outputs": {name: values}, "atol": 1e-5, "rtol": 1e-3}
    <name>.npz   arrays input.<name>, output.<name>, and scalars atol and rtol
Outputs that a case does not name are not compared. Without cases the version runs once on made-up input: outputs must have the declared
names, datatypes and ranks, and be finite.
"""

import json
import pathlib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from serve.client.tensors import DTYPES, Array, array_from
from serve.errors import HeadraceError, InvalidArgument
from serve.models.resolution import ResolvedConfig
from serve.types import TensorSpec

ATOL, RTOL = 1e-5, 1e-3
_KEYS = {"inputs", "outputs", "atol", "rtol"}

Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]
Schema = tuple[Sequence[TensorSpec], Sequence[TensorSpec]]      # inputs, outputs


class SelfTestFailed(InvalidArgument):
    """The version is not what it should be. The text says what differs, and where."""


@dataclass(frozen=True, slots=True)
class Case:
    """inputs, outputs: by name, as the model's datatypes. A value passes when |got - want| <= atol + rtol |want|."""

    name: str
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    atol: float = ATOL
    rtol: float = RTOL


def read_cases(folder: pathlib.Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> list[Case]:
    """The cases of a folder in the order of their names; none where there is no folder. Raises SelfTestFailed for an unreadable one."""
    if not folder.is_dir():
        return []
    types = {spec.name: spec.datatype for spec in (*inputs, *outputs)}
    readers = {".json": _read_json, ".npz": _read_npz}
    cases = []
    for path in sorted(folder.iterdir()):
        reader = readers.get(path.suffix)
        if reader is None:
            continue
        try:
            cases.append(reader(path, types))
        except (OSError, EOFError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
            reason = f"the model has no input or output {error}" if isinstance(error, KeyError) else str(error)
            raise SelfTestFailed(f"self-test {path.name} cannot be read: {reason}") from error
    return cases


def check_cases(cases: Sequence[Case], run: Run) -> None:
    """Runs every case. Raises SelfTestFailed for the first that differs or fails."""
    for case in cases:
        try:
            answer = run(case.inputs)
        except HeadraceError as error:
            raise SelfTestFailed(f"self-test {case.name} failed to run: {error}") from error
        for name, want in case.outputs.items():
            if name not in answer:
                raise SelfTestFailed(f"self-test {case.name}: {name!r} is no output of the model")
            difference = _difference(answer[name], want, case.atol, case.rtol)
            if difference:
                raise SelfTestFailed(f"self-test {case.name}: output {name!r} {difference}")


def check_answer(answer: Mapping[str, Array], outputs: Sequence[TensorSpec]) -> None:
    """The answer to a made-up input. Raises SelfTestFailed: an output of another rank, or with a NaN or infinity."""
    for spec in outputs:
        got = answer.get(spec.name)
        if got is None:
            raise SelfTestFailed(f"self-test: there is no output {spec.name!r}")
        if got.ndim != len(spec.shape):
            raise SelfTestFailed(f"self-test: output {spec.name!r} has rank {got.ndim}; declared is {len(spec.shape)}")
        if got.dtype.kind == "f" and not np.isfinite(got).all():
            raise SelfTestFailed(
                f"self-test: output {spec.name!r} is not finite for an input of zeros; give the version cases in its folder tests/")


def made_up(settings: ResolvedConfig) -> dict[str, Array]:
    """One row of zeros, or of empty strings. BF16 as the 16 bits that it is."""
    rows = (1,) if settings.max_batch_size else ()
    inputs: dict[str, Array] = {}
    for spec in settings.inputs:
        shape = (*rows, *settings.warmup_shapes[spec.name])
        is_text = spec.datatype == "BYTES"
        inputs[spec.name] = np.full(shape, b"" if is_text else 0, dtype=object if is_text else DTYPES.get(spec.datatype, np.dtype("<u2")))
    return inputs


def schema_change(before: Schema, after: Schema) -> str:
    """What differs in names, datatypes or ranks between two versions, in one phrase; "" when nothing does."""
    for what, old, new in (("input", before[0], after[0]), ("output", before[1], after[1])):
        was, now = ({spec.name: spec for spec in specs} for specs in (old, new))
        for name in sorted(was.keys() | now.keys()):
            if name not in now:
                return f"{what} {name!r} is gone"
            if name not in was:
                return f"{what} {name!r} is new"
            if was[name].datatype != now[name].datatype:
                return f"{what} {name!r} is {now[name].datatype}, was {was[name].datatype}"
            if len(was[name].shape) != len(now[name].shape):
                return f"{what} {name!r} has rank {len(now[name].shape)}, had {len(was[name].shape)}"
    return ""


def _read_json(path: pathlib.Path, types: Mapping[str, str]) -> Case:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or not content.keys() <= _KEYS or not {"inputs", "outputs"} <= content.keys():
        raise ValueError('want an object with "inputs", "outputs" and perhaps "atol" and "rtol"')
    inputs = {name: array_from(types[name], values) for name, values in content["inputs"].items()}
    outputs = {name: array_from(types[name], values) for name, values in content["outputs"].items()}
    return Case(path.name, inputs, outputs, float(content.get("atol", ATOL)), float(content.get("rtol", RTOL)))


def _read_npz(path: pathlib.Path, types: Mapping[str, str]) -> Case:
    with np.load(path, allow_pickle=False) as arrays:
        parts: dict[str, dict[str, Array]] = {"input": {}, "output": {}}
        for key in arrays.files:
            part, _, name = key.partition(".")
            if key not in ("atol", "rtol"):
                parts[part][name] = array_from(types[name], arrays[key].tolist())
        tolerance = {key: float(arrays[key]) for key in ("atol", "rtol") if key in arrays.files}
    return Case(path.name, parts["input"], parts["output"], tolerance.get("atol", ATOL), tolerance.get("rtol", RTOL))


def _difference(got: Array, want: Array, atol: float, rtol: float) -> str:
    if got.shape != want.shape:
        return f"has shape {list(got.shape)}; expected {list(want.shape)}"
    if got.dtype.kind == "O" or want.dtype.kind == "O":
        wanted = [value.encode() if isinstance(value, str) else value for value in want.ravel().tolist()]
        differ = [at for at, (a, b) in enumerate(zip(got.ravel().tolist(), wanted, strict=True)) if a != b]
    else:
        close = np.isclose(got.astype(np.float64), want.astype(np.float64), atol=atol, rtol=rtol, equal_nan=True)
        differ = np.flatnonzero(~close).tolist()
    if not differ:
        return ""
    at = differ[0]
    return f"differs in {len(differ)} of {want.size} values, first at {at}: {got.ravel()[at]!r}, expected {want.ravel()[at]!r}"


__all__ = ["Case", "SelfTestFailed", "check_answer", "check_cases", "made_up", "read_cases", "schema_change"]
