"""What a configuration means for a graph."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.errors import ConfigurationError
from serve.models.config import ModelConfig, TensorDeclaration
from serve.models.resolution import ResolvedConfig, resolve, warmup_batch_sizes
from serve.types import TensorSpec


def spec(name: str, *shape: int, datatype: str = "FP32") -> TensorSpec:
    return TensorSpec(name, datatype, shape)


def declared(name: str, *shape: int, datatype: str = "FP32") -> TensorDeclaration:
    return TensorDeclaration.model_validate({"name": name, "datatype": datatype, "shape": shape})


def resolved(config: ModelConfig, inputs: list[TensorSpec], outputs: list[TensorSpec]) -> ResolvedConfig:
    return resolve(config, inputs, outputs, "m/model.yaml")


@pytest.mark.parametrize(
    ("inputs", "outputs", "wanted", "expected"),
    [
        ([spec("x", -1, 3)], [spec("y", -1)], None, 64),
        ([spec("x", -1, 3), spec("z", -1)], [spec("y", -1)], None, 64),
        ([spec("x", 1, 3)], [spec("y", -1)], None, 0),
        ([spec("x", -1, 3)], [spec("y", 1)], None, 0),
        ([spec("x", -1, 3)], [spec("y")], None, 0),
        ([], [], None, 0),
        ([spec("x", -1, 3)], [spec("y", -1)], 8, 8),
        ([spec("x", -1, 3)], [spec("y", -1)], 0, 0),
        ([spec("x", 1, 3)], [spec("y", -1)], 0, 0),
    ],
)
def test_batchable_when_every_first_dimension_is_dynamic(
    inputs: list[TensorSpec], outputs: list[TensorSpec], wanted: int | None, expected: int
) -> None:
    assert resolved(ModelConfig(max_batch_size=wanted), inputs, outputs).max_batch_size == expected


def test_declarations_narrow_inputs_and_leave_outputs() -> None:
    config = ModelConfig(inputs=(declared("x", -1, 3, 224),), outputs=(declared("y", -1, 10),))
    result = resolved(config, [spec("x", -1, 3, -1), spec("z", -1)], [spec("y", -1, -1)])
    assert result.inputs == (spec("x", -1, 3, 224), spec("z", -1))
    assert result.outputs == (spec("y", -1, -1),)


def test_a_declaration_can_make_a_model_unbatchable() -> None:
    result = resolved(ModelConfig(inputs=(declared("x", 1, 3),)), [spec("x", -1, 3)], [spec("y", -1)])
    assert (result.max_batch_size, result.warmup_shapes, result.warmup_batch_sizes) == (0, {"x": (1, 3)}, ())


def test_warmup_shapes() -> None:
    inputs = [spec("x", -1, 3, -1), spec("ids", -1, -1)]
    assert resolved(ModelConfig(), inputs, [spec("y", -1)]).warmup_shapes == {"x": (3, 1), "ids": (1,)}
    assert resolved(ModelConfig(warmup={"ids": (128,)}), inputs, [spec("y", -1)]).warmup_shapes == {"x": (3, 1), "ids": (128,)}
    config = ModelConfig(max_batch_size=0, warmup={"ids": (2, 128)})
    assert resolved(config, inputs, [spec("y", -1)]).warmup_shapes == {"x": (1, 3, 1), "ids": (2, 128)}


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (
            {"max_batch_size": 8},
            "m/model.yaml: max_batch_size = 8: the model cannot be batched, because the first dimension of output 'fixed' is not dynamic "
            "(its shape is [1, 2]); set max_batch_size to 0, or export the model with a dynamic first dimension",
        ),
        (
            {"preferred_batch_sizes": (4,)},
            "m/model.yaml: preferred_batch_sizes = [4]: none may be larger than max_batch_size, which is 0 for this graph; set",
        ),
        ({"max_queue_delay_us": 9}, "m/model.yaml: max_queue_delay_us = 9: a model with max_batch_size 0 has no batch to wait for"),
        ({"inputs": (declared("q", -1),)}, "m/model.yaml: inputs names 'q', which the model does not have; it has 'x'"),
        ({"outputs": (declared("x", -1),)}, "m/model.yaml: outputs names 'x', which the model does not have; it has 'fixed'"),
        ({"inputs": (declared("x", -1, 3, datatype="FP16"),)}, "m/model.yaml: inputs 'x': datatype FP16, but the model has FP32"),
        ({"inputs": (declared("x", -1, 4),)}, "m/model.yaml: inputs 'x': shape [-1, 4], but the model has [-1, 3]; only a dimension that"),
        ({"inputs": (declared("x", 3),)}, "m/model.yaml: inputs 'x': shape [3], but the model has [-1, 3]"),
        ({"inputs": (declared("x", -1, -1),)}, "m/model.yaml: inputs 'x': shape [-1, -1], but the model has [-1, 3]"),
        ({"class_labels": {"q": ("a",)}}, "m/model.yaml: class_labels names 'q', which the model does not have; it has 'fixed'"),
        ({"warmup": {"q": (1,)}}, "m/model.yaml: warmup names 'q', which the model does not have; it has 'x'"),
        ({"warmup": {"x": (1, 4)}}, "m/model.yaml: warmup 'x': shape [1, 4] does not fit the model's [-1, 3]"),
        ({"warmup": {"x": (3,)}}, "m/model.yaml: warmup 'x': shape [3] does not fit the model's [-1, 3]"),
    ],
)
def test_mismatches_with_the_graph_are_refused(config: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        resolved(ModelConfig.model_validate(config), [spec("x", -1, 3)], [spec("fixed", 1, 2)])
    assert str(error.value).startswith(text)


def test_a_warmup_shape_of_a_batched_model_has_no_batch_dimension() -> None:
    with pytest.raises(ConfigurationError, match=r"warmup 'x': shape \[1, 3\] does not fit the model's \[3\], without the batch dimension"):
        resolved(ModelConfig(warmup={"x": (1, 3)}), [spec("x", -1, 3)], [spec("y", -1)])


@pytest.mark.parametrize(
    ("maximum", "preferred", "expected"),
    [(0, (), ()), (1, (), (1,)), (2, (), (1, 2)), (6, (), (1, 2, 4, 6)), (8, (3,), (1, 2, 3, 4, 8)), (64, (), (1, 2, 4, 8, 16, 32, 64))],
)
def test_warmup_batch_sizes(maximum: int, preferred: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert warmup_batch_sizes(maximum, preferred) == expected


@given(st.integers(1, 65_536))
def test_every_batch_is_at_most_twice_a_warm_one(maximum: int) -> None:
    sizes = warmup_batch_sizes(maximum)
    assert sizes[0] == 1
    assert sizes[-1] == maximum
    assert all(later <= 2 * earlier for earlier, later in itertools.pairwise(sizes))
