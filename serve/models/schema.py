"""Prints the JSON Schema of model.yaml: `python -m serve.models.schema > docs/model.schema.json`."""

import json

from serve.models.config import ModelConfig


def model_schema() -> str:
    """The text of docs/model.schema.json."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **ModelConfig.model_json_schema(), "title": "model.yaml"}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(model_schema(), end="")
