"""wire.pyx against google.protobuf: what protobuf reads we read the same, what protobuf refuses we refuse."""

import struct

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from serve._core import wire
from serve._core.tensors import KINDS
from serve.protocol import messages

# datatype -> (field of InferTensorContents, struct format, lowest, highest)
INTEGERS = {
    "UINT8": ("uint_contents", "B", 0, 2**8 - 1), "UINT16": ("uint_contents", "H", 0, 2**16 - 1),
    "UINT32": ("uint_contents", "I", 0, 2**32 - 1), "UINT64": ("uint64_contents", "Q", 0, 2**64 - 1),
    "INT8": ("int_contents", "b", -(2**7), 2**7 - 1),
    "INT16": ("int_contents", "h", -(2**15), 2**15 - 1), "INT32": ("int_contents", "i", -(2**31), 2**31 - 1),
    "INT64": ("int64_contents", "q", -(2**63), 2**63 - 1),
}
FIELDS = {name: field for name, (field, *_) in INTEGERS.items()} | {
    "BOOL": "bool_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents", "FP16": None, "BF16": None,
}
CONTENTS = tuple(field.name for field in messages.InferTensorContents.DESCRIPTOR.fields)


class Refused(Exception):
    """The oracle's verdict: protobuf reads it, the protocol forbids it."""


def raw_bytes(tensor):
    """Oracle of typed contents: raw little-endian bytes, None when there is no element."""
    contents, field = tensor.contents, FIELDS[tensor.datatype]
    if any(len(getattr(contents, other)) for other in CONTENTS if other != field):
        raise Refused
    if field is None or not len(getattr(contents, field)):
        return None
    values = list(getattr(contents, field))
    if tensor.datatype in INTEGERS:
        _, code, low, high = INTEGERS[tensor.datatype]
        if not all(low <= value <= high for value in values):
            raise Refused
        return struct.pack(f"<{len(values)}{code}", *values)
    if tensor.datatype == "BOOL":
        return bytes(values)
    if tensor.datatype == "BYTES":
        return b"".join(struct.pack("<I", len(value)) + value for value in values)
    # Not through Python's float: that would quieten signalling NaNs.
    contents.DiscardUnknownFields()
    return contents.SerializeToString()[-len(values) * (4 if tensor.datatype == "FP32" else 8):]


def number_of(parameter, highest):
    choice = parameter.WhichOneof("parameter_choice")
    if choice not in ("int64_param", "uint64_param") or not 0 <= getattr(parameter, choice) <= highest:
        raise Refused
    return getattr(parameter, choice)


def check_tensor_parameters(parameters):
    if any(key.startswith("shared_memory_") for key in parameters):
        raise Refused


def expected_tensor(request, index):
    tensor = request.inputs[index]
    if tensor.datatype not in FIELDS or len(tensor.shape) > 16 or min(tensor.shape, default=0) < 0:
        raise Refused
    check_tensor_parameters(tensor.parameters)
    data = request.raw_input_contents[index] if request.raw_input_contents else None
    if tensor.HasField("contents"):
        if request.raw_input_contents:
            raise Refused
        data = raw_bytes(tensor)
    return tensor.name.encode(), tensor.datatype, list(tensor.shape), data


def expected_output(output):
    check_tensor_parameters(output.parameters)
    classes = output.parameters["classification"] if "classification" in output.parameters else None
    return output.name.encode(), number_of(classes, 2**31 - 1) if classes is not None else 0


def expected(request):
    """Oracle of wire_decode: a dict, or Refused."""
    if len(request.inputs) > 128 or len(request.outputs) > 128 or len(request.raw_input_contents) > 128:
        raise Refused
    if request.raw_input_contents and len(request.raw_input_contents) != len(request.inputs):
        raise Refused
    parameters = request.parameters
    for key in ("sequence_id", "sequence_start", "sequence_end"):
        if key in parameters:
            choice = parameters[key].WhichOneof("parameter_choice")
            if choice in (None, "double_param") or getattr(parameters[key], choice):
                raise Refused
    known = "triton_enable_empty_final_response"
    if any(key.startswith("triton_") and key != known for key in parameters):
        raise Refused
    if known in parameters and parameters[known].WhichOneof("parameter_choice") != "bool_param":
        raise Refused
    return {
        "model_name": request.model_name.encode(), "model_version": request.model_version.encode(), "id": request.id.encode(),
        "has_id": request.id != "", "inputs": [expected_tensor(request, i) for i in range(len(request.inputs))],
        "outputs": [expected_output(output) for output in request.outputs],
        "timeout_us": number_of(parameters["timeout"], 2**63 - 1) if "timeout" in parameters else 0,
        "priority": number_of(parameters["priority"], 2**64 - 1) if "priority" in parameters else 0,
        "empty_final_response": parameters[known].bool_param if known in parameters else False,
    }


def check_against_protobuf(data):
    """The property that everything here comes down to."""
    got = wire.decode_for_test(data)
    try:
        request = messages.ModelInferRequest.FromString(data)
    except DecodeError:
        assert isinstance(got, tuple), f"protobuf refuses {data.hex()}"
        assert got[0] in (KINDS["INVALID_ARGUMENT"], KINDS["NOT_IMPLEMENTED"])
        return
    try:
        wanted = expected(request)
    except Refused:
        assert isinstance(got, tuple), data.hex()
        return
    # A map keeps one entry a key; of two, ours may refuse the first.
    if isinstance(got, tuple) and ("parameter" in got[1] or "shared memory" in got[1]):
        return
    assert got == wanted, data.hex()


# --- messages that protobuf makes ---------------------------------------------------------------------------------------

names = st.text(max_size=12)
dimensions = st.lists(st.one_of(st.integers(0, 4), st.integers(0, 2**63 - 1)), max_size=5)


@st.composite
def parameters(draw, keys):
    value = messages.InferParameter()
    choice = draw(st.sampled_from(["bool_param", "int64_param", "string_param", "double_param", "uint64_param", None]))
    if choice is not None:
        setattr(value, choice, draw({
            "bool_param": st.booleans(), "int64_param": st.integers(-2, 2**63 - 1), "string_param": names,
            "double_param": st.floats(allow_nan=False), "uint64_param": st.integers(0, 2**64 - 1),
        }[choice]))
    return draw(keys), value


request_keys = st.sampled_from(["timeout", "priority", "triton_enable_empty_final_response", "sequence_id", "sequence_start", "custom",
                                "headers", "binary_data_output", "triton_x", ""])
tensor_keys = st.sampled_from(["classification", "custom", "binary_data", "shared_memory_region", ""])


@st.composite
def contents(draw, datatype):
    made = messages.InferTensorContents()
    for name in draw(st.sets(st.sampled_from(CONTENTS), max_size=1)) | {FIELDS[datatype] or "bool_contents"}:
        made_values = {
            "bool_contents": st.booleans(), "int_contents": st.integers(-40000, 40000) | st.integers(-(2**31), 2**31 - 1),
            "int64_contents": st.integers(-(2**63), 2**63 - 1), "uint_contents": st.integers(0, 300) | st.integers(0, 2**32 - 1),
            "uint64_contents": st.integers(0, 2**64 - 1), "fp32_contents": st.floats(width=32), "fp64_contents": st.floats(),
            "bytes_contents": st.binary(max_size=6),
        }[name]
        getattr(made, name).extend(draw(st.lists(made_values, max_size=4)))
    return made


@st.composite
def requests(draw):
    request = messages.ModelInferRequest(model_name=draw(names), model_version=draw(names), id=draw(names))
    raw = draw(st.booleans())
    for _ in range(draw(st.integers(0, 3))):
        datatype = draw(st.sampled_from(sorted(FIELDS)))
        tensor = request.inputs.add(name=draw(names), datatype=datatype, shape=draw(dimensions))
        if raw:
            request.raw_input_contents.append(draw(st.binary(max_size=12)))
        if draw(st.integers(0, 9)) < (1 if raw else 9):
            tensor.contents.CopyFrom(draw(contents(datatype)))
        for key, value in draw(st.lists(parameters(tensor_keys), max_size=1)):
            tensor.parameters[key].CopyFrom(value)
    for _ in range(draw(st.integers(0, 2))):
        output = request.outputs.add(name=draw(names))
        for key, value in draw(st.lists(parameters(tensor_keys), max_size=1)):
            output.parameters[key].CopyFrom(value)
    for key, value in draw(st.lists(parameters(request_keys), max_size=2)):
        request.parameters[key].CopyFrom(value)
    return request


@settings(max_examples=300, deadline=None)
@given(requests())
def test_reads_what_protobuf_wrote(request):
    check_against_protobuf(request.SerializeToString())


@settings(max_examples=200, deadline=None)
@given(requests(), requests())
def test_merges_concatenated_messages_as_protobuf_does(first, second):
    check_against_protobuf(first.SerializeToString() + second.SerializeToString())


@settings(max_examples=400, deadline=None)
@given(requests(), st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), min_size=1, max_size=4), st.booleans())
def test_mutated_messages_are_read_as_protobuf_reads_them(request, changes, insert):
    data = bytearray(request.SerializeToString())
    for position, byte in changes:
        at = position % (len(data) + 1)
        data[at:at + (0 if insert else 1)] = bytes([byte])
    check_against_protobuf(bytes(data))


def test_truncated_at_every_byte():
    request = messages.ModelInferRequest(model_name="m", model_version="1", id="id")
    request.inputs.add(name="x", datatype="INT64", shape=[1, 300]).contents.int64_contents.extend([1, -1, 2**40])
    request.inputs.add(name="s", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"abc")
    request.inputs[0].parameters["custom"].double_param = 1.5
    request.outputs.add(name="y").parameters["classification"].int64_param = 3
    request.parameters["timeout"].int64_param = 1000
    data = request.SerializeToString()
    for end in range(len(data) + 1):
        check_against_protobuf(data[:end])


# --- wire forms that protobuf reads but never writes ---------------------------------------------------------------------

def varint(value, pad=0):
    out = bytearray()
    while value > 127 or pad > len(out) + 1:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out) + bytes([value])


def field(number, wire_type, content=b"", pad=0):
    return varint(number << 3 | wire_type, pad) + (varint(len(content), pad) if wire_type == 2 else b"") + content


@st.composite
def any_fields(draw, depth=0):
    """Fields of any number and wire type, length-delimited and group content being fields again or noise."""
    out = b""
    for _ in range(draw(st.integers(0, 3))):
        number = draw(st.sampled_from([1, 1, 2, 3, 4, 5, 5, 5, 6, 7, 8, 9, 16, 2**29 - 1, 0]))
        wire_type = draw(st.sampled_from([0, 1, 2, 2, 2, 2, 3, 5, 4, 6]))
        inner = draw(any_fields(depth + 1)) if depth < 4 and wire_type in (2, 3) and draw(st.booleans()) else None
        if inner is None:
            known = st.sampled_from([b"FP32", b"INT8", b"BYTES", b"\x01", b"\xff\xff\xff\xff\x0f", b"\xed\xa0\x80"])
            inner = draw(st.binary(max_size=4) | known)
        if wire_type == 0:
            out += field(number, 0, varint(draw(st.integers(0, 2**64 - 1)), pad=draw(st.integers(0, 11))))
        elif wire_type in (1, 5):
            out += field(number, wire_type, draw(st.binary(min_size=8 if wire_type == 1 else 4, max_size=8 if wire_type == 1 else 4)))
        elif wire_type == 3:
            out += field(number, 3) + inner + field(draw(st.sampled_from([number, number, number, 1])), 4)
        else:
            out += field(number, wire_type, inner, pad=draw(st.sampled_from([0, 0, 0, 5, 6])))
    return out


@settings(max_examples=500, deadline=None)
@given(any_fields())
def test_reads_any_wire_form_as_protobuf_does(data):
    check_against_protobuf(data)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(FIELDS)), st.lists(any_fields(depth=2), min_size=1, max_size=3), st.booleans())
def test_reads_any_form_of_contents_as_protobuf_does(datatype, pieces, packed_shape):
    shape = field(3, 2, varint(2) + varint(3)) if packed_shape else field(3, 0, varint(2)) + field(3, 0, varint(3))
    tensor = b"".join(field(5, 2, piece) for piece in pieces) + field(2, 2, datatype.encode()) + shape + field(1, 2, b"x")
    check_against_protobuf(field(5, 2, tensor) + field(1, 2, b"m"))


def decoded(data):
    got = wire.decode_for_test(data)
    assert isinstance(got, dict), got
    return got


def refused(data, kind="INVALID_ARGUMENT"):
    got = wire.decode_for_test(data)
    assert isinstance(got, tuple), got
    assert got[0] == KINDS[kind]
    return got[1]


def test_packed_and_unpacked_elements_of_one_field_follow_each_other():
    contents_field = field(2, 0, varint(1)) + field(2, 2, varint(2) + varint(3)) + field(2, 0, varint(4))
    tensor = field(1, 2, b"x") + field(2, 2, b"INT8") + field(3, 0, varint(4)) + field(5, 2, contents_field)
    data = field(5, 2, tensor)
    check_against_protobuf(data)
    assert decoded(data)["inputs"] == [(b"x", "INT8", [4], b"\x01\x02\x03\x04")]


def test_raw_contents_may_come_before_the_inputs_they_belong_to():
    data = field(7, 2, b"abcd") + field(7, 2, b"e") + field(5, 2, field(2, 2, b"FP32")) + field(5, 2, field(2, 2, b"BOOL"))
    check_against_protobuf(data)
    assert [tensor[3] for tensor in decoded(data)["inputs"]] == [b"abcd", b"e"]


@pytest.mark.parametrize("length", [2**7, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**35 - 1, 2**63, 2**64 - 1])
@pytest.mark.parametrize("number", range(1, 9))
def test_claimed_lengths_are_checked_against_what_came(number, length):
    assert "malformed" in refused(varint(number << 3 | 2) + varint(length) + b"abc")
    assert "malformed" in refused(field(5, 2, varint(number << 3 | 2) + varint(length) + b"abc"))


@pytest.mark.parametrize("depth", [1, 32, 64])
def test_groups_of_unknown_fields_are_skipped_whole(depth):
    opened = field(9, 3) * depth + field(1, 2, b"not the name") + field(9, 4) * depth
    assert decoded(opened + field(1, 2, b"m"))["model_name"] == b"m"
    check_against_protobuf(opened)


def test_groups_that_are_too_deep_or_do_not_match_are_refused():
    assert "malformed" in refused(field(9, 3) * 65 + field(9, 4) * 65)
    assert "malformed" in refused(field(9, 3) * 5000)
    assert "malformed" in refused(field(9, 3) + field(8, 4))
    assert "malformed" in refused(field(9, 4))


@pytest.mark.parametrize("text", [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"12345678\x80",
                                  b"\xf8\x88\x80\x80\x80"])
def test_strings_that_are_not_utf8_are_refused(text):
    for data in (field(1, 2, text), field(2, 2, text), field(3, 2, text), field(5, 2, field(1, 2, text)), field(6, 2, field(1, 2, text)),
                 field(4, 2, field(1, 2, text)), field(4, 2, field(2, 2, field(3, 2, text)))):
        assert "not UTF-8" in refused(data)
        check_against_protobuf(data)


@given(st.text())
def test_utf8_text_is_kept(text):
    assert decoded(field(1, 2, text.encode()))["model_name"] == text.encode()


# --- what is refused, and how it is said ---------------------------------------------------------------------------------

def request_of(**fields):
    request = messages.ModelInferRequest(model_name="m", **fields)
    return request, request.inputs.add(name="x", datatype="FP32", shape=[1])


def test_raw_and_typed_contents_together():
    request, tensor = request_of(raw_input_contents=[b"abcd"])
    tensor.contents.fp32_contents.append(1.0)
    text = refused(request.SerializeToString())
    assert text == "contents field must not be specified when using raw_input_contents for 'x' for model 'm'"


def test_number_of_raw_contents():
    request, _ = request_of(raw_input_contents=[b"abcd", b"abcd"])
    assert refused(request.SerializeToString()) == "the number of raw_input_contents (2) is not the number of inputs (1) for model 'm'"


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_precision_comes_raw_only(datatype):
    request, tensor = request_of()
    tensor.datatype = datatype
    tensor.contents.fp32_contents.append(1.0)
    assert refused(request.SerializeToString()) == (
        f"unexpected explicit tensor data for input 'x' of model 'm': fp32_contents has elements, but {datatype} data belongs in "
        "raw_input_contents")


def test_elements_out_of_range():
    request, tensor = request_of()
    tensor.datatype = "INT8"
    tensor.contents.int_contents.extend([127, 300])
    assert refused(request.SerializeToString()) == "value 300 in int_contents of input 'x' of model 'm' is out of range for INT8"


@pytest.mark.parametrize("name", ["", "FLOAT", "fp32", "TYPE_FP32", "FP32 "])
def test_unknown_datatypes(name):
    request, tensor = request_of()
    tensor.datatype = name
    assert refused(request.SerializeToString()) == f"input 'x' has the unknown datatype '{name}'"


def test_dimensions():
    request, tensor = request_of()
    tensor.shape[:] = [1] * 16
    assert decoded(request.SerializeToString())["inputs"][0][2] == [1] * 16
    tensor.shape.append(1)
    assert "more than 16 dimensions" in refused(request.SerializeToString())
    tensor.shape[:] = [2, -1]
    assert refused(request.SerializeToString()) == "input 'x' has a negative dimension, -1"


def test_number_of_tensors():
    request = messages.ModelInferRequest()
    for i in range(128):
        request.inputs.add(name=str(i), datatype="FP32")
        request.outputs.add(name=str(i))
        request.raw_input_contents.append(bytes([i]))
    got = decoded(request.SerializeToString())
    assert [tensor[3] for tensor in got["inputs"]] == [bytes([i]) for i in range(128)]
    assert got["outputs"] == [(str(i).encode(), 0) for i in range(128)]
    request.outputs.add()
    assert "at most 128 outputs" in refused(request.SerializeToString())
    request.inputs.add(datatype="FP32")
    assert "at most 128 inputs" in refused(request.SerializeToString())
    del request.inputs[:]
    request.raw_input_contents.append(b"")
    assert "at most 128" in refused(request.SerializeToString())


@pytest.mark.parametrize(("key", "choice", "value", "text"), [
    ("timeout", "int64_param", -1, "parameter 'timeout' must not be negative, got -1"),
    ("timeout", "string_param", "1", "invalid value type for 'timeout' parameter, expected int64_param or uint64_param."),
    ("timeout", "uint64_param", 2**63, f"parameter 'timeout' must be at most {2**63 - 1}, got {2**63}"),
    ("priority", "int64_param", -5, "parameter 'priority' must not be negative, got -5"),
    ("priority", "double_param", 1.0, "invalid value type for 'priority' parameter, expected int64_param or uint64_param."),
    ("sequence_id", "int64_param", 7, "sequence batching is not supported: leave the parameter 'sequence_id' out"),
    ("sequence_id", "string_param", "a", "sequence batching is not supported: leave the parameter 'sequence_id' out"),
    ("sequence_start", "bool_param", True, "sequence batching is not supported: leave the parameter 'sequence_start' out"),
    ("sequence_end", "bool_param", True, "sequence batching is not supported: leave the parameter 'sequence_end' out"),
    ("triton_x", "bool_param", True, "parameter keys starting with 'triton_' are reserved and should not be specified, got 'triton_x'"),
    ("triton_enable_empty_final_response", "int64_param", 1,
     "invalid value type for 'triton_enable_empty_final_response' parameter, expected bool_param."),
])
def test_parameters_that_are_refused(key, choice, value, text):
    request = messages.ModelInferRequest()
    setattr(request.parameters[key], choice, value)
    assert refused(request.SerializeToString()) == text


def test_parameters_that_are_taken():
    request, _ = request_of()
    request.parameters["timeout"].int64_param = 2500
    request.parameters["priority"].uint64_param = 2**64 - 1
    request.parameters["sequence_id"].int64_param = 0
    request.parameters["sequence_start"].bool_param = False
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    request.parameters["anything"].string_param = "else"
    request.outputs.add(name="y").parameters["classification"].int64_param = 5
    got = decoded(request.SerializeToString())
    assert (got["timeout_us"], got["priority"], got["empty_final_response"], got["outputs"]) == (2500, 2**64 - 1, True, [(b"y", 5)])


@pytest.mark.parametrize("tensors", ["inputs", "outputs"])
def test_shared_memory_is_not_implemented(tensors):
    request = messages.ModelInferRequest()
    getattr(request, tensors).add(name="x").parameters["shared_memory_region"].string_param = "r"
    assert "shared memory is not supported" in refused(request.SerializeToString(), "NOT_IMPLEMENTED")


def test_long_names_are_cut_between_characters():
    request, tensor = request_of()
    tensor.name, tensor.datatype = "é" * 300, "X"
    assert refused(request.SerializeToString()) == f"input '{'é' * 50}' has the unknown datatype 'X'"


# --- answers ------------------------------------------------------------------------------------------------------------

output_tensors = st.lists(
    st.tuples(names.map(str.encode), st.sampled_from(sorted(FIELDS)).map(str.encode), dimensions, st.binary(max_size=200)), max_size=4)


@settings(max_examples=200, deadline=None)
@given(names, names, st.none() | names, output_tensors, st.booleans(), st.booleans())
def test_protobuf_reads_what_we_wrote(model, version, request_id, outputs, stream, final):
    encoded_id = None if request_id is None else request_id.encode()
    data = wire.encode_for_test(model.encode(), version.encode(), encoded_id, outputs, stream=stream, final_response=final)
    wanted = messages.ModelInferResponse(model_name=model, model_version=version, id=request_id or "")
    for name, datatype, shape, content in outputs:
        wanted.outputs.add(name=name.decode(), datatype=datatype.decode(), shape=shape)
        wanted.raw_output_contents.append(content)
    if final:
        wanted.parameters["triton_final_response"].bool_param = True
    wrapped = messages.ModelStreamInferResponse(infer_response=wanted) if stream else wanted
    assert type(wrapped).FromString(data) == wrapped
    assert data == wrapped.SerializeToString()


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16383, 16384, 3_000_000])
def test_lengths_at_the_edges_of_their_varints(size):
    data = wire.encode_for_test(b"m", b"1", None, [(b"y", b"UINT8", [size], bytes(size))], stream=True)
    response = messages.ModelStreamInferResponse.FromString(data).infer_response
    assert response.raw_output_contents[0] == bytes(size)
    assert list(response.outputs[0].shape) == [size]


@pytest.mark.parametrize("request_id", ["", "seven", "x" * 300])
def test_stream_errors(request_id):
    encoded = wire.encode_stream_error_for_test("höher".encode(), request_id.encode())
    response = messages.ModelStreamInferResponse.FromString(encoded)
    assert response.error_message == "höher"
    assert response.infer_response == messages.ModelInferResponse(id=request_id)
