"""Several recipes, brought up to date in one folder and put on one page: which is worth its compute?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.utilities.names import generate_slug

from flows import bringing, chain, pages, work
from flows.forms import STAGES, Recipes
from tasks import layout, params
from tasks.errors import InputError


def run_name() -> str:
    """Two words behind what it is."""
    return f"compare-{generate_slug(2)}"


@flow(name="compare", flow_run_name=run_name, persist_result=False)
def compare(
    recipes: Recipes,
    changes: dict[str, Any] = {},  # noqa: B006 - never written to; None would be a choice of types in the form
) -> dict[str, str]:
    """Bring several recipes up to date, and put their scores, costs and health on one page.

    Args:
        recipes: Two or more entries of params.yaml's recipes with a labelled set in common.
        changes: Other values for each of them, such as {"pretrain.steps": 500}.

    Returns:
        What became of each stage: ran, restored or unchanged.
    """
    project, wanted = Path.cwd(), list(dict.fromkeys(recipes))
    _refuse(wanted)
    outcomes: dict[str, str] = {}
    failures: dict[str, work.StageFailed] = {}
    with (
        bringing.at_work({"recipe": " ".join(wanted)}) as here,
        bringing.apart(project, here.title, wanted, changes) as folder,
    ):
        for recipe in wanted:
            try:
                outcomes |= chain.run(here.order(f"{STAGES[-1]}@{recipe}", folder))
            except work.StageFailed as failure:  # the others are no worse for that
                get_run_logger().error("%s", failure)
                failures[recipe] = failure
        finished = [recipe for recipe in wanted if recipe not in failures]
        if finished:
            here.keep(project, folder, " ".join(f"{STAGES[-1]}@{recipe}" for recipe in finished))
        if len(finished) > 1:
            side_by_side(here.order("", folder), finished)
        if failures:
            raise next(iter(failures.values()))
    return outcomes


def _refuse(recipes: list[str]) -> None:
    """Say before anything is trained that there will be nothing to compare."""
    if len(recipes) < 2:
        raise InputError(f"recipes: {recipes[0]} alone; name two or more")
    settings = params.read_yaml(Path("params.yaml"))["recipes"]
    tasks = {recipe: settings[recipe]["tasks"] for recipe in recipes}
    if len(set(tasks.values())) > 1:
        told = ", ".join(f"{recipe}: {corpus}" for recipe, corpus in tasks.items())
        raise InputError(f"recipes with the same `tasks` can be compared; these have {told}")


@task(task_run_name="compare", cache_policy=NO_CACHE, persist_result=False)
def side_by_side(order: work.Order, recipes: list[str]) -> None:
    """The tables and the page of several finished recipes."""
    work.compare(order, recipes, get_run_logger().info)
    pages.comparison(str(runtime.flow_run.name), order.workspace / layout.comparison())
