"""What is published about plans is true: examples, schemas, the diagram, the guide."""

import re
from pathlib import Path

import pytest

from serve.routing.dialects import ModelContext, dialect_of, parse
from serve.routing.documents import read_document
from serve.routing.plan import RoutingPlan
from serve.routing.rollout_plan import RolloutPlan, load_rollout_plan
from serve.routing.rollout_state import Phase
from tools.generate_rollout_diagram import TARGET, page
from tools.generate_schemas import DOCUMENTS, generate

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "docs" / "examples" / "rollouts"
GUIDE = (ROOT / "docs" / "rollouts.md").read_text()
DIGITS = ModelContext("digits", versions=("1", "2", "3"), stable="1", candidate="2")
# dialect -> what the guide says that its example becomes
BECOMES = dict(re.findall(r"<!-- dialect: (\w+) -->\n```yaml\n(.*?)```", GUIDE, re.DOTALL))


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_example_is_read_and_survives_its_own_document(path: Path) -> None:
    assert f"(examples/rollouts/{path.name})" in GUIDE
    plan = parse(path.read_text(), DIGITS)
    assert type(plan).model_validate_json(plan.model_dump_json()) == plan
    if path.stem not in BECOMES:
        assert load_rollout_plan(path.read_text()) == plan


@pytest.mark.parametrize("dialect", ["argo", "seldon", "databricks", "sagemaker", "kserve"])
def test_dialect_becomes_what_the_guide_says(dialect: str) -> None:
    text = (EXAMPLES / f"{dialect}.yaml").read_text()
    assert dialect_of(read_document(text)) == dialect
    plan = parse(text, DIGITS)
    assert isinstance(plan, RolloutPlan if dialect in {"argo", "sagemaker"} else RoutingPlan)
    assert parse(read_document(BECOMES[dialect])["becomes"], DIGITS) == plan


def test_schemas_and_diagram_are_current() -> None:
    for path, text in generate().items():
        assert path.read_text() == text, f"{path.name} is out of date: run tools/generate_schemas.py"
    assert TARGET.read_text() == page(), "docs/rollout-states.md is out of date: run tools/generate_rollout_diagram.py"


def test_guide_names_every_field_and_state() -> None:
    for name in RolloutPlan.model_fields:
        assert f"`{name}`" in GUIDE
    for phase in Phase:
        assert f"**{phase}**" in GUIDE or f"`{phase}`" in GUIDE


def test_schemas_refuse_unknown_fields_at_every_level() -> None:
    for kind in DOCUMENTS.values():
        schema = kind.model_json_schema()
        objects = [schema, *schema.get("$defs", {}).values()]
        assert all(found.get("additionalProperties") is False for found in objects if found.get("type") == "object")
