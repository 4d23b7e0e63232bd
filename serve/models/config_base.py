"""What every section of model.yaml is: frozen, strict, unknown keys refused."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Strict(BaseModel):
    """Base of the sections."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


# An input or output of the graph.
TensorName = Annotated[str, Field(min_length=1, max_length=512)]


__all__ = ["Strict", "TensorName"]
