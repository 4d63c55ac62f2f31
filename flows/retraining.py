"""Recurring training: a tick of a schedule, or an event that says that there is new data.

A tick that finds nothing new ends as "Nothing new". Of ticks that come while one is at work, the first
waits, for what came meanwhile may be news, and the others end as "Superseded". Where the recipe says so, what
is new is learnt by the model in production, rather than everything from the beginning.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, runtime
from prefect.states import Completed

from flows import pages, turns
from flows.bringing import Wish, bring
from flows.forms import Recipe
from flows.pipeline import run_name
from tasks import layout, params


@flow(name="retrain", flow_run_name=run_name, persist_result=False)
def retrain(recipe: Recipe) -> Any:
    """Look for new data of a recipe, and bring its results up to date where there is some.

    Args:
        recipe: Entry of params.yaml's recipes.
    """
    title, locks = str(runtime.flow_run.name), layout.scratch() / "locks"
    with contextlib.ExitStack() as waiting:
        if not turns.at_once(locks / f"{pages.key(recipe)}.next", title, waiting):
            return Completed(name="Superseded", message="Another tick waits already, and will do the same.")
        turn = _turn(locks / f"{pages.key(recipe)}.retrain", title, waiting)
        asked = params.read_yaml(Path("params.yaml"))["recipes"][recipe].get("retrain") or {}
        outcomes = bring(Wish(recipe, Path.cwd(), onward=asked.get("start") == "champion"), turn)
    ran = [address for address, outcome in outcomes.items() if outcome == "ran"]
    if not ran:
        return Completed(name="Nothing new", message="No source and no setting has changed.")
    return Completed(message=f"made anew: {', '.join(ran)}")


@contextlib.contextmanager
def _turn(lock: Path, title: str, waiting: contextlib.ExitStack) -> Iterator[None]:
    """One training of a recipe at a time; whoever has the turn makes room for the next to wait."""
    with turns.alone(lock, title, "retrains this recipe", get_run_logger().info):
        waiting.close()
        yield
