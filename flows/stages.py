"""What DVC does for a flow: say what has changed, and bring one stage up to date in its turn.

    python flows/stages.py look report@text-mlm
    python flows/stages.py make pretrain@text-mlm --who "text-mlm-swift-otter"

Run as a process in the project's folder, because DVC resolves its files against the current
directory. Of several runs that need the same stage with the same inputs and settings, one makes it
and the others take it from the cache; what trains waits for a place on the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the orchestrator's code, whatever lies in the project's folder
    sys.path.insert(0, str(Path(__file__).parents[1]))

TRAINING = ("pretrain", "adapt", "finetune")
PLAN = "plan: "  # before the last line that `look` prints


def look(target: str, *, restore: bool) -> dict[str, bool]:
    """Stages that `target` needs, in order, and whether each one's outputs are out of date.

    Stages that look at the outside, and so have no inputs to compare, are run.

    Args:
        target: a stage as DVC addresses it, such as `report@text-mlm`.
        restore: whether to put what the cache holds of their outputs into the folder first.
    """
    import networkx
    from dvc.cli import main
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    with Repo() as repo, repo.lock:
        (wanted,) = repo.stage.collect(target)
        graph = repo.index.graph  # edges point to what is needed
        order = {
            stage.addressing: stage.always_changed for stage in networkx.dfs_postorder_nodes(graph, wanted)
        }
    for address in filter(order.get, order):
        if code := main(["repro", "--single-item", address]):
            sys.exit(code)
    with Repo() as repo, repo.lock:
        stages = {stage.addressing: stage for stage in repo.index.stages}
        for address in order if restore else ():
            with contextlib.suppress(DvcException, OSError):  # what the cache does not have is out of date
                repo.stage_cache.restore(stages[address])
        return {address: not order[address] and bool(stages[address].status()) for address in order}


def make(address: str, who: str, *, force: bool) -> int:
    """Bring one stage up to date; DVC's exit code."""
    from dvc.cli import main

    from flows import turns
    from tasks import layout

    order = ["repro", "--single-item", *(["--force"] if force else []), address]
    locks = layout.scratch() / "locks"
    with contextlib.ExitStack() as held:
        if (key := _state(address)["key"]) is not None:
            what = f"makes {address} with the same inputs and settings; its result will do for this run"
            held.enter_context(turns.alone(locks / f"{key}.twin", who, what, _say))
        if address.partition("@")[0] in TRAINING and (force or _state(address)["must_run"]):
            title = f"{address} of {who}"
            name = held.enter_context(turns.place(locks / "places", turns.machine_places(), title, _say))
            if name.isdigit():
                os.environ["CUDA_VISIBLE_DEVICES"] = name
        return int(main(order))


def _state(address: str) -> dict[str, Any]:
    """What the stage's inputs and settings hash to, and whether neither folder nor cache has its outputs."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.stage.cache import _can_hash, _get_stage_hash  # no public way; a test holds us to it

    with Repo() as repo, repo.lock:
        (stage,) = repo.stage.collect(address)
        is_changed = stage.changed()
        try:
            stage.save_deps()
        except DvcException:  # an input is missing; DVC will say which
            return {"key": None, "must_run": True}
        if not _can_hash(stage):
            return {"key": None, "must_run": is_changed}
        made = repo.stage_cache._load(stage)
        is_there = made is not None and repo.stage_cache._create_stage(made, wdir=stage.wdir).outs_cached()
        return {"key": _get_stage_hash(stage), "must_run": is_changed and not is_there}


def _say(line: str) -> None:
    print(line, flush=True)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    looking = commands.add_parser("look", help="print what has changed, as JSON in the last line")
    looking.add_argument("--restore", action="store_true", help="first take what the cache has")
    making = commands.add_parser("make", help="bring one stage up to date")
    making.add_argument("--who", default="another run", help="what others that wait are told")
    making.add_argument("--force", action="store_true", help="run it even where nothing has changed")
    for command in (looking, making):
        command.add_argument("target", help="a stage, such as pretrain@text-mlm")
    options = parser.parse_args()
    if options.command == "make":
        return make(options.target, options.who, force=options.force)
    from dvc.exceptions import DvcException

    try:
        print(PLAN + json.dumps(look(options.target, restore=options.restore)), flush=True)
    except DvcException as error:
        print(error, file=sys.stderr)
        return 255
    return 0


if __name__ == "__main__":
    sys.exit(main())
