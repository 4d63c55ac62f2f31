"""Tells Prefect what can be started: the pool, the deployments of prefect.yaml, and who is told of failures.

What somebody has changed in Prefect's pages stays; where nobody has, prefect.yaml is followed.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any, cast

from prefect import get_client
from prefect.automations import EventTrigger, Posture
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.events.actions import CallWebhook
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from pydantic import SecretStr

from flows.services import FOLDER, POOL
from tasks import layout, spool

if TYPE_CHECKING:
    from uuid import UUID

WEBHOOK = "UNMASK_WEBHOOK"  # address that failures, guards that acted and questions are posted to
FLOWS = {"train": "pipeline", "retrain": "retrain", "compare": "compare", "rollback": "rollback"}
TRIGGER = "new data"  # of prefect.yaml
MOST_AT_ONCE = 8  # runs, of which as many compute as the machine has places
TELL = "unmask: tell"
TOLD = {
    "prefect.flow-run.Failed", "prefect.flow-run.Crashed", "unmask.guard.acted", "unmask.promotion.asked",
    "unmask.run.unshared",
}  # fmt: skip


def main() -> None:
    """Bring the server's knowledge up to date with prefect.yaml and the environment."""
    with get_client(sync_client=True) as client:
        with contextlib.suppress(ObjectAlreadyExists):
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process", concurrency_limit=MOST_AT_ONCE))
        before = {name: _schedules(client, name) for name in FLOWS}
        is_off = [one for one in client.read_automations_by_name(TRIGGER) if not one.enabled]
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
        env = {name: value for name, value in os.environ.items() if name != FOLDER}  # left for each worker
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"prefect deploy: {(done.stdout + done.stderr).strip()}")
        for name in FLOWS:
            _keep_edits(client, name, before[name])
        for automation in client.read_automations_by_name(TRIGGER) if is_off else ():
            client.pause_automation(automation.id)
        if address := os.environ.get(WEBHOOK):
            _tell(client, address)


def _schedules(client: SyncPrefectClient, name: str) -> list[DeploymentSchedule]:
    try:
        return list(client.read_deployment_by_name(f"{FLOWS[name]}/{name}").schedules)
    except ObjectNotFound:
        return []


def _keep_edits(client: SyncPrefectClient, name: str, before: list[DeploymentSchedule]) -> None:
    """Put back the schedules that were added or changed in the pages since this was done last."""
    deployment = client.read_deployment_by_name(f"{FLOWS[name]}/{name}")
    file = layout.scratch() / "deployed" / f"{name}.json"
    known, now = spool.load(file), {one.slug: one for one in deployment.schedules}
    spool_now = {one.slug: _content(one) for one in deployment.schedules if one.slug}
    for old in before:
        if not old.slug:
            client.create_deployment_schedules(deployment.id, [(old.schedule, bool(old.active))])
        elif old.slug in now and old.slug in known and _content(old) != known[old.slug]:
            client.update_deployment_schedule(
                deployment.id, now[old.slug].id, active=old.active, schedule=old.schedule
            )
    file.parent.mkdir(parents=True, exist_ok=True)
    spool.store(file, spool_now)


def _content(schedule: DeploymentSchedule) -> dict[str, Any]:
    return {"active": schedule.active, "schedule": schedule.schedule.model_dump(mode="json")}


def _tell(client: SyncPrefectClient, address: str) -> None:
    """Post to an address what people should hear of."""
    from prefect.blocks.webhook import Webhook

    block = cast("UUID", Webhook(url=SecretStr(address)).save("unmask", overwrite=True))
    known = client.read_automations_by_name(TELL)
    trigger = EventTrigger(expect=TOLD, posture=Posture.Reactive, threshold=1)
    post = CallWebhook(block_document_id=block, payload="{{ event.resource.name }}: {{ event.payload }}")
    if not known:
        client.create_automation(AutomationCore(name=TELL, trigger=trigger, actions=[post]))
    for old in known:
        if isinstance(old.trigger, EventTrigger) and old.trigger.expect < TOLD:  # of a former version
            kept = AutomationCore(name=TELL, enabled=old.enabled, trigger=trigger, actions=old.actions)
            client.update_automation(old.id, kept)


if __name__ == "__main__":
    main()
