"""What the forms in Prefect's pages offer; the server refuses anything else before a run exists.

Every choice has a word for "as it is", since the pages show an empty one as a choice between types.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from tasks import params

OWN = "the recipe's own"
NOTHING = "nothing"
LEAST_BUDGET, MOST_BUDGET = 0.001, 100.0
STAGES = ("ingest", "validate", "prepare", "pretrain", "adapt", "finetune", "report")


def names(section: str, file: Path = Path("params.yaml")) -> tuple[str, ...]:
    """Entries of a section of params.yaml, read without checking the rest; none where there is no file."""
    from ruamel.yaml import YAML

    if not file.exists():
        return ()
    return tuple((YAML(typ="safe", pure=True).load(file) or {}).get(section) or ())


def changed(recipe: str, encoder: str, budget: float, changes: dict[str, Any]) -> dict[str, Any]:
    """What a form asks for as other values for keys of params.yaml; what `changes` names counts first.

    Args:
        recipe: entry of params.yaml's recipes.
        encoder: another one than the recipe's, or `OWN`.
        budget: training steps, in times of the recipe's.
        changes: keys and values as they were given.
    """
    wanted: dict[str, Any] = {} if encoder == OWN else {"encoder": encoder}
    if budget != 1:
        settings = params.load().recipe(recipe)
        steps = {"pretrain": settings.pretrain.steps, "adapt": settings.adapt.steps}
        wanted |= {f"{stage}.steps": max(1, round(n * budget)) for stage, n in steps.items() if n}
    return wanted | changes


if TYPE_CHECKING:
    Recipe = str
    Recipes = list[str]
    Encoder = str
    Stage = str
    Redo = str
else:
    Recipe = Literal[names("recipes")] if names("recipes") else str
    Recipes = Annotated[list[Recipe], Field(min_length=2)]
    Encoder = Literal[(OWN, *names("encoders"))]
    Stage = Literal[STAGES[1:]]
    Redo = Literal[(NOTHING, *STAGES[1:])]
Budget = Annotated[float, Field(ge=LEAST_BUDGET, le=MOST_BUDGET)]
