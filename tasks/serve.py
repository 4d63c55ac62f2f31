"""A registered model that answers over HTTP as `mlflow models serve` does, or a folder to take away.

    python -m tasks.serve notes                        # the champion of notes, at 127.0.0.1:5001
    curl -X POST 127.0.0.1:5001/reload                 # take up who is champion now
    python -m tasks.serve notes --take-away ./notes    # a folder that needs nothing of this project

A new champion is taken up without a request being missed: when the server is told to, and at the latest
when it next looks. Weights are safetensors, and the code that answers is this project's: none of what lies
beside them is run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import serving, tracking
from tasks.errors import InputError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from tasks.registry import Registry, Version

HOST, PORT = "127.0.0.1", 5001
LOOK_SECONDS = 30.0
PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "20", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
READ_ME = """\
# {name}, version {number}

Made by MLflow's run {run_id}. Needs Python 3.11 or newer and nothing but what `requirements.txt` lists:

    pip install -r requirements.txt
    mlflow models serve -m . --env-manager local -p 5001
    curl 127.0.0.1:5001/invocations -H 'Content-Type: application/json' -d @input_example.json

The weights in `{data}` open with `transformers` alone: `{architecture}.from_pretrained("{data}")`.
"""


class Champion:
    """An application that passes requests to the model which an alias names, and can take up another.

    Args:
        registry: where the model is.
        name: of the registered model.
        alias: of the version.

    Raises:
        InputError: no version has that alias.
    """

    def __init__(self, registry: Registry, name: str, alias: str) -> None:
        self._registry, self._name, self._alias = registry, name, alias
        self._change = threading.Lock()
        self.version: Version | None = None
        self._answers: FastAPI | None = None
        self.reload()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on."""
        assert self._answers is not None
        await self._answers(scope, receive, send)

    def reload(self) -> dict[str, str]:
        """Take up the version that the alias names now; which it is.

        Raises:
            InputError: no version has the alias, or another change is under way; nothing changes.
        """
        if not self._change.acquire(blocking=False):
            raise InputError("a change is under way; ask again")
        try:
            found = named(self._registry, self._name, self._alias)
            if self.version is None or found.number != self.version.number:
                self._answers, self.version = _application(found), found
            return {"name": found.name, "alias": self._alias, "version": found.number}
        finally:
            self._change.release()

    def follow(self, seconds: float) -> None:
        """Look for another version for ever; what goes wrong is told once, and changes nothing."""
        told = ""
        while True:
            time.sleep(seconds)
            before = self.version.number if self.version else ""
            try:
                after = self.reload()["version"]
            except Exception as error:
                if (said := f"{type(error).__name__}: {error}") != told:
                    print(f"version {before} goes on answering: {said}", file=sys.stderr, flush=True)
                told = said
                continue
            if after != before:
                print(f"version {after} answers now, in place of {before}", flush=True)


def named(registry: Registry, name: str, alias: str) -> Version:
    """The version that an alias names.

    Raises:
        InputError: there is none; says which versions were champion.
    """
    found = registry.aliased(name, alias)
    if found is None:
        champions = ", ".join(registry.champions(name)) or "none"
        raise InputError(f"{name} has no {alias}; versions that were champion: {champions}")
    return found


def _application(version: Version) -> FastAPI:
    """MLflow's scoring server over our own code and the version's weights."""
    from mlflow.models import Model
    from mlflow.pyfunc import PyFuncModel, scoring_server

    with tempfile.TemporaryDirectory() as folder:
        data = version.download(Path(folder))
        about = Model.load(str(data.parents[1]))
        made: FastAPI = scoring_server.init(PyFuncModel(about, serving.Answerer(data)))
    return made


def application(champion: Champion) -> FastAPI:
    """What is served: the model's answers, `GET /model` for which it is, and `POST /reload`."""
    from fastapi import FastAPI, HTTPException

    served = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @served.get("/model")
    async def model() -> dict[str, str]:
        assert champion.version is not None
        return {"name": champion.version.name, "version": champion.version.number}

    @served.post("/reload")
    async def reload() -> dict[str, str]:
        try:
            return await asyncio.to_thread(champion.reload)
        except Exception as error:  # the old one goes on answering
            told = f"{type(error).__name__}: {error}".splitlines()[0]
            raise HTTPException(503, f"nothing is changed: {told}") from error

    served.mount("/", champion)
    return served


def take_away(version: Version, folder: Path) -> None:
    """Write everything that answering needs into a new folder.

    Raises:
        InputError: the folder is there already.
    """
    if folder.exists():
        raise InputError(f"{folder} is there already; name a folder that is not")
    with tempfile.TemporaryDirectory() as aside:
        data = version.download(Path(aside))
        whole = data.parents[1]
        architecture = json.loads((data / "config.json").read_text(encoding="utf-8"))["architectures"][0]
        facts = {"name": version.name, "number": version.number, "run_id": version.run_id}
        told = READ_ME.format(**facts, data=data.relative_to(whole), architecture=architecture)
        (whole / "README.md").write_text(told, encoding="utf-8")
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(whole, folder)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.serve", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("name", help="registered model; the recipe's name, unless it says otherwise")
    parser.add_argument("--alias", default="champion", help="which version of it")
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--look", type=float, default=LOOK_SECONDS, help="seconds between looks for another")
    parser.add_argument("--take-away", type=Path, metavar="FOLDER", help="write a folder instead of serving")
    options = parser.parse_args(argv)
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    from tasks.registry import Registry, reachable

    uri = tracking.tracking_uri()
    try:
        with reachable(uri):
            registry = Registry(uri)
            if options.take_away:
                take_away(named(registry, options.name, options.alias), options.take_away)
                print(f"{options.take_away}: all that answering needs; its README.md says how")
                return
            champion = Champion(registry, options.name, options.alias)
    except InputError as error:
        sys.exit(f"serve: {error}")
    import uvicorn

    assert champion.version is not None
    print(f"version {champion.version.number} of {options.name} answers at http://{HOST}:{options.port}")
    threading.Thread(target=champion.follow, args=(options.look,), daemon=True).start()
    uvicorn.run(application(champion), host=HOST, port=options.port, log_level="warning", lifespan="off")


if __name__ == "__main__":
    main()
