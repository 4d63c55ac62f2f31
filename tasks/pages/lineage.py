"""Where the numbers come from: commit, hashes, runs, versions, and what each stage cost."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.pages.evidence import Evidence


@dataclass(frozen=True)
class Cost:
    """What one stage took; fields that it does not count are None."""

    stage: str
    seconds: float | None
    samples: float | None
    units: float | None
    unit: str
    device: str
    memory: float | None

    @property
    def rate(self) -> float | None:
        """Units per second."""
        return self.units / self.seconds if self.units and self.seconds else None


@dataclass(frozen=True)
class Lineage:
    """Everything needed to find this run again, or to make it again."""

    commits: Mapping[str, list[str]]
    flow_run: str
    flow_url: str
    mlflow_runs: Mapping[str, str]
    versions: Mapping[str, str]
    command: str


def lineage(evidence: Evidence) -> Lineage:
    """The trail of a run, from its records and from this process's environment."""
    commits: dict[str, list[str]] = {}
    versions: dict[str, set[str]] = {}
    for stage, record in evidence.records.items():
        if record.get("git_commit"):
            commits.setdefault(str(record["git_commit"]), []).append(stage)
        for package, version in (record.get("versions") or {}).items():
            versions.setdefault(str(package), set()).add(str(version))
    here = git_commit()
    if here:
        commits.setdefault(here, []).append("report")
    return Lineage(
        commits=commits,
        flow_run=os.environ.get("UNMASK_FLOW_RUN_ID", ""),
        flow_url=_address(os.environ.get("UNMASK_FLOW_RUN_URL", "")),
        mlflow_runs={
            s: str(r["mlflow_run_id"]) for s, r in evidence.records.items() if r.get("mlflow_run_id")
        },
        versions={package: ", ".join(sorted(found)) for package, found in sorted(versions.items())},
        command=f"dvc repro report@{evidence.recipe}",
    )


def costs(records: Mapping[str, Mapping[str, Any]]) -> list[Cost]:
    """One line per stage that left a record."""
    return [
        Cost(
            stage=stage,
            seconds=record.get("seconds"),
            samples=record.get("samples"),
            units=record.get("units"),
            unit=str(record.get("unit") or ""),
            device=str(record.get("device") or ""),
            memory=record.get("peak_memory_bytes"),
        )
        for stage, record in records.items()
    ]


def all_units(spent: Sequence[Cost]) -> tuple[float, str] | None:
    """Units over all stages, where they are of one kind."""
    kinds = {cost.unit for cost in spent if cost.units}
    return (sum(cost.units or 0 for cost in spent), kinds.pop()) if len(kinds) == 1 else None


def git_commit() -> str:
    """The commit of the working tree, empty outside a repository."""
    command = ["git", "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""


def _address(url: str) -> str:
    return url if url.startswith(("http://", "https://")) else ""
