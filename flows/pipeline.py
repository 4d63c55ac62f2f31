"""The pipeline as a flow: DVC says which stages a recipe needs, Prefect runs, shows and stops them.

DVC alone decides what is up to date; nothing is cached here. Every stage is a process under a
supervisor, so that cancelling, a time limit, or the death of this process reaches the training.
"""

from __future__ import annotations

import argparse
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prefect import flow, get_run_logger, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.settings import (
    PREFECT_API_DATABASE_CONNECTION_URL,
    PREFECT_API_URL,
    PREFECT_SERVER_ALLOW_EPHEMERAL_MODE,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    PREFECT_UI_URL,
    temporary_settings,
)
from prefect.states import Completed
from prefect.utilities.names import generate_slug

from flows import pages, promotion, stages, turns, work, workspaces
from tasks import layout, tracking
from tasks.errors import InputError
from tasks.journal import Run
from tasks.overrides import parsed

DEFAULT_API = "http://127.0.0.1:4200/api"
STAGES = ("ingest", "validate", "prepare", "pretrain", "adapt", "finetune", "report")
STARTUP_SECONDS = 180  # of a temporary server; Prefect gives it 20, too few on two busy cores


def names(section: str, file: Path = Path("params.yaml")) -> tuple[str, ...]:
    """Entries of a section of params.yaml, read without checking the rest; none where there is no file."""
    from ruamel.yaml import YAML

    if not file.exists():
        return ()
    return tuple((YAML(typ="safe", pure=True).load(file) or {}).get(section) or ())


if TYPE_CHECKING:
    Recipe = str
    Encoder = str
    Stage = str
else:  # the form in the web page offers these, and the server refuses others
    Recipe = Literal[names("recipes")] if names("recipes") else str
    Encoder = Literal[names("encoders")] if names("encoders") else str
    Stage = Literal[STAGES[1:]]


def _run_name() -> str:
    return f"{runtime.flow_run.parameters['recipe']}-{generate_slug(2)}"


@flow(name="pipeline", flow_run_name=_run_name, persist_result=False)
def pipeline(
    recipe: Recipe,
    until: Stage = "report",
    redo_from: Stage | None = None,
    encoder: Encoder | None = None,
    changes: dict[str, Any] | None = None,
    apart: bool = True,
    workspace: str | None = None,
) -> dict[str, str]:
    """Bring a recipe's results up to date, from its sources to its report.

    Args:
        recipe: Entry of params.yaml's recipes.
        until: Last stage to run; those before it run as far as they are out of date.
        redo_from: Run this stage and those after it even where nothing has changed.
        encoder: Entry of params.yaml's encoders to use in this run; the recipe's own where none is given.
        changes: Other values for this run, such as {"pretrain.steps": 500, "seed": 3}; the recipe's own
            keys, or full ones such as encoders.bert-demo.config.hidden_size.
        apart: Work in a folder of its own, kept as branch runs/NAME; without it, in the project's folder.
        workspace: Folder of the project; the current one where none is given.

    Returns:
        What became of each stage: ran, restored or unchanged.
    """
    project = Path(workspace or ".").absolute()
    title = str(runtime.flow_run.name or recipe)
    flow_run_id, asked = str(runtime.flow_run.id), runtime.flow_run.parameters
    wanted = {**(changes or {}), **({"encoder": encoder} if encoder else {})}
    if wanted and not apart:
        raise InputError(
            "changes and encoder are for runs in a folder of their own; edit params.yaml instead"
        )
    with tracking.flow_run(title, asked, flow_run_id, tags=_tags(recipe)) as run:
        env = work.environment({**tracking.environment(run), **_address()})
        target = f"{until}@{recipe}"
        place = _apart(project, title, target, wanted, run) if apart else _here(project, title)
        with place as folder:
            order = work.Order(target, folder, env, title)
            outcomes = _stages(order, redo_from)
            _publish(recipe, folder, run, outcomes)
            mode = promotion.mode(recipe, folder) if until == "report" else "never"
            decision = promotion.judge(recipe, order) if mode != "never" else None
        if decision:
            result = promotion.follow(replace(order, workspace=project), decision, mode)
            run.tags({"promotion": result})
    return outcomes


@contextmanager
def _here(project: Path, title: str) -> Iterator[Path]:
    """The project's own folder, where one run works at a time."""
    lock = project / ".dvc" / "tmp" / "unmask.lock"
    with turns.alone(lock, title, f"works in {project}", get_run_logger().info):
        yield project


@contextmanager
def _apart(project: Path, title: str, target: str, changes: dict[str, Any], run: Run) -> Iterator[Path]:
    """A folder of this run's own; where the run fails it stays, for another try."""
    log = get_run_logger()
    recipe = target.partition("@")[2]
    folder = workspaces.opened(project, str(runtime.flow_run.id), recipe, changes)
    log.info("works in %s", folder)
    yield folder
    branch = workspaces.kept(project, folder, title, f"{title}: {target}")
    run.tags({"branch": branch})
    workspaces.closed(project, folder)
    log.info(
        "kept as %s; to have it: git checkout %s -- params.yaml dvc.lock && dvc checkout", branch, branch
    )


def _stages(order: work.Order, redo_from: str | None) -> dict[str, str]:
    """Run what is out of date. Once a stage has run, only DVC knows what that means for the rest."""
    outcomes: dict[str, str] = {}
    has_run = False
    for address, found in look(order).items():
        stage, _, name = address.partition("@")
        forced = redo_from is not None and STAGES.index(stage) >= STAGES.index(redo_from)
        known = found if found != "stale" and not forced and not has_run else None
        outcomes[address] = _task(stage, name, replace(order, address=address, force=forced), known)
        has_run = has_run or outcomes[address] == "ran"
    return outcomes


@task(task_run_name="look", cache_policy=NO_CACHE, persist_result=False)
def look(order: work.Order) -> dict[str, stages.Found]:
    """List the sources, ask DVC which stages are out of date, and take from its cache what it has."""
    log = get_run_logger()
    found = work.look(order, log.info)
    log.info("to run: %s", ", ".join(name for name, state in found.items() if state == "stale") or "nothing")
    return found


def _task(stage: str, name: str, order: work.Order, known: str | None) -> str:
    options = run_stage.with_options(name=stage, tags={stage, name})
    return str(options(order.address, order, known, return_state=True).result())


def _worth_another_try(_: Any, __: Any, state: State) -> bool:
    try:
        state.result()
    except work.StageFailed as failure:
        return failure.may_pass_next_time
    except Exception:
        return False
    return False


@task(
    task_run_name="{address}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=1,
    retry_delay_seconds=2,
    retry_condition_fn=_worth_another_try,
)
def run_stage(address: str, order: work.Order, known: str | None) -> Any:
    """Bring one stage of DVC up to date and show what it says; `known` says that nothing is to be done."""
    if known is not None:
        return Completed(name="Cached", message=f"DVC: {known}.", data=known)
    log = get_run_logger()
    progress = pages.Progress(address)

    def hear(line: str) -> None:
        log.info(line)
        progress.hear(line)

    stage, _, name = address.partition("@")
    try:
        outcome = work.run(order, hear)
    finally:
        progress.close()
        if stage == "validate":
            pages.validation(name, order.workspace)
    if outcome != "ran":
        return Completed(name="Cached", message=f"DVC: {outcome}.", data=outcome)
    return outcome


def _tags(recipe: str) -> dict[str, str]:
    address = _address()
    return {
        "recipe": recipe,
        "prefect.flow_run_id": str(runtime.flow_run.id),
        "prefect.url": address["UNMASK_FLOW_RUN_URL"],
    }


def _address() -> dict[str, str]:
    return {
        "UNMASK_FLOW_RUN_ID": str(runtime.flow_run.id),
        "UNMASK_FLOW_RUN_URL": f"{PREFECT_UI_URL.value() or ''}/runs/flow-run/{runtime.flow_run.id}",
    }


def _publish(recipe: str, folder: Path, run: Any, outcomes: dict[str, str]) -> None:
    """One row for the whole run: what became of each stage, and the numbers that matter of all of them."""
    import json

    rows = []
    versions = _versions(folder)
    for address, outcome in outcomes.items():
        stage, _, name = address.partition("@")
        record = folder / layout.record(name, stage)
        facts = json.loads(record.read_text()) if record.exists() else {}
        seconds = f"{facts['seconds']:.1f}" if "seconds" in facts else ""
        rows.append({"stage": address, "outcome": outcome, "seconds": seconds})
        made_by = facts.get("mlflow_run_id")
        origin = "" if outcome == "ran" or not made_by else f", made by {made_by}"
        run.tags({f"stage.{address}": outcome + origin, **versions.get(address, {})})
        metrics = folder / layout.metrics(name, stage)
        if name == recipe and metrics.exists():
            numbers = json.loads(metrics.read_text())
            run.log({f"{stage}.{metric}": value for metric, value in numbers.items()}, 0)
    pages.summary(recipe, rows)
    pages.report(recipe, folder)


def _versions(folder: Path) -> dict[str, dict[str, str]]:
    """DVC's hashes of what each stage made, as tags."""
    from ruamel.yaml import YAML

    lock = folder / "dvc.lock"
    stages = (YAML(typ="safe").load(lock) or {}).get("stages", {}) if lock.exists() else {}
    return {
        address: {f"dvc.{out['path']}": out["md5"] for out in entry.get("outs", ()) if "md5" in out}
        for address, entry in stages.items()
    }


# ---------------------------------------------------------------- the command line


def _answers(api: str) -> bool:
    try:
        with urllib.request.urlopen(f"{api}/health", timeout=2) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


@contextmanager
def server() -> Iterator[str | None]:
    """Talk to the Prefect server that answers, or to a temporary one whose runs later servers here know."""
    wanted = PREFECT_API_URL.value() or DEFAULT_API
    if _answers(wanted):
        with temporary_settings({PREFECT_API_URL: wanted}):
            yield wanted
        return
    print(
        f"No Prefect server answers at {wanted}: a temporary one starts for this run, "
        "which takes 20 s or more. `make ui` starts one that stays.",
        file=sys.stderr,
    )
    home = layout.scratch() / "prefect"
    home.mkdir(parents=True, exist_ok=True)
    database = f"sqlite+aiosqlite:///{home / 'prefect.db'}"
    settings = {
        PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: True,
        PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: STARTUP_SECONDS,
        PREFECT_API_DATABASE_CONNECTION_URL: database,
    }
    with temporary_settings(settings, restore_defaults={PREFECT_API_URL}):
        yield None


def main() -> int:
    """Command line: `python -m flows.pipeline <recipe> [--set pretrain.steps=500]`."""
    parser = argparse.ArgumentParser(description=(pipeline.__doc__ or "").splitlines()[0])
    parser.add_argument("recipe", choices=names("recipes") or None)
    parser.add_argument("--until", choices=STAGES[1:], default="report", help="last stage to run")
    parser.add_argument(
        "--redo-from", choices=STAGES[1:], help="run this stage and those after it in any case"
    )
    parser.add_argument(
        "--encoder", choices=names("encoders") or None, help="another encoder than the recipe's"
    )
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="other values for this run")
    parser.add_argument(
        "--apart", action="store_true", help="work in a folder of its own, as --set and --encoder do"
    )
    options = parser.parse_args()
    started = time.monotonic()
    try:
        changes = parsed(options.set)
        apart = bool(options.apart or changes or options.encoder)
        with server():
            outcomes = pipeline(
                options.recipe, options.until, options.redo_from, options.encoder, changes, apart
            )
    except work.StageFailed as failure:
        print(failure, file=sys.stderr)
        return failure.code if failure.code == work.VALIDATION_FAILED else 1
    except (InputError, work.NoPlan) as error:
        print(error, file=sys.stderr)
        return 1
    ran = [address for address, outcome in outcomes.items() if outcome == "ran"]
    what = f"{len(ran)} of {len(outcomes)} stages ran in {time.monotonic() - started:.0f} s"
    print(f"{what}: {', '.join(ran) or 'all is up to date'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
