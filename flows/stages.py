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
from typing import Any, Literal

if __name__ == "__main__":  # the orchestrator's code, whatever lies in the project's folder
    sys.path.insert(0, str(Path(__file__).parents[1]))

TRAINING = ("pretrain", "adapt", "finetune")
Found = Literal["unchanged", "restored", "stale"]
PLAN = "plan: "  # before the last line that `look` prints


def look(target: str) -> dict[str, Found]:
    """Stages that `target` needs, in order, and how it stands with each one's outputs.

    Stages that look at the outside, and so have no inputs to compare, are run. What the cache has of
    the others is put into the folder.

    Args:
        target: a stage as DVC addresses it, such as `report@text-mlm`.
    """
    import networkx
    from dvc.cli import main
    from dvc.repo import Repo
    from dvc.repo.reproduce import _reproduce_stage

    with Repo() as repo, repo.lock:
        (wanted,) = repo.stage.collect(target)
        graph = repo.index.graph  # edges point to what is needed
        order = [*networkx.dfs_postorder_nodes(graph, wanted)]
    for stage in order:
        if stage.always_changed and (code := main(["repro", "--single-item", stage.addressing])):
            sys.exit(code)
    found: dict[str, Found] = {}
    with Repo() as repo, repo.lock:
        stages = {stage.addressing: stage for stage in repo.index.stages}
        for stage in (stages[before.addressing] for before in order if not before.always_changed):
            found[stage.addressing], _ = _state(stage)
            if found[stage.addressing] == "restored":
                _reproduce_stage(stage)
    return found


def mend() -> None:
    """Remove DVC's list of who reads and writes what where a kill has cut it off: whom it named is gone."""
    from dvc.lock import make_lock
    from dvc.rwlock import RWLOCK_FILE, RWLOCK_LOCK

    place = Path(".dvc", "tmp")
    file = place / RWLOCK_FILE
    if not file.exists():
        return
    with make_lock(str(place / RWLOCK_LOCK), tmp_dir=str(place)):
        try:
            json.loads(file.read_bytes())
        except FileNotFoundError:
            return
        except ValueError:
            file.unlink()
            _say(f"{file} was cut off by a kill; it is begun anew")


def make(address: str, who: str, *, force: bool) -> int:
    """Bring one stage up to date; DVC's exit code."""
    from dvc.cli import main

    from flows import turns
    from tasks import layout

    order = ["repro", "--single-item", *(["--force"] if force else []), address]
    locks = layout.scratch() / "locks"
    with contextlib.ExitStack() as held:
        found, key = _now(address)
        if key is not None and (force or found == "stale"):
            what = f"makes {address} with the same inputs and settings; its result will do for this run"
            held.enter_context(turns.alone(locks / f"{key}.twin", who, what, _say))
            found, _ = _now(address)
        if address.partition("@")[0] in TRAINING and (force or found == "stale"):
            title = f"{address} of {who}"
            name = held.enter_context(turns.place(locks / "places", turns.machine_places(), title, _say))
            if name != turns.PROCESSOR:
                os.environ[turns.GPUS] = name
        return int(main(order))


def _now(address: str) -> tuple[Found, str | None]:
    from dvc.repo import Repo

    with Repo() as repo, repo.lock:
        (stage,) = repo.stage.collect(address)
        return _state(stage)


def _state(stage: Any) -> tuple[Found, str | None]:
    """How it stands with a stage, and what its inputs and settings hash to, where they are there."""
    from dvc.exceptions import DvcException
    from dvc.stage.cache import _can_hash, _get_stage_hash  # no public way; a test holds us to it

    before = [(dep, dep.hash_info, dep.meta) for dep in stage.deps]
    try:
        is_changed = stage.changed()
        stage.save_deps()
        if not _can_hash(stage):
            return ("stale" if is_changed else "unchanged"), None
        key, cache = _get_stage_hash(stage), stage.repo.stage_cache
        made = cache._load(stage)
        is_there = made is not None and cache._create_stage(made, wdir=stage.wdir).outs_cached()
        return ("unchanged" if not is_changed else "restored" if is_there else "stale"), key
    except (DvcException, OSError):  # an input is missing; DVC will say which
        return "stale", None
    finally:
        for dep, hash_info, meta in before:  # `save_deps` has written down what is there now
            dep.hash_info, dep.meta = hash_info, meta


def _say(line: str) -> None:
    print(line, flush=True)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    looking = commands.add_parser("look", help="print what has changed, as JSON in the last line")
    making = commands.add_parser("make", help="bring one stage up to date")
    making.add_argument("--who", default="another run", help="what others that wait are told")
    making.add_argument("--force", action="store_true", help="run it even where nothing has changed")
    for command in (looking, making):
        command.add_argument("target", help="a stage, such as pretrain@text-mlm")
    options = parser.parse_args()
    mend()
    if options.command == "make":
        return make(options.target, options.who, force=options.force)
    from dvc.exceptions import DvcException

    try:
        print(PLAN + json.dumps(look(options.target)), flush=True)
    except DvcException as error:
        print(error, file=sys.stderr)
        return 255
    return 0


if __name__ == "__main__":
    sys.exit(main())
