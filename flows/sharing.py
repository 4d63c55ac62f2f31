"""What a run has made, for other clones: its files at DVC's default remote, its branch at a git remote.

Switched on by `UNMASK_REMOTE`, the name of the git remote. Elsewhere then

    git fetch && git checkout origin/runs/notes-swift-otter -- .dvc/config params.yaml dvc.lock
    dvc pull --with-deps report@notes

brings the run back, and `python -m flows.trace --verify runs/notes-swift-otter` checks it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from flows import work, workspaces
from tasks.errors import InputError, unknown

REMOTE = "UNMASK_REMOTE"
CONNECTION = ("GIT_SSH", "GIT_SSL", "GIT_ASKPASS", "GIT_PROXY", "GIT_CONFIG")  # how git reaches a remote


def remote(project: Path) -> str:
    """The git remote that runs are shared by; empty where they stay here.

    Raises:
        InputError: git has no remote of that name.
    """
    name = os.environ.get(REMOTE, "")
    if name and name not in (names := workspaces.git(project, "remote").split()):
        raise InputError(f"{REMOTE}: {unknown('git remote', name, names)}")
    return name


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
    where = remote(project)
    own = {name: value for name, value in os.environ.items() if name.startswith(CONNECTION)}
    own["GIT_TERMINAL_PROMPT"] = "0"  # nobody is there to be asked
    push = ["push", "--quiet", "--force", where, f"refs/heads/{branch}:refs/heads/{branch}"]
    try:
        work.push(order, addresses, say)
        workspaces.git(project, *push, env=own)
    except (work.StageFailed, InputError) as error:
        again = f"dvc push --with-deps {' '.join(addresses)} && git push --force {where} {branch}"
        raise InputError(
            f"{branch} was not shared and stays on this machine: {error}\n"
            f"When that is mended: git checkout {branch} -- params.yaml dvc.lock && {again}"
        ) from error
    say(f"{branch} is shared by {where} and DVC's remote")
