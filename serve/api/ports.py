"""What the handlers need of the rest of the worker. `app.py` fills these; tests fill them with fakes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from serve.types import IndexEntry, ModelDescription, VersionStatistics


class Models(Protocol):
    """The models of this worker; `serve.models.lifecycle.ModelManager` in production.

    version is a number ("3"), a label ("canary") or "" for the version that an unversioned request gets. An unknown model, version or
    label raises NotFound, whose text starts with "Request for unknown model: '<name>'".
    """

    async def index(self, ready_only: bool) -> Sequence[IndexEntry]:
        """One entry per known version and per model on disk that was never loaded, ordered by name; with ready_only what is READY."""

    def describe(self, name: str, version: str) -> ModelDescription:
        """Inputs, outputs, labels and versions. Raises NotFound, and Unavailable where the version is known but not loaded."""

    def config(self, name: str, version: str) -> Mapping[str, Any]:
        """The configuration in protobuf-JSON shape: snake_case names, enum names, plain numbers. Raises as describe does."""

    def is_ready(self, name: str, version: str) -> bool:
        """Whether the version answers inferences now. Raises NotFound."""

    def statistics(self, name: str, version: str) -> Sequence[VersionStatistics]:
        """Counters of one version; of all versions of a model where version is "", of all models where name is "" too. Raises NotFound."""

    async def load(self, name: str, override: str | None) -> None:
        """Load, or load again. override: configuration (protobuf-JSON) instead of the file's, None for the file's.

        Raises NotFound, InvalidArgument for a bad override, and Unavailable with "failed to load '<name>'" where loading failed.
        """

    async def unload(self, name: str) -> None:
        """Stop taking requests, finish those accepted, free the versions. Raises NotFound."""

    def server_ready(self) -> bool:
        """Whether every model of the start-up set is ready; an empty server is not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSettings:
    """What an operator may choose about the slow path.

    server_name: reported in the metadata and health bodies. not_ready_status: HTTP status of a server or model that is not ready; 400 is
    Triton's habit. model_control: "explicit" lets the data ports load and unload. extensions: names that the metadata advertises.
    """

    server_name: str = "headrace"
    not_ready_status: Literal[503, 400] = 503
    model_control: Literal["none", "explicit"] = "none"
    extensions: tuple[str, ...] = (
        "classification", "model_repository", "model_configuration", "binary_tensor_data", "parameters", "statistics", "logging",
    )
