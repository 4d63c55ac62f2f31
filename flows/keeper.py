"""Tidies up and looks around, every few seconds, beside the servers.

- Runs whose process is gone without a word are marked Crashed, so that Retry goes on from their
  checkpoint; their MLflow runs are closed.
- Folders of runs that ended long ago are removed.
- Where params.yaml or prefect.yaml has changed, the forms in Prefect's pages follow.
- Recipes with `watch: true` are trained again when their sources change.
"""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import time
from pathlib import Path

from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import StateType
from prefect.events import emit_event
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed

from flows import pages, workspaces
from flows.bringing import ALIVE
from tasks import delivery, layout, listing, params, spool, tracking
from tasks.errors import InputError

log = logging.getLogger(__name__)
EVERY_SECONDS = 15.0
KEPT_DAYS = 7.0  # folders of runs that failed, for another try
DEPLOYED = ("params.yaml", "prefect.yaml")
AT_WORK = [StateType.RUNNING, StateType.CANCELLING, StateType.PAUSED]


def mark_lost(client: SyncPrefectClient) -> list[str]:
    """Mark runs Crashed whose process is gone; their names."""
    wanted = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=AT_WORK)))
    lost = []
    for run in client.read_flow_runs(flow_run_filter=wanted):
        file = layout.scratch() / ALIVE / str(run.id)
        if file.exists() and spool.written_by_nobody(file):
            said = "its process is gone; Retry goes on from the checkpoint"
            client.set_flow_run_state(run.id, Crashed(message=said), force=True)
            lost.append(str(run.name))
    return lost


def remove_old(client: SyncPrefectClient, project: Path, days: float = KEPT_DAYS) -> list[str]:
    """Remove folders of runs that nobody can or will retry; their names."""
    removed = []
    for folder in sorted((layout.scratch() / "worktrees").glob("*")):
        age = time.time() - folder.stat().st_mtime
        try:
            run = client.read_flow_run(folder.name)  # type: ignore[arg-type]  # a UUID, as text
            is_over = run.state is not None and run.state.is_final() and age > days * 24 * 3600
        except ObjectNotFound:
            is_over = age > 3600
        if is_over:
            workspaces.closed(project, folder)
            removed.append(folder.name)
    for file in (layout.scratch() / ALIVE).glob("*"):
        if time.time() - file.stat().st_mtime > days * 24 * 3600 and spool.written_by_nobody(file):
            file.unlink(missing_ok=True)
    return removed


def send_left() -> None:
    """See that what dead stages have written reaches MLflow."""
    uri = tracking.tracking_uri()
    where = spool.folder(uri)
    if where.exists() and delivery.unsent(where):
        delivery.ensure_sender(where, uri)


def look_around(folder: Path) -> list[str]:
    """Recipes with `watch: true` whose sources have changed and hold still since the last look."""
    config = params.read_yaml(folder / "params.yaml")
    watched = [name for name, recipe in config.get("recipes", {}).items() if recipe.get("watch")]
    if not watched:
        return []
    corpora = params.load_corpora(folder / "params.yaml")
    changed = []
    for name in watched:
        slots = {config["recipes"][name][slot] for slot in ("general", "domain", "tasks")}
        seen = {slot: listing.list_corpus(slot, corpora[slot], []) for slot in sorted(slots)}
        file = layout.scratch() / "watch" / f"{name}.json"
        before = spool.load(file)
        now = {"known": before.get("known", seen), "seen": seen}
        if seen == before.get("seen") != before.get("known"):
            now["known"] = seen
            changed.append(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        spool.store(file, now)
    return changed


def told(recipe: str) -> None:
    """Say that a recipe has new data; Prefect then starts `retrain`."""
    emit_event("unmask.data.new", pages.resource(recipe), payload={"recipe": recipe})


def main() -> None:
    """Until stopped; what fails once is tried again at the next turn."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    project = Path.cwd()
    times = _times(project)
    with get_client(sync_client=True) as client:
        while True:
            try:
                for name in mark_lost(client):
                    log.info("%s: its process is gone; marked Crashed", name)
                for name in remove_old(client, project):
                    log.info("folder of run %s removed", name)
                send_left()
                if (now := _times(project)) != times:
                    times = now
                    subprocess.run([sys.executable, "-m", "flows.deploy"], check=True)
                    log.info("%s deployed anew", " and ".join(DEPLOYED))
                for recipe in look_around(project):
                    told(recipe)
                    log.info("%s has new data", recipe)
            except InputError as error:
                log.warning("%s", error)
            except Exception:  # a server that is away, a file that is half written
                log.exception("tried again in %.0f s", EVERY_SECONDS)
            time.sleep(EVERY_SECONDS)


def _times(project: Path) -> list[int]:
    with contextlib.suppress(FileNotFoundError):
        return [(project / name).stat().st_mtime_ns for name in DEPLOYED]
    return []


if __name__ == "__main__":
    if len(sys.argv) > 1:
        told(sys.argv[1])
    else:
        with contextlib.suppress(KeyboardInterrupt):
            main()
