"""Versions of the story's model on the disk: files that appear whole, where they come from, and what their baselines are made of."""

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from serve.demo.story.pictures import Pictures
from serve.demo.story.scale import Scale

MODEL = "digits"
LABEL = "digit"     # column of the truth


def write_model(repository: Path, scale: Scale, provenance: Mapping[str, str]) -> None:
    """The model's folder with its model.yaml; no version yet."""
    (repository / MODEL).mkdir(parents=True)
    _write_config(repository, {
        "description": "Handwritten digits of 8 x 8 pixels, as a scanner has them",
        # A new version is served when a rollout asks for it, not because it is there.
        "version_policy": {"specific": ["1"]},
        "monitoring": {
            "task": "classification", "prediction": "label", "scores": "probabilities",
            "window_s": scale.window_s, "min_rows": scale.min_rows, "min_psi": scale.min_psi, "alert_m": 2, "alert_n": 3,
        },
        "provenance": dict(provenance),
    })


def write_version(repository: Path, version: str, content: bytes, provenance: Mapping[str, str] | None = None) -> Path:
    """The version's folder appears when it is complete. provenance: what model.yaml says from now on."""
    folder = repository / MODEL / version
    unfinished = repository / f".{MODEL}-{version}-{os.getpid()}"
    unfinished.mkdir()
    try:
        (unfinished / "model.onnx").write_bytes(content)
        if provenance is not None:
            config = yaml.safe_load((repository / MODEL / "model.yaml").read_text(encoding="utf-8"))
            _write_config(repository, {**config, "provenance": dict(provenance)})
        unfinished.rename(folder)
    except OSError:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return folder


def write_pictures(path: Path, pictures: Pictures) -> str:
    """A Parquet file of columns `input` and `digit`. Returns sha256:<hex> of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = pa.FixedSizeListArray.from_arrays(pa.array(pictures.images.ravel()), pictures.images.shape[1])
    pq.write_table(pa.table({"input": images, LABEL: pictures.labels}), path)
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


def read_pictures(path: Path) -> Pictures:
    """What write_pictures wrote."""
    table = pq.read_table(path)
    images = table["input"].combine_chunks()
    width = images.type.list_size
    return Pictures(images.flatten().to_numpy().reshape(-1, width), table[LABEL].to_numpy())


def _write_config(repository: Path, config: Mapping[str, Any]) -> None:
    unfinished = repository / f".{MODEL}.yaml-{os.getpid()}"
    unfinished.write_text(yaml.safe_dump(dict(config), sort_keys=False, width=120), encoding="utf-8")
    unfinished.replace(repository / MODEL / "model.yaml")


__all__ = ["LABEL", "MODEL", "read_pictures", "write_model", "write_pictures", "write_version"]
