"""After a run: is the new model better than the one in production, and who says that it takes its place?"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, runtime, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from pydantic import Field

from flows import lives, pages, turns, work
from tasks import layout, params

UNANSWERED, UNDER_WAY = "nobody answered", "another run asks already"
OPEN = (UNANSWERED, UNDER_WAY)  # outcomes after which the question remains
PATIENCE_SECONDS = 7 * 24 * 3600  # for a person's word
LOOK_SECONDS = 2  # between looks whether it is there


class Word(RunInput):
    """What a person says of a challenger."""

    promote: bool = Field(False, description="Make the new model the champion?")
    reason: str = Field("", description="Why; it is kept with the model.")


def judged(recipe: str, order: work.Order) -> dict[str, Any] | None:
    """The decision on a recipe's newest model; None where none is wanted, or where it has been followed."""
    mode = (params.read_yaml(order.workspace / "params.yaml")["recipes"][recipe].get("promote") or {}).get(
        "mode"
    )
    if mode not in ("ask", "auto"):
        return None
    model = pages.mlflow_run(order.workspace / layout.record(recipe, "finetune")) or ""
    if model and _followed(model).exists():
        return None
    return {**judge(recipe, order), "mode": mode, "model": model}


def _followed(model: str) -> Path:
    """A file that says that nothing remains to be done about the model of that run."""
    return layout.scratch() / "judged" / model


@task(task_run_name="judge {recipe}", cache_policy=NO_CACHE, persist_result=False)
def judge(recipe: str, order: work.Order) -> dict[str, Any]:
    """Enter the new model as challenger, and compare it with the champion on the same test rows."""
    log = get_run_logger()
    decision = work.judge(order, recipe, log.info)
    create_markdown_artifact(
        decision["markdown"], key=pages.key("promotion", recipe), description="May the new model be champion?"
    )
    for check in decision["checks"]:
        log.info("%s, %s: %s", check["name"], check["outcome"], check["sentence"])
    return decision


@task(task_run_name="{word} {name}", cache_policy=NO_CACHE, persist_result=False)
def say(word: str, name: str, more: list[str], order: work.Order) -> None:
    """Accept or refuse a challenger."""
    work.promote(order, [word, name, *more], get_run_logger().info)


def follow(order: work.Order, decision: dict[str, Any]) -> str:
    """Promote, ask a person, or leave it; what became of it.

    Args:
        order: where to work.
        decision: of `judged`.
    """
    result = str(decision["result"])
    if result == "promote":
        result = (
            _asked(order, decision)
            if decision["mode"] == "ask"
            else _said("accept", "all checks passed", order, decision)
        )
    if decision["model"] and result not in OPEN:
        _followed(decision["model"]).parent.mkdir(parents=True, exist_ok=True)
        _followed(decision["model"]).touch()
    return result


def _asked(order: work.Order, decision: dict[str, Any]) -> str:
    name, version = decision["name"], decision["version"]
    text = f"May version {version} of {name} be champion?\n\n{decision['markdown']}"
    with contextlib.ExitStack() as asking:
        lock = layout.scratch() / "locks" / f"{pages.key(name, version)}.asked"
        if not turns.at_once(lock, f"{name} {version}", asking):
            get_run_logger().info("another run asks about version %s of %s already", version, name)
            return UNDER_WAY
        emit_event("unmask.promotion.asked", pages.resource(name), payload={"question": text})
        try:
            shown = Word.with_initial_data(text)
            word = pause_flow_run(shown, timeout=PATIENCE_SECONDS, poll_interval=LOOK_SECONDS)
        except FlowPauseTimeout:
            get_run_logger().warning(
                "nobody has answered; python -m tasks.promote accept %s --version %s", name, version
            )
            return UNANSWERED
    return _said("accept" if word.promote else "refuse", f"a person: {word.reason}", order, decision)


def _said(word: str, reason: str, order: work.Order, decision: dict[str, Any]) -> str:
    more = ["--version", decision["version"], "--reason", reason]
    more += ["--against", decision["against"]] if word == "accept" else []
    say(word, decision["name"], more, order)
    return {"accept": "promoted", "refuse": "refused by a person"}[word]


@flow(name="rollback", flow_run_name="rollback {model}", persist_result=False)
def rollback(model: str) -> None:
    """Make the champion before the present one champion again.

    Args:
        model: Registered model; a recipe's name, unless its promote.name says otherwise.
    """
    run_id, log = str(runtime.flow_run.id), get_run_logger().info
    with lives.held(run_id, f"rollback {model}", log):
        order = work.Order("", Path.cwd(), work.environment({}))
        work.promote(order, ["rollback", "--by", run_id, "--", model], log)
