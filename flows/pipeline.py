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

from flows import pages, work
from flows.plan import NoPlan, plan
from tasks import layout, tracking
from tasks.errors import InputError

DEFAULT_API = "http://127.0.0.1:4200/api"
STAGES = ("ingest", "validate", "prepare", "pretrain", "adapt", "finetune", "report")
STARTUP_SECONDS = 180  # of a temporary server; Prefect gives it 20, too few on two busy cores


def recipes(params: Path = Path("params.yaml")) -> tuple[str, ...]:
    """Names of the recipes, read without checking the rest of the file; none where there is no file."""
    from ruamel.yaml import YAML

    if not params.exists():
        return ()
    return tuple((YAML(typ="safe", pure=True).load(params) or {}).get("recipes") or ())


if TYPE_CHECKING:
    Recipe = str
    Stage = str
else:  # the form in the web page offers these, and the server refuses others
    Recipe = Literal[recipes()] if recipes() else str
    Stage = Literal[STAGES[1:]]


def _run_name() -> str:
    return f"{runtime.flow_run.parameters['recipe']}-{generate_slug(2)}"


@flow(name="pipeline", flow_run_name=_run_name, persist_result=False)
def pipeline(
    recipe: Recipe, until: Stage = "report", force: bool = False, workspace: str | None = None
) -> dict[str, str]:
    """Bring a recipe's results up to date, from its sources to its report.

    Args:
        recipe: Entry of params.yaml's recipes.
        until: Last stage to run; those before it run as far as they are out of date.
        force: Run the last stage even where nothing has changed.
        workspace: Folder of dvc.yaml; the current one where none is given.

    Returns:
        What became of each stage: ran, restored or unchanged.
    """
    folder = Path(workspace or ".").absolute()
    log = get_run_logger()
    title = str(runtime.flow_run.name or recipe)
    flow_run_id, asked = str(runtime.flow_run.id), runtime.flow_run.parameters
    with (
        work.alone(folder, title, log.info),
        tracking.flow_run(title, asked, flow_run_id, tags=_tags(recipe)) as run,
    ):
        env = work.environment({**tracking.environment(run), **_address()})
        outcomes = _stages(f"{until}@{recipe}", folder, env, force)
        _publish(recipe, folder, run, outcomes)
    return outcomes


def _stages(target: str, folder: Path, env: dict[str, str], force: bool) -> dict[str, str]:
    """Run what DVC's plan names. Once a stage has run, only DVC knows what that means for the rest."""
    outcomes: dict[str, str] = {}
    planned = plan(target, folder, env)
    known = True
    for address in planned:
        stage, _, name = address.partition("@")
        if (
            not name and planned[address]
        ):  # the stage that looks for new data runs always, and mostly finds none
            outcomes[address] = _task(stage, name, work.Order(address, folder, env), True)
            planned |= plan(target, folder, env)
            continue
        forced = force and address == target
        needed = forced or planned[address] or not known
        outcomes[address] = _task(stage, name, work.Order(address, folder, env, forced), needed)
        known = known and outcomes[address] == "unchanged"
    return outcomes


def _task(stage: str, name: str, order: work.Order, needed: bool) -> str:
    options = run_stage.with_options(name=stage, tags={stage, *([name] if name else [])})
    return str(options(order.address, order, needed, return_state=True).result())


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
def run_stage(address: str, order: work.Order, needed: bool) -> Any:
    """Bring one stage of DVC up to date and show what it says."""
    if not needed:
        return Completed(name="Cached", message="Nothing it reads has changed.", data="unchanged")
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
    if stage == "report":
        pages.report(name, order.workspace)
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
    """Command line: `python -m flows.pipeline <recipe> [--until STAGE] [--force]`."""
    parser = argparse.ArgumentParser(description=(pipeline.__doc__ or "").splitlines()[0])
    parser.add_argument("recipe", choices=recipes() or None)
    parser.add_argument("--until", choices=STAGES[1:], default="report")
    parser.add_argument("--force", action="store_true", help="run the last stage in any case")
    options = parser.parse_args()
    started = time.monotonic()
    try:
        with server():
            outcomes = pipeline(options.recipe, options.until, options.force)
    except work.StageFailed as failure:
        print(failure, file=sys.stderr)
        return failure.code if failure.code == work.VALIDATION_FAILED else 1
    except (InputError, NoPlan) as error:
        print(error, file=sys.stderr)
        return 1
    ran = [address for address, outcome in outcomes.items() if outcome == "ran"]
    what = f"{len(ran)} of {len(outcomes)} stages ran in {time.monotonic() - started:.0f} s"
    print(f"{what}: {', '.join(ran) or 'all is up to date'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
