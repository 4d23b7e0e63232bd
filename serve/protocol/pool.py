"""A descriptor pool of our own, with everything from protos/.

The package `inference` is also declared by tritonclient's and kserve's stubs: in protobuf's default pool a process could import
only one of the three.
"""

import base64
import contextlib

from google.protobuf.descriptor import Descriptor, FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from serve.errors import NotFound
from serve.protocol import descriptors


def _load() -> tuple[DescriptorPool, tuple[str, ...]]:
    pool = DescriptorPool()
    files = FileDescriptorSet.FromString(base64.b64decode(descriptors.DESCRIPTOR_SET)).file
    for file in files:
        pool.AddSerializedFile(file.SerializeToString())
    return pool, tuple(file.name for file in files)


POOL, FILE_NAMES = _load()


def message_class(descriptor: Descriptor) -> type[Message]:
    """The class of a message of POOL; the same one at each call."""
    return GetMessageClass(descriptor)


def files_named(name: str) -> tuple[bytes, ...]:
    """The file `name` and all that it imports, each a serialized FileDescriptorProto. Raises NotFound."""
    try:
        return _with_imports(POOL.FindFileByName(name))
    except KeyError:
        raise NotFound(f"no file '{name}'; the files are {', '.join(FILE_NAMES)}") from None


def files_declaring(symbol: str) -> tuple[bytes, ...]:
    """The file that declares `symbol` (service, method, message, field, enumeration; fully qualified) and all that it imports.

    Each is a serialized FileDescriptorProto. Raises NotFound.
    """
    # Messages, enumerations, services and fields share one look-up; methods have another.
    for find in (POOL.FindFileContainingSymbol, lambda name: POOL.FindMethodByName(name).containing_service.file):
        with contextlib.suppress(KeyError):
            return _with_imports(find(symbol))
    raise NotFound(f"no symbol '{symbol}'; list_services names the services")


def _with_imports(file: FileDescriptor) -> tuple[bytes, ...]:
    found = {file.name: file.serialized_pb}
    waiting = list(file.dependencies)
    while waiting:
        dependency = waiting.pop(0)
        if dependency.name not in found:
            found[dependency.name] = dependency.serialized_pb
            waiting.extend(dependency.dependencies)
    return tuple(found.values())
