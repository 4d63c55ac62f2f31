"""Tidies up and looks around, every few seconds, beside the servers.

- Runs whose process is gone without a word are marked Crashed, so that Retry goes on from their
  checkpoint; their MLflow runs are closed.
- Folders of runs that ended long ago are removed.
- Where params.yaml or prefect.yaml has changed, the forms in Prefect's pages follow.
- Recipes with `watch: true` are trained again when their sources change.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import StateType
from prefect.events import emit_event
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Crashed

from flows import lives, pages, workspaces
from flows.services import DEFAULT_API, answers
from tasks import delivery, layout, listing, params, spool, tracking
from tasks.config import SLOTS
from tasks.errors import InputError, unknown

log = logging.getLogger(__name__)
DAY = 24 * 3600
EVERY_SECONDS = 15.0
WATCH_SECONDS = 60.0
KEPT_DAYS = 7.0  # folders of runs that failed, for another try
DEPLOYED = ("params.yaml", "prefect.yaml")
AT_WORK = [StateType.RUNNING, StateType.CANCELLING, StateType.PAUSED]


class Lost:
    """Finds runs whose process is gone, in two looks: one that just ends has let go of its file, too."""

    def __init__(self) -> None:
        self._suspects: set[tuple[str, str]] = set()

    def mark(self, client: SyncPrefectClient) -> list[str]:
        """Mark them Crashed; their names."""
        wanted = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=AT_WORK)))
        suspects, marked = set(), []
        for run in client.read_flow_runs(flow_run_filter=wanted):
            suspect = (str(run.id), str(run.state_id))
            if not lives.is_lost(str(run.id)):
                continue
            suspects.add(suspect)
            if suspect in self._suspects and client.read_flow_run(run.id).state_id == run.state_id:
                said = "its process is gone; Retry goes on from the checkpoint"
                client.set_flow_run_state(run.id, Crashed(message=said))
                marked.append(str(run.name))
        self._suspects = suspects
        return marked


def remove_old(client: SyncPrefectClient, project: Path, days: float = KEPT_DAYS) -> list[str]:
    """Remove folders of runs that ended long ago; their names."""
    removed = []
    for folder in sorted((layout.scratch() / "worktrees").glob("*/")):
        if lives.at_work(folder.name) or _days_since_end(client, folder) <= days:
            continue
        workspaces.closed(project, folder)
        removed.append(folder.name)
    for file in lives.folder().glob("*"):
        if time.time() - file.stat().st_mtime > days * DAY and spool.written_by_nobody(file):
            file.unlink(missing_ok=True)
    return removed


def _days_since_end(client: SyncPrefectClient, folder: Path) -> float:
    """Of a run; of one that this server does not know, since its folder was touched."""
    try:
        run = client.read_flow_run(UUID(folder.name))
    except (ObjectNotFound, ValueError):
        return (time.time() - folder.stat().st_mtime) / DAY
    return (time.time() - run.end_time.timestamp()) / DAY if run.end_time else 0.0


def send_left() -> None:
    """See that what dead stages have written reaches MLflow."""
    uri = tracking.tracking_uri()
    where = spool.folder(uri)
    if where.exists() and delivery.unsent(where):
        delivery.ensure_sender(where, uri)


def look_around(folder: Path, tell: Callable[[str], None]) -> list[str]:
    """Tell of recipes with `watch: true` whose sources have changed and hold still since the last look."""
    config = params.read_yaml(folder / "params.yaml")
    watched = [name for name, recipe in config.get("recipes", {}).items() if recipe.get("watch")]
    corpora = params.load_corpora(folder / "params.yaml") if watched else {}
    changed = []
    for name in watched:
        slots = {config["recipes"][name][slot] for slot in SLOTS}
        complaints: list[str] = []
        seen = {slot: listing.list_corpus(slot, corpora[slot], complaints) for slot in sorted(slots)}
        if complaints:  # a disk or network that is away is no news
            log.warning("%s", "; ".join(complaints))
            continue
        file = layout.scratch() / "watch" / f"{name}.json"
        before = spool.load(file)
        known = before.get("known", seen)
        if seen == before.get("seen") and seen != known:
            tell(name)
            changed.append(name)
            known = seen
        file.parent.mkdir(parents=True, exist_ok=True)
        spool.store(file, {"known": known, "seen": seen})
    return changed


def told(recipe: str) -> None:
    """Say that a recipe has new data; Prefect then starts `retrain`."""
    emit_event("unmask.data.new", pages.resource(recipe), payload={"recipe": recipe})


def main(*, is_guest: bool) -> None:
    """Until stopped; what fails once is tried again at the next turn.

    Args:
        is_guest: whether this is not the servers' machine, whose keeper deploys and looks for new data.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    project, lost = Path.cwd(), Lost()
    times, last_look = _times(project), 0.0
    with get_client(sync_client=True) as client:
        while True:
            with _trying("marking lost runs"):
                for name in lost.mark(client):
                    log.info("%s: its process is gone; marked Crashed", name)
            with _trying("removing old folders"):
                for name in remove_old(client, project):
                    log.info("folder of run %s removed", name)
            with _trying("sending to MLflow"):
                send_left()
            with _trying("deploying"):
                if not is_guest and (now := _times(project)) != times:
                    subprocess.run([sys.executable, "-m", "flows.deploy"], check=True)
                    log.info("%s deployed anew", " and ".join(DEPLOYED))
                    times = now
            if not is_guest and time.monotonic() - last_look > WATCH_SECONDS:
                last_look = time.monotonic()
                with _trying("looking for new data"):
                    for recipe in look_around(project, told):
                        log.info("%s has new data", recipe)
            time.sleep(EVERY_SECONDS)


@contextlib.contextmanager
def _trying(what: str) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        log.warning("%s: %s", what, error)
    except Exception:  # a server that is away, a file that is half written
        log.exception("%s failed; it is tried again in %.0f s", what, EVERY_SECONDS)


def _times(project: Path) -> list[int]:
    with contextlib.suppress(FileNotFoundError):
        return [(project / name).stat().st_mtime_ns for name in DEPLOYED]
    return []


def tell_once(recipe: str) -> None:
    """Command line: say that a recipe has new data, to the server that PREFECT_API_URL names."""
    recipes = params.read_yaml(Path("params.yaml")).get("recipes", {})
    if recipe not in recipes:
        sys.exit(unknown("recipe", recipe, recipes))
    address = PREFECT_API_URL.value() or DEFAULT_API
    if not answers(f"{address}/health"):
        sys.exit(
            f"no Prefect server answers at {address}; `make ui` starts one, PREFECT_API_URL names another"
        )
    with temporary_settings({PREFECT_API_URL: address}):
        told(recipe)


def _command_line() -> None:
    about = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m flows.keeper", description=about)
    parser.add_argument("recipe", nargs="?", help="say once that this recipe has new data")
    parser.add_argument("--guest", action="store_true", help="the servers are another machine's")
    options = parser.parse_args()
    if options.recipe:
        tell_once(options.recipe)
    else:
        with contextlib.suppress(KeyboardInterrupt):
            main(is_guest=options.guest)


if __name__ == "__main__":
    _command_line()
