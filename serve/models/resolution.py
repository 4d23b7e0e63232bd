"""What a configuration means for a graph: batching, checked declarations, warm-up shapes.

Pure: the engine calls `resolve` once it has opened the session and knows the graph's inputs and outputs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from serve.errors import ConfigurationError
from serve.models.config import ModelConfig, TensorDeclaration, check_batching
from serve.models.recorded import check_known, check_monitoring, check_recording
from serve.types import TensorSpec

DEFAULT_MAX_BATCH_SIZE = 64


@dataclass(frozen=True, slots=True)
class ResolvedConfig:
    """Settings of one loaded version.

    inputs: with the dimensions that declarations narrowed, so a request that breaks a declaration is refused before it is queued.
    max_batch_size: rows, 0 when requests run one by one. warmup_shapes: by input, every dimension fixed, without the batch dimension
    when max_batch_size > 0. warmup_batch_sizes: rows of each warm-up run, ascending; empty when the model is not batched: one run.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    warmup_shapes: Mapping[str, tuple[int, ...]]
    warmup_batch_sizes: tuple[int, ...]


def resolve(config: ModelConfig, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], where: str) -> ResolvedConfig:
    """Settings for a graph with these inputs and outputs. `where` names the configuration in errors. Raises ConfigurationError."""
    narrowed = _check_declarations("inputs", config.inputs, inputs, where)
    # An output's declaration is a promise of the model that nobody enforces, so the graph's own shape stays.
    _check_declarations("outputs", config.outputs, outputs, where)
    check_known("class_labels", config.class_labels, outputs, where)
    check_known("warmup", config.warmup, inputs, where)
    check_monitoring(config.monitoring.spec(), inputs, outputs, where)
    max_batch_size = _max_batch_size(config, [*_kinds("input", narrowed), *_kinds("output", outputs)], where)
    check_recording(config.recording.spec(), narrowed, outputs, max_batch_size, where)
    return ResolvedConfig(
        inputs=narrowed,
        outputs=tuple(outputs),
        max_batch_size=max_batch_size,
        warmup_shapes={spec.name: _warmup_shape(spec, config, max_batch_size > 0, where) for spec in narrowed},
        warmup_batch_sizes=warmup_batch_sizes(max_batch_size, config.preferred_batch_sizes),
    )


def warmup_batch_sizes(max_batch_size: int, preferred: Sequence[int] = ()) -> tuple[int, ...]:
    """1, 2, 4, ... up to and including the maximum, and the sizes that batches are steered to."""
    sizes = {max_batch_size, *preferred} if max_batch_size else set()
    size = 1
    while size < max_batch_size:
        sizes.add(size)
        size *= 2
    return tuple(sorted(sizes))


def _kinds(kind: str, specs: Sequence[TensorSpec]) -> list[tuple[str, TensorSpec]]:
    return [(kind, spec) for spec in specs]


def _max_batch_size(config: ModelConfig, tensors: Sequence[tuple[str, TensorSpec]], where: str) -> int:
    fixed = next(((kind, spec) for kind, spec in tensors if not spec.shape or spec.shape[0] != -1), None)
    if config.max_batch_size and fixed is not None:
        kind, spec = fixed
        raise ConfigurationError(
            f"{where}: max_batch_size = {config.max_batch_size}: the model cannot be batched, because the first dimension of {kind} "
            f"{spec.name!r} is not dynamic (its shape is {list(spec.shape)}); set max_batch_size to 0, or export the model with a dynamic "
            "first dimension"
        )
    automatic = 0 if fixed is not None or not tensors else DEFAULT_MAX_BATCH_SIZE
    max_batch_size = automatic if config.max_batch_size is None else config.max_batch_size
    try:
        check_batching(config, max_batch_size)
    except ValueError as error:
        raise ConfigurationError(f"{where}: {error} for this graph; set max_batch_size") from error
    return max_batch_size


def _check_declarations(key: str, declared: Sequence[TensorDeclaration], specs: Sequence[TensorSpec], where: str) -> tuple[TensorSpec, ...]:
    """The graph's specs, with dynamic dimensions narrowed to the declared ones."""
    check_known(key, [tensor.name for tensor in declared], specs, where)
    by_name = {tensor.name: tensor for tensor in declared}
    return tuple(_narrow(key, by_name[spec.name], spec, where) if spec.name in by_name else spec for spec in specs)


def _narrow(key: str, declared: TensorDeclaration, spec: TensorSpec, where: str) -> TensorSpec:
    if declared.datatype != spec.datatype:
        raise ConfigurationError(f"{where}: {key} {spec.name!r}: datatype {declared.datatype}, but the model has {spec.datatype}")
    fits = len(declared.shape) == len(spec.shape) and all(
        graph in (-1, wanted) for wanted, graph in zip(declared.shape, spec.shape, strict=True)
    )
    if not fits:
        raise ConfigurationError(
            f"{where}: {key} {spec.name!r}: shape {list(declared.shape)}, but the model has {list(spec.shape)}; only a dimension that is "
            "-1 in the model may be declared differently"
        )
    return TensorSpec(spec.name, spec.datatype, declared.shape)


def _warmup_shape(spec: TensorSpec, config: ModelConfig, is_batched: bool, where: str) -> tuple[int, ...]:
    own = spec.shape[1:] if is_batched else spec.shape
    wanted = config.warmup.get(spec.name)
    if wanted is None:
        return tuple(1 if dimension == -1 else dimension for dimension in own)
    if len(wanted) != len(own) or any(graph not in (-1, size) for size, graph in zip(wanted, own, strict=True)):
        batch = ", without the batch dimension" if is_batched else ""
        raise ConfigurationError(f"{where}: warmup {spec.name!r}: shape {list(wanted)} does not fit the model's {list(own)}{batch}")
    return wanted


__all__ = ["DEFAULT_MAX_BATCH_SIZE", "ResolvedConfig", "resolve", "warmup_batch_sizes"]
