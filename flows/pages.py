"""What a flow run shows in Prefect beside its log: progress, validation, report, summary."""

from __future__ import annotations

import base64
import contextvars
import json
import os
import re
import shutil
import threading
from pathlib import Path
from typing import Any

from prefect import get_run_logger
from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)

from tasks import layout

STEP = re.compile(r"\bstep\s+([\d,]+)\s*/\s*([\d,]+)")
EVERY_SECONDS = 2.0
MOST_PICTURES = 6


class Progress:
    """A bar in Prefect that follows "step 120/1000" in log lines.

    A thread of its own talks to the server: one that is away must not stop the reading of lines,
    for a stage blocks when nobody reads what it writes.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._percent = 0.0
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def hear(self, line: str) -> None:
        """Take note of a line."""
        if found := STEP.search(line):
            done, total = (int(number.replace(",", "")) for number in found.groups())
            self._percent = 100.0 * done / max(total, 1)
            if self._thread is None:
                context = contextvars.copy_context()
                self._thread = threading.Thread(target=context.run, args=(self._show,), daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Show the last state, unless the server is away."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _show(self) -> None:
        try:
            shown = self._percent
            name = key("progress", self._address)
            artifact: Any = create_progress_artifact(shown, key=name, description=self._address)
            while not self._over.wait(EVERY_SECONDS) or shown != self._percent:
                if shown != self._percent:
                    shown = self._percent
                    update_progress_artifact(artifact, shown)
        except Exception as error:
            get_run_logger().debug("progress is not shown: %s", error)


def validation(recipe: str, workspace: Path) -> None:
    """The result of the checks on the data, as a table."""
    path = workspace / layout.validated(recipe) / "validation.json"
    if not path.exists():
        return
    from tasks.validate import markdown  # its dependencies take seconds

    text = markdown(json.loads(path.read_text()))
    create_markdown_artifact(text, key=key("validation", recipe), description="Checks on the data")


def report(recipe: str, workspace: Path, title: str) -> None:
    """Where the page with the results is, and its pictures.

    Args:
        recipe: whose results.
        workspace: folder in which they lie, which goes with the run.
        title: of the run, under which a copy of the page stays.
    """
    folder = workspace / layout.run(recipe, "report")
    if not (folder / "report.html").exists():
        return
    page = _kept(folder / "report.html", title)
    run_id = mlflow_run(workspace / layout.record(recipe, "report"))
    server = os.environ.get("MLFLOW_TRACKING_URI", "")
    link = page.as_uri()
    if run_id and server.startswith("http"):
        link = f"{server}/get-artifact?path=report.html&run_uuid={run_id}"
    name = key("report", recipe)
    create_link_artifact(link, link_text=f"Report of {recipe}", key=name, description=str(page))
    for picture in _pictures(folder / "plots"):
        _show(picture, key(recipe, picture.stem))


def _pictures(plots: Path) -> list[Path]:
    """The figures of scores, and what is no figure but a picture."""
    found = sorted(plots.glob("*.png"))
    scores = [path for path in found if path.name.startswith("label-budgets")]
    return [*scores, *(path for path in found if not path.with_suffix(".svg").exists())][:MOST_PICTURES]


def _show(picture: Path, name: str) -> None:
    """A picture in the run's page, which holds it itself and asks no other server for it."""
    data = base64.b64encode(picture.read_bytes()).decode()
    create_image_artifact(f"data:image/png;base64,{data}", key=name, description=picture.stem)


def _kept(page: Path, title: str) -> Path:
    """A copy of a page that stays when the run's folder goes."""
    place = layout.scratch() / "pages" / key(title) / page.name
    place.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copyfile(page, place))


def comparison(title: str, made: Path) -> None:
    """Several recipes side by side: the tables, the figures, and where the page with both is.

    Args:
        title: of the run.
        made: the page that `tasks.compare` has written.
    """
    page = _kept(made, title)
    tables = made.with_suffix(".md").read_text(encoding="utf-8")
    create_markdown_artifact(tables, key="comparison", description=str(page))
    create_link_artifact(page.as_uri(), link_text=title, key="comparison-page", description=str(page))
    for picture in sorted(made.with_suffix(".plots").glob("*.png"))[:MOST_PICTURES]:
        _show(picture, key(picture.stem))


def summary(recipe: str, rows: list[dict[str, str]]) -> None:
    """Stages, what became of them, and how long they took."""
    lines = ["| stage | outcome | seconds |", "|---|---|---:|"]
    lines += [f"| {row['stage']} | {row['outcome']} | {row['seconds']} |" for row in rows]
    create_markdown_artifact("\n".join(lines), key=key("stages", recipe), description="Stages of this run")


def mlflow_run(record: Path) -> str | None:
    """MLflow's id of the run that made a stage's outputs."""
    try:
        return json.loads(record.read_text()).get("mlflow_run_id")
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def resource(name: str) -> dict[str, str]:
    """What an event is about, as Prefect wants it said."""
    return {"prefect.resource.id": f"unmask.{key(name)}", "prefect.resource.name": name}


def key(*words: str) -> str:
    """Words as a key of an artifact: small letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(words).lower()).strip("-")
