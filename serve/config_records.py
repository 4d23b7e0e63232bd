"""The settings of recording and monitoring. A part of `serve.config`."""

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

_REPLICA = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class RecordSettings(BaseModel):
    """What is recorded, where to, and for how long. Bytes in `_bytes`, seconds in `_s`. Nothing is recorded unless `records` is set."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    records: Annotated[str | None, Field(min_length=1, description="Record every prediction under this folder or object store URL.")] = None
    replica_id: Annotated[str, Field(description="This server's name in records and files; the host's unless given.")] = ""
    record_ring_bytes: Annotated[int, Field(ge=1 << 16, le=1 << 36, description="Memory for records on their way to the disk.")] = 64 << 20
    record_fsync_s: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False, description="Most that a power cut may take; 0: "
                                                                                          "every batch is synced.")] = 1.0
    record_seal_s: Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False, description="A journal becomes Parquet after this.")] = 300.0
    record_seal_bytes: Annotated[int, Field(ge=1 << 16, le=1 << 34, description="Or when it holds so much.")] = 128 << 20
    record_retention_days: Annotated[int, Field(ge=1, le=36500, description="Records older than this are purged, unless held.")] = 184
    record_disk_budget_bytes: Annotated[int, Field(ge=1 << 20, le=1 << 50, description="Disk for records; the oldest go first.")] = 8 << 30
    records_delta: Annotated[bool, Field(description="Keep a Delta table over the files of each version.")] = False
    monitor_command: Annotated[str | None, Field(min_length=1, description="Run with each alert and retrain event on its input.")] = None

    @model_validator(mode="after")
    def _replica_is_a_name(self) -> "RecordSettings":
        if self.replica_id and not _REPLICA.fullmatch(self.replica_id):
            raise ValueError(f"replica_id {self.replica_id!r}: want letters, digits, dots, dashes and underscores, at most 128")
        return self


__all__ = ["RecordSettings"]
