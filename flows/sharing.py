"""What a run has made, for other clones: its files at DVC's default remote, its branch at a git remote.

Switched on by `UNMASK_REMOTE`, the name of the git remote. Elsewhere then

    git fetch && git checkout origin/runs/notes-swift-otter -- params.yaml dvc.lock
    dvc pull --with-deps report@notes

brings the run back, and `python -m flows.trace --verify runs/notes-swift-otter` checks it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from flows import work, workspaces
from tasks.errors import InputError

REMOTE = "UNMASK_REMOTE"


def remote() -> str:
    """The git remote that runs are shared by; empty where they stay here."""
    return os.environ.get(REMOTE, "")


def share(
    project: Path, order: work.Order, branch: str, addresses: Sequence[str], say: Callable[[str], None]
) -> None:
    """Push a run: first its files, then the branch that names them.

    Args:
        project: the checkout that people work in.
        order: with the run's folder.
        branch: of the run.
        addresses: its last stages, as DVC addresses them.
        say: gets lines for people.

    Raises:
        InputError: a remote is not there or refuses; what was made stays here. Says how to push it later.
    """
    where = remote()
    try:
        work.push(order, addresses, say)
        own = {"GIT_TERMINAL_PROMPT": "0"}  # nobody is there to be asked
        own["GIT_SSH_COMMAND"] = os.environ.get("GIT_SSH_COMMAND", "ssh -o BatchMode=yes")
        workspaces.git(
            project, "push", "--quiet", "--force", where, f"refs/heads/{branch}:refs/heads/{branch}", env=own
        )
    except (work.StageFailed, InputError) as error:
        again = f"git push --force {where} {branch}"
        raise InputError(
            f"{branch} was not shared and stays on this machine: {error}\nWhen that is mended: "
            f"git checkout {branch} -- dvc.lock && dvc push --with-deps {' '.join(addresses)} && {again}"
        ) from error
    say(f"{branch} is shared by {where} and DVC's remote")
