"""Tells Prefect what can be started: the pool, the deployments of prefect.yaml, and who is told of failures.

Schedules that were changed in Prefect's pages stay as they are there.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, cast

from prefect import get_client
from prefect.automations import EventTrigger, Posture
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import DeploymentSchedule, StateType
from prefect.events.actions import CallWebhook, ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from pydantic import SecretStr

from flows.ui import POOL

if TYPE_CHECKING:
    from uuid import UUID

WEBHOOK = "UNMASK_WEBHOOK"  # address that failures, guards that acted and questions are posted to
FLOWS = {"train": "pipeline", "retrain": "retrain"}
MOST_AT_ONCE = 8  # runs, of which as many compute as the machine has places
TOLD = {"prefect.flow-run.Failed", "prefect.flow-run.Crashed", "unmask.guard.acted", "unmask.promotion.asked"}
ENDS = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
LOST_SECONDS = 90  # without a heartbeat, of which a run sends one every 30 s


def main() -> None:
    """Bring the server's knowledge up to date with prefect.yaml and the environment."""
    with get_client(sync_client=True) as client:
        with contextlib.suppress(ObjectAlreadyExists):
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process", concurrency_limit=MOST_AT_ONCE))
        before = {name: _schedules(client, name) for name in FLOWS}
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
        here = {**os.environ, "PWD": str(Path.cwd())}  # which prefect.yaml has runs start in
        done = subprocess.run(command, env=here, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"prefect deploy: {(done.stdout + done.stderr).strip()}")
        for name, schedules in before.items():
            now = _schedules(client, name)
            deployment = client.read_deployment_by_name(f"{FLOWS[name]}/{name}").id
            for slug, known in schedules.items():
                if slug in now:
                    client.update_deployment_schedule(
                        deployment, now[slug].id, active=known.active, schedule=known.schedule
                    )
        for automation in _automations(client):
            for old in client.read_automations_by_name(automation.name):
                client.delete_automation(old.id)
            client.create_automation(automation)


def _schedules(client: SyncPrefectClient, name: str) -> dict[str, DeploymentSchedule]:
    try:
        found = client.read_deployment_by_name(f"{FLOWS[name]}/{name}").schedules
    except ObjectNotFound:
        return {}
    return {schedule.slug: schedule for schedule in found if schedule.slug}


def _automations(client: SyncPrefectClient) -> list[AutomationCore]:
    """What follows by itself: lost runs are marked, and people are told."""
    beat, each = "prefect.flow-run.heartbeat", {"prefect.resource.id"}
    lost = EventTrigger(
        after={beat}, expect={beat, *ENDS}, for_each=each,
        posture=Posture.Proactive, threshold=1, within=timedelta(seconds=LOST_SECONDS),
    )  # fmt: skip
    said = "Its process is gone; Retry goes on from the checkpoint."
    mark = ChangeFlowRunState(state=StateType.CRASHED, name=None, message=said, force=True)
    automations = [AutomationCore(name="unmask: lost runs", trigger=lost, actions=[mark])]
    if address := os.environ.get(WEBHOOK):
        from prefect.blocks.webhook import Webhook

        block = cast("UUID", Webhook(url=SecretStr(address)).save("unmask", overwrite=True))
        told = EventTrigger(expect=TOLD, posture=Posture.Reactive, threshold=1)
        post = CallWebhook(block_document_id=block, payload="{{ event.resource.name }}: {{ event.payload }}")
        automations.append(AutomationCore(name="unmask: tell", trigger=told, actions=[post]))
    return automations


if __name__ == "__main__":
    main()
