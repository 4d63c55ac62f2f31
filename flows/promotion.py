"""After a run: is the new model better than the one in production, and who says that it takes its place?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from pydantic import Field

from flows import pages, work
from tasks import params

PATIENCE_SECONDS = 7 * 24 * 3600  # for a person's word


class Word(RunInput):
    """What a person says of a challenger."""

    promote: bool = Field(description="Make the new model the champion?")
    reason: str = Field("", description="Why; it is kept with the model.")


def mode(recipe: str, workspace: Path) -> str:
    """What params.yaml says: never, ask or auto."""
    entry = params.read_yaml(workspace / "params.yaml")["recipes"][recipe]
    return str((entry.get("promote") or {}).get("mode", "never"))


@task(task_run_name="judge {recipe}", cache_policy=NO_CACHE, persist_result=False)
def judge(recipe: str, order: work.Order) -> dict[str, Any]:
    """Enter the new model as challenger, and compare it with the champion on the same test rows."""
    log = get_run_logger()
    decision = work.promote(order, ["judge", recipe, "--json"], lambda _: None)
    create_markdown_artifact(
        decision["markdown"], key=pages.key("promotion", recipe), description="May the new model be champion?"
    )
    for check in decision["checks"]:
        log.info("%s, %s: %s", check["name"], check["outcome"], check["sentence"])
    return decision


@task(task_run_name="{word} {name}", cache_policy=NO_CACHE, persist_result=False)
def say(word: str, name: str, version: str, reason: str, order: work.Order) -> None:
    """Accept or refuse a challenger."""
    work.promote(order, [word, name, "--version", version, "--reason", reason], get_run_logger().info)


def follow(order: work.Order, decision: dict[str, Any], mode: str) -> str:
    """Promote, ask a person, or leave it; what became of it.

    Args:
        order: where to work.
        decision: of `judge`.
        mode: ask or auto.
    """
    if decision["result"] != "promote":
        return str(decision["result"])
    name, version, reason = decision["name"], decision["version"], "all checks passed"
    if mode == "ask":
        text = f"May version {version} of {name} be champion?\n\n{decision['markdown']}"
        emit_event("unmask.promotion.asked", pages.resource(name), payload={"question": text})
        word = pause_flow_run(Word.with_initial_data(text), timeout=PATIENCE_SECONDS)
        reason = f"a person: {word.reason}"
        if not word.promote:
            say("refuse", name, version, reason, order)
            return "refused by a person"
    say("accept", name, version, reason, order)
    return "promoted"
