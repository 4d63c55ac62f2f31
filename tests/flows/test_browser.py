"""What people do in Prefect's and MLflow's pages, done in a real browser on the real servers.

Where a test fails, what the browser showed lies as a picture in the folder that UNMASK_SCREENSHOTS names.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flows.deploy import FLOWS
from tests.flows.conftest import Project, wait_until
from tests.flows.test_pipeline import under_way
from tests.flows.test_production import champion, paused

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
PATIENCE = 180  # seconds; two cores run the servers, the browser and the flows

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=[*QUIET])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Page]:
    """A fresh window; what it shows at the end of a test that fails is kept."""
    window = browser.new_page(viewport={"width": 1400, "height": 1000})
    window.set_default_timeout(PATIENCE * 1000)
    outside: list[str] = []

    def note(request: Any, blocked: bool = False) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "data:", "blob:")):
            outside.append(request.url) if not blocked else outside.remove(request.url)

    window.on("request", note)
    window.on(
        "requestfailed", lambda request: note(request, blocked="csp" in (request.failure or "").lower())
    )
    refused: list[str] = []
    window.on(
        "response", lambda reply: refused.append(f"{reply.status} {reply.url}") if not reply.ok else None
    )
    failed_before = request.session.testsfailed
    yield window
    folder = Path(os.environ.get("UNMASK_SCREENSHOTS", tmp_path))
    failed = request.session.testsfailed > failed_before
    if failed:
        print(window.inner_text("body"), *refused, sep="\n")
    if failed or "UNMASK_SCREENSHOTS" in os.environ:
        folder.mkdir(parents=True, exist_ok=True)
        window.screenshot(path=folder / f"{request.node.name}.png")
    window.close()
    assert not outside, "pages that call home"


def deployment(project: Project, name: str) -> str:
    number = project.ask(f"deployments/name/{FLOWS[name]}/{name}")["id"]
    return f"{project.pages}/deployments/deployment/{number}"


def choose(page: Page, field: str, option: str) -> None:
    """Take an option of a field of the form."""
    page.get_by_role("button", name=f"Select {field}").click()
    page.get_by_role("option", name=option, exact=True).click()


def menu(page: Page, entry: str) -> Locator:
    """Take an entry of a run's menu; the dialog that follows."""
    page.get_by_role("button", name="Open menu").first.click()
    page.get_by_role("menuitem", name=entry, exact=True).click()
    return page.get_by_role("dialog").or_(page.get_by_role("alertdialog"))


def state(page: Page, name: str) -> Locator:
    return page.get_by_text(name, exact=True).first


def newest(project: Project, before: set[str]) -> str:
    """The run that the page has just asked for."""

    def new() -> list[str]:
        found = project.ask("flow_runs/filter", {"sort": "START_TIME_DESC"})
        return [run["id"] for run in found if run["id"] not in before]

    return str(wait_until(new, PATIENCE)[0])


def known(project: Project) -> set[str]:
    return {run["id"] for run in project.ask("flow_runs/filter", {})}


def test_form_starts_a_run_that_is_watched_to_its_end(project: Project, page: Page) -> None:
    before = known(project)
    page.goto(f"{deployment(project, 'train')}/run")
    page.get_by_text("Last stage to run; those before it run as far as they are out of date.").wait_for()
    page.get_by_role("button", name="Submit").click()
    page.get_by_text(re.compile("required", re.IGNORECASE)).first.wait_for()
    assert known(project) == before, "a form without a recipe starts nothing"
    page.reload()  # a form that has refused looks again only after a while
    choose(page, "recipe", "toy")
    page.get_by_role("button", name="Submit").click()
    run = newest(project, before)
    page.goto(f"{project.pages}/runs/flow-run/{run}")
    state(page, "Completed").wait_for()
    page.get_by_text("step 3/3 loss 0.333").first.wait_for()


def test_run_is_cancelled_and_tried_again(project: Project, page: Page) -> None:
    run = project.begin("train", recipe="slow", until="pretrain")
    wait_until(lambda: under_way(project), PATIENCE)
    page.goto(f"{project.pages}/runs/flow-run/{run}")
    state(page, "Running").wait_for()
    menu(page, "Cancel").get_by_role("button", name="Cancel Flow Run").click()
    state(page, "Cancelled").wait_for()
    reached = int((project.folder / "checkpoint.txt").read_text())
    assert reached > 0
    (project.folder / "step.txt").unlink()

    menu(page, "Retry").get_by_role("button", name="Retry").last.click()
    wait_until(lambda: under_way(project), PATIENCE)
    again = project.ask(f"flow_runs/{run}")
    assert (again["state"]["name"], again["run_count"]) == ("Running", 2)
    project.ask(f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    project.ended(run)


def test_schedule_is_switched_on_and_off(project: Project, page: Page) -> None:
    from playwright.sync_api import expect

    def is_active() -> bool:
        (found,) = project.ask("deployments/name/retrain/retrain")["schedules"]
        return bool(found["active"])

    page.goto(deployment(project, "retrain"))
    switch = page.get_by_role("switch", name=re.compile("toggle At"))
    assert not is_active()
    switch.click()
    wait_until(is_active)
    expect(switch).to_be_checked(timeout=PATIENCE * 1000)  # the page knows it, too
    expect(switch).to_be_enabled(timeout=PATIENCE * 1000)
    switch.click()
    wait_until(lambda: not is_active())


def test_person_approves_a_promotion_in_the_page(project: Project, page: Page) -> None:
    run = project.begin("train", recipe="notes", changes={"promote.name": "shown"})
    paused(project, run)
    page.goto(f"{project.pages}/runs/flow-run/{run}")
    dialog = menu(page, "Resume")
    dialog.get_by_text("Make the new model the champion?").wait_for()
    dialog.get_by_role("switch").first.click()
    dialog.get_by_role("textbox").last.fill("seen, and good")
    dialog.get_by_role("button", name="Resume", exact=True).click()
    dialog.wait_for(state="hidden")
    (over,) = project.ended(run)
    assert over["state"]["name"] == "Completed"
    assert champion(project, "shown") == "1"
    assert "seen, and good" in project.mlflow.client().get_model_version("shown", "1").tags["reason"]


def test_two_runs_stand_side_by_side_in_mlflow(project: Project, page: Page) -> None:
    runs = [project.begin("train", recipe="toy", changes={"pretrain.steps": steps}) for steps in (4, 5)]
    project.ended(*runs)

    def parents() -> list[str]:
        wanted = [
            project.mlflow.runs(f"tags.`prefect.flow_run_id` = '{run}' AND tags.recipe = 'toy'")
            for run in runs
        ]
        return [found[0].info.run_id for found in wanted] if all(wanted) else []

    ids = wait_until(parents, PATIENCE)
    experiment = project.mlflow.client().get_experiment_by_name("unmask").experiment_id
    asked = "%2C".join(f"%22{run}%22" for run in ids)
    page.goto(f"{project.mlflow.uri}/#/compare-runs?runs=[{asked}]&experiments=[%22{experiment}%22]")
    names = [project.mlflow.client().get_run(run).info.run_name for run in ids]
    for name in names:
        page.get_by_text(name).first.wait_for()
    page.get_by_text("pretrain.loss").first.wait_for()
