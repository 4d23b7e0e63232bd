"""What is the same for every row of a journal: who recorded which stream of which version. The first frame of a journal is this as JSON,
and so is the key-value metadata `headrace.stream` of the Parquet files made of it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Self

from serve.errors import InvalidArgument
from serve.records import RecordedTensor, RecordStreamSpec

FORMAT = 1
# What headers without these keys mean: earlier releases did not write them.
_LATER = {"is_batched": True}
# Its name in the metadata of a Parquet file.
METADATA_KEY = b"headrace.stream"

TableName = Literal["records", "labels"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamHeader:
    """journal: its number within (replica, epoch), from 1. digest: sha256:<hex>. sampling: share of the requests, 0 to 1. created_ns: wall
    clock. retention_days: the model's own, None for the server's. is_batched: as RecordStreamSpec. model, version, digest and tensors are
    empty for `labels`, whose rows name their model.
    """

    table: TableName
    replica: str
    epoch: int
    journal: int
    model: str = ""
    version: str = ""
    digest: str = ""
    sampling: float = 1.0
    tensors: tuple[RecordedTensor, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    created_ns: int = 0
    retention_days: int | None = None
    is_batched: bool = True

    @classmethod
    def of_stream(cls, stream: RecordStreamSpec, *, replica: str, epoch: int, journal: int, created_ns: int) -> Self:
        """The header of a journal of that stream's rows."""
        return cls(
            table="records", replica=replica, epoch=epoch, journal=journal, model=stream.model, version=stream.version,
            digest=stream.digest, sampling=stream.spec.sampling, tensors=stream.tensors, provenance=dict(stream.provenance),
            created_ns=created_ns, retention_days=stream.spec.retention_days, is_batched=stream.is_batched,
        )

    def to_json(self) -> str:
        """One line, the same text for equal headers."""
        return json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Raises InvalidArgument for what to_json did not write. Keys that a later release added are let be."""
        try:
            document = json.loads(text)
            if (number := document["format"]) != FORMAT:
                raise InvalidArgument(f"a stream header of format {number}: this release reads {FORMAT}; use the release that wrote it")
            document = {**_LATER, **document}
            known = {one.name: document[one.name] for one in fields(cls)}
            known["tensors"] = tuple(_tensor(one) for one in known["tensors"])
            return cls(**known)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InvalidArgument(f"{text[:100]!r} is no stream header: {error!r}") from error


def _tensor(document: dict[str, Any]) -> RecordedTensor:
    known = {one.name: document[one.name] for one in fields(RecordedTensor)}
    return RecordedTensor(**{**known, "shape": tuple(known["shape"])})


__all__ = ["FORMAT", "METADATA_KEY", "StreamHeader", "TableName"]
