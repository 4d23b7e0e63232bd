"""`headrace init DIR --demo`: three models, a held-out data set beside them, nothing downloaded."""

import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from serve.errors import ConfigurationError

DATA = "_data"              # a repository ignores names that start with an underscore
DIGITS_DATA = Path(DATA) / "digits.npz"
MAGIKA_RULES = Path(DATA) / "magika.json"
_NEEDED = {"sklearn": "scikit-learn", "skl2onnx": "skl2onnx", "onnx": "onnx"}


def write_demo(folder: Path, say: Callable[[str], None]) -> None:
    """All or nothing: the folder appears when it is complete. Raises ConfigurationError for what is missing or in the way."""
    missing = [package for module, package in _NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise ConfigurationError(f"the demo needs {', '.join(missing)}: pip install {' '.join(missing)}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigurationError(f"{folder} is already there: remove it, or name another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        partial.chmod(0o755)
        (partial / DATA).mkdir()
        for write in (_write_digits, _write_normalise, _write_magika):
            write(partial, say)
        os.replace(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def write_empty(folder: Path, say: Callable[[str], None]) -> None:
    """An empty repository, and how to fill it. Raises ConfigurationError for what is in the way."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"{folder}: {error.strerror}") from error
    say(f"put models there as {folder}/NAME/1/model.onnx, with {folder}/NAME/model.yaml for what the file does not say")


def _write_digits(root: Path, say: Callable[[str], None]) -> None:
    import numpy as np

    from serve.demo.digits import train

    say("digits: training two versions on scikit-learn's handwritten digits")
    trained = train()
    for version, (model, accuracy) in trained.versions.items():
        _write_version(root / "digits", version, model)
        say(f"digits: version {version} is right on {accuracy:.1%} of {len(trained.labels)} held-out rows")
    np.savez(root / DIGITS_DATA, images=trained.images, labels=trained.labels)
    _write_config(root / "digits", {
        "description": "Handwritten digits, 8 x 8 pixels of 0 to 16, after scikit-learn's load_digits",
        "max_batch_size": 64,
        "version_policy": "all",
        "labels": {"stable": "2"},
        "class_labels": {"probabilities": [str(digit) for digit in range(10)]},
    })


def _write_normalise(root: Path, say: Callable[[str], None]) -> None:
    from serve.demo.normalise import build

    say("normalise: upper-cases text and counts its words")
    _write_version(root / "normalise", "1", build())
    _write_config(root / "normalise", {"description": "Text in upper case, and how many words it has", "max_batch_size": 64})


def _write_magika(root: Path, say: Callable[[str], None]) -> None:
    found = importlib.util.find_spec("magika")      # not imported: it would drag its own runtime in
    if found is None or not found.submodule_search_locations:
        say("magika: left out, it is not installed: pip install --no-deps magika")
        return
    package = Path(found.submodule_search_locations[0])
    source = max((package / "models").glob("*/model.onnx")).parent
    config = json.loads((source / "config.min.json").read_text(encoding="utf-8"))
    kinds = json.loads((package / "config" / "content_types_kb.min.json").read_text(encoding="utf-8"))
    say(f"magika: {source.name}, which names the types of {len(config['target_labels_space'])} kinds of file")
    _write_version(root / "magika", "1", (source / "model.onnx").read_bytes())
    _write_config(root / "magika", {
        "description": f"Type of a file from its first and last bytes: magika's {source.name} (Apache-2.0)",
        "max_batch_size": 64,
        "class_labels": {"target_label": config["target_labels_space"]},
    })
    rules = {key: config[key] for key in ("beg_size", "end_size", "block_size", "padding_token", "min_file_size_for_dl", "thresholds",
                                          "medium_confidence_threshold", "overwrite_map", "target_labels_space")}
    rules["text_labels"] = sorted(name for name, kind in kinds.items() if kind["is_text"])
    (root / MAGIKA_RULES).write_text(json.dumps(rules), encoding="utf-8")


def _write_version(model: Path, version: str, content: bytes) -> None:
    folder = model / version
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(content)


def _write_config(model: Path, config: dict[str, Any]) -> None:
    (model / "model.yaml").write_text(yaml.safe_dump(config, sort_keys=False, width=120), encoding="utf-8")
