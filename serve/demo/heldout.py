"""The held-out digits through a server, beside ONNX Runtime on the same file."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serve.client import Client
from serve.demo.repository import DIGITS_DATA
from serve.errors import ConfigurationError

BATCH = 32
TOLERANCE = 1e-5            # a batch of another size may be summed in another order


@dataclass(frozen=True, slots=True)
class Comparison:
    """Rows in order. images: float32 [N, 64]; truth, served, local: int64 [N]; the probabilities: float32 [N, 10]."""

    version: str
    images: NDArray[np.float32]
    truth: NDArray[np.int64]
    served: NDArray[np.int64]
    served_probabilities: NDArray[np.float32]
    local: NDArray[np.int64]
    local_probabilities: NDArray[np.float32]

    @property
    def n_equal(self) -> int:
        """Rows with the same label and the same probabilities to TOLERANCE."""
        close = np.isclose(self.served_probabilities, self.local_probabilities, rtol=0, atol=TOLERANCE).all(axis=1)
        return int((close & (self.served == self.local)).sum())

    @property
    def largest_difference(self) -> float:
        return float(np.abs(self.served_probabilities - self.local_probabilities).max())


def compare(client: Client, repository: Path, model: str, version: str | None, limit: int | None) -> Comparison:
    """At most `limit` rows. Raises ConfigurationError for what is missing here, ClientError for what the server refuses."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigurationError("the comparison runs ONNX Runtime here too: pip install onnxruntime") from error
    try:
        with np.load(repository / DIGITS_DATA) as data:
            images, truth = data["images"][:limit], data["labels"][:limit]
    except OSError as error:
        raise ConfigurationError(f"{error}; --repository names the folder that `headrace init` made") from error
    answers = [client.infer(model, {"input": images[at : at + BATCH]}, version) for at in range(0, len(images), BATCH)]
    answered_by = {answer.model_version for answer in answers}
    if len(answered_by) != 1:
        raise ConfigurationError(f"versions {', '.join(sorted(answered_by))} answered in turn; name one with --version")
    served_by = answered_by.pop()
    session = onnxruntime.InferenceSession(repository / model / served_by / "model.onnx", providers=["CPUExecutionProvider"])
    local = [session.run(["label", "probabilities"], {"input": images[at : at + BATCH]}) for at in range(0, len(images), BATCH)]
    return Comparison(
        served_by, images, truth,
        np.concatenate([answer.outputs["label"] for answer in answers]),
        np.concatenate([answer.outputs["probabilities"] for answer in answers]),
        np.concatenate([label for label, _ in local]), np.concatenate([probabilities for _, probabilities in local]))


def drawn(image: NDArray[np.float32]) -> str:
    """A digit of 64 pixels of 0 to 16 as four lines of half blocks."""
    dark = image.reshape(8, 8) > 7
    pairs = zip(dark[0::2], dark[1::2], strict=True)
    return "\n".join("".join(" ▄▀█"[2 * int(top) + int(bottom)] for top, bottom in zip(*pair, strict=True)) for pair in pairs)
