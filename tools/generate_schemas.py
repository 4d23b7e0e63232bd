"""Write docs/schemas/*.schema.json from the documents that operators write; with --check, only say whether they are current."""

import argparse
import json
import pathlib
import sys

from pydantic import BaseModel

from serve.monitoring.gate_report import GateReport
from serve.monitoring.gate_settings import GateSettings
from serve.routing.experiment_plan import ExperimentPlan
from serve.routing.plan import RoutingPlan
from serve.routing.rollout_plan import RolloutPlan

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCUMENTS: dict[str, type[BaseModel]] = {
    "routing-plan": RoutingPlan, "rollout-plan": RolloutPlan, "experiment-plan": ExperimentPlan, "gate-settings": GateSettings,
    "gate-report": GateReport,
}


def schema_text(kind: type[BaseModel]) -> str:
    """The JSON Schema (draft 2020-12) of what the document may say. What only its validators know, such as sums, is not in it."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **kind.model_json_schema()}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def generate() -> dict[pathlib.Path, str]:
    """Path of each schema, and what belongs in it."""
    return {ROOT / "docs" / "schemas" / f"{name}.schema.json": schema_text(kind) for name, kind in DOCUMENTS.items()}


def main() -> int:
    """Exit status: 0 written or current, 1 out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 when a schema is out of date")
    check = parser.parse_args().check
    stale = {path: text for path, text in generate().items() if not path.exists() or path.read_text() != text}
    for path, text in stale.items():
        if check:
            print(f"{path.relative_to(ROOT)} is out of date: run tools/generate_schemas.py", file=sys.stderr)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return 1 if check and stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
