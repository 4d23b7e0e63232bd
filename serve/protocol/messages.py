"""Message classes and enumerations of the protocol, by their names: `messages.ModelInferRequest(model_name="m")`.

The names come out of the descriptors; messages.pyi, generated from the same source, declares them for type checkers and readers.
"""

from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

from serve.protocol import descriptors
from serve.protocol.pool import POOL, message_class


def _public_names() -> dict[str, object]:
    names: dict[str, object] = {}
    for file in map(POOL.FindFileByName, descriptors.PUBLIC_FILES):
        for name, message in file.message_types_by_name.items():
            names[name] = message_class(message)
        for name, enum in file.enum_types_by_name.items():
            names[name] = EnumTypeWrapper(enum)
            names.update((value.name, value.number) for value in enum.values)
    return names


globals().update(_public_names())
