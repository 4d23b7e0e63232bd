"""What a version refuses with 400, by its baseline: `monitoring.reject` as the native check of its inputs. Blocking: reads the baseline."""

import logging
import math
from collections.abc import Mapping, Sequence

from serve._core.guard import NativeGuard
from serve.models.engine_port import LoadSpec
from serve.models.guard_limits import InputLimits, native_guard
from serve.monitoring.baseline import Baseline, CategoryFeature, NumericFeature
from serve.monitoring.baselines import BaselineFiles
from serve.types import TensorSpec

_log = logging.getLogger(__name__)


class Guards:
    """files: where baselines lie."""

    def __init__(self, files: BaselineFiles) -> None:
        self._files = files

    def guard_of(self, spec: LoadSpec, inputs: Sequence[TensorSpec], max_batch_size: int) -> NativeGuard | None:
        """The check of a version that is being loaded; None where nothing is to be refused, or there is no baseline to say what.

        Raises InvalidArgument for a baseline that does not fit the inputs.
        """
        reject = spec.config.monitoring.reject
        if not reject or not spec.config.monitoring.enabled:
            return None
        baseline = self._files.find(spec.name, spec.version, spec.digest)
        if baseline is None:
            _log.warning("model '%s' version %s has no baseline, so that monitoring.reject refuses nothing: make one with "
                         "`headrace monitor baseline`, then load the model again", spec.name, spec.version)
            return None
        return native_guard(inputs, max_batch_size, limits_of(baseline, inputs, max_batch_size > 0), reject)


def limits_of(baseline: Baseline, inputs: Sequence[TensorSpec], is_batched: bool) -> dict[str, InputLimits]:
    """The ranges and categories that a baseline has seen, by input. An element that it has not looked at is not limited.

    NaN is let through where the baseline has seen nulls or NaNs; categories only bind where the baseline has all of them.
    """
    categories = {feature.column: feature for feature in baseline.categories if feature.is_complete}
    found = {}
    for spec in inputs:
        column = f"in_{spec.name}"
        features = baseline.numeric_columns.get(column)
        shape = spec.shape[1:] if is_batched else spec.shape
        if features and all(size >= 0 for size in shape):
            found[spec.name] = _ranges(features, math.prod(shape))
        elif column in categories:
            found[spec.name] = InputLimits(categories=[_values(spec, categories[column])])
    return found


def _ranges(features: Sequence[NumericFeature], n_elements: int) -> InputLimits:
    # Of an element without a finite number the range is not known: its minimum and maximum are 0.
    by_index: Mapping[int, NumericFeature] = {feature.index: feature for feature in features if sum(feature.counts)}
    seen = [by_index.get(at) for at in range(n_elements)]
    return InputLimits(
        low=[None if one is None else _outward(one, one.minimum, -math.inf) for one in seen],
        high=[None if one is None else _outward(one, one.maximum, math.inf) for one in seen],
        may_miss=[one is None or one.nulls + one.nans > 0 for one in seen],
    )


def _outward(feature: NumericFeature, value: float, towards: float) -> float:
    """A baseline holds doubles: a whole number beyond 2^53 was rounded, maybe to the inside."""
    return math.nextafter(value, towards) if feature.is_integer and abs(value) >= 2.0**53 else value


def _values(spec: TensorSpec, feature: CategoryFeature) -> frozenset[bytes] | frozenset[int]:
    if spec.datatype == "BYTES":
        return frozenset(value.encode("utf-8", "surrogateescape") for value in feature.values)
    return frozenset(int(value.lower() in {"true", "1"}) for value in feature.values)


__all__ = ["Guards", "limits_of"]
