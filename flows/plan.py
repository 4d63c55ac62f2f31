"""What DVC would do for a target: its stages, inputs first, and which of them have changed.

    python flows/plan.py report@text-mlm

Run as a process in the project's folder, because DVC resolves its files against the current
directory, and because one look at all stages takes as long as one `dvc repro` of a single stage.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


class NoPlan(RuntimeError):
    """DVC cannot read the project, or knows no such stage; the message is DVC's."""


def plan(target: str, workspace: Path, environment: dict[str, str]) -> dict[str, bool]:
    """Stages that `target` needs, in order, and whether each one's outputs are out of date.

    Args:
        target: a stage as DVC addresses it, such as `report@text-mlm`.
        workspace: folder of `dvc.yaml`.
        environment: variables of the process that asks DVC.

    Raises:
        NoPlan: DVC does not know the target or cannot read its files.
    """
    done = subprocess.run(
        [sys.executable, "-P", __file__, target],
        cwd=workspace, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["DVC said nothing"]
        raise NoPlan(f"{target} in {workspace}: {said[-1]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Print the plan as JSON."""
    import networkx
    from dvc.repo import Repo

    with Repo() as repo, repo.lock:
        (target,) = repo.stage.collect(sys.argv[1])
        stages = networkx.dfs_postorder_nodes(repo.index.graph, target)  # edges point to what is needed first
        print(json.dumps({stage.addressing: bool(stage.status()) for stage in stages}))


if __name__ == "__main__":
    main()
