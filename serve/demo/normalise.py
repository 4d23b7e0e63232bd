"""A model of text: BYTES [N, 1] in, the same in upper case out, with its number of words."""

from onnx import TensorProto, checker, helper


def build() -> bytes:
    """The ONNX file. Its locale is C.UTF-8, which knows letters beyond ASCII and is there without language packs."""
    text = helper.make_tensor_value_info("text", TensorProto.STRING, ["batch", 1])
    normalised = helper.make_tensor_value_info("normalised", TensorProto.STRING, ["batch", 1])
    words = helper.make_tensor_value_info("words", TensorProto.INT64, ["batch", 1])
    nodes = [
        # StringNormalizer takes [C] or [1, C] only.
        helper.make_node("Constant", [], ["flat"], value_ints=[-1]),
        helper.make_node("Reshape", ["text", "flat"], ["texts"]),
        helper.make_node("StringNormalizer", ["texts"], ["upper"], case_change_action="UPPER", is_case_sensitive=1, locale="C.UTF-8"),
        helper.make_node("Shape", ["text"], ["shape"]),
        helper.make_node("Reshape", ["upper", "shape"], ["normalised"]),
        helper.make_node("StringSplit", ["text"], ["parts", "words"]),
    ]
    graph = helper.make_graph(nodes, "normalise", [text], [normalised, words])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    checker.check_model(model, full_check=True)
    return model.SerializeToString()
