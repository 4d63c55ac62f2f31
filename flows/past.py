"""What was made and of what: dvc.lock, params.yaml and DVC's cache, as they are or were at a commit."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tasks.errors import InputError, unknown


@dataclass
class Project:
    """dvc.lock, params.yaml and DVC's cache, as they were at a commit.

    Attributes:
        folder: of the project.
        revision: git's commit; empty for the files as they lie there.
    """

    folder: Path
    revision: str = ""
    cache: Path = field(init=False)
    stages: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        from dvc.config import Config

        given = Config(str(self.folder / ".dvc"))["cache"].get("dir")
        self.cache = (
            Path(self.folder / ".dvc", given) if given else self.folder / ".dvc" / "cache"
        ).resolve()
        self.stages = dict(YAML(typ="safe").load(self.text("dvc.lock")).get("stages", {}))

    def text(self, name: str) -> str:
        """A file that git holds.

        Raises:
            InputError: there is none.
        """
        if not self.revision:
            try:
                return (self.folder / name).read_text(encoding="utf-8")
            except FileNotFoundError:
                raise InputError(f"{self.folder / name} is missing; nothing was run here yet") from None
        done = subprocess.run(
            ["git", "show", f"{self.revision}:{name}"],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise InputError(f"{name} at {self.revision[:12]}: {done.stderr.strip()}")
        return done.stdout

    def chain(self, address: str) -> list[str]:
        """The stages behind an address, what was needed first in front.

        Raises:
            InputError: it was never run.
        """
        if address not in self.stages:
            ran = sorted(name for name in self.stages if name.partition("@")[0] == address.partition("@")[0])
            raise InputError(f"dvc.lock: {unknown('stage', address, ran)}")
        made = {out["path"]: name for name, stage in self.stages.items() for out in stage.get("outs", ())}
        found: list[str] = []

        def visit(name: str) -> None:
            for dep in self.stages[name].get("deps", ()):
                for path in (dep["path"], *map(str, Path(dep["path"]).parents)):
                    if path in made and made[path] not in found:
                        visit(made[path])
            found.append(name)

        visit(address)
        return list(dict.fromkeys(found))

    def stale(self, address: str) -> Iterator[str]:
        """Inputs of a stage that were made anew since it ran."""
        outs = [out for stage in self.stages.values() for out in stage.get("outs", ()) if "md5" in out]
        files = {out["path"]: out["md5"] for out in outs}
        for dep in self.stages[address].get("deps", ()):
            path = dep["path"]
            for out in outs:
                if path.startswith(f"{out['path']}/"):
                    files |= self.objects(out)
            if path in files and files[path] != dep.get("md5"):
                yield f"{path}: was made anew since {address} ran, and is not what it read"

    def objects(self, out: Mapping[str, Any]) -> dict[str, str]:
        """Path and md5 of every file of an output; of a folder that the cache has lost, nothing."""
        if not out["md5"].endswith(".dir"):
            return {out["path"]: out["md5"]}
        listed = self.cached(out["md5"])
        if not listed.exists() or md5(listed) + ".dir" != out["md5"]:
            return {}
        return {f"{out['path']}/{entry['relpath']}": entry["md5"] for entry in json.loads(listed.read_text())}

    def cached(self, md5: str) -> Path:
        """Where the cache keeps what hashes to that."""
        return self.cache / "files" / "md5" / md5[:2] / md5[2:]

    def made(self, address: str, path: str) -> dict[str, Any] | None:
        """A JSON file that a stage has made, from the cache."""
        for out in self.stages.get(address, {}).get("outs", ()):
            md5 = self.objects(out).get(path) if "md5" in out else None
            if md5 and self.cached(md5).exists():
                return dict(json.loads(self.cached(md5).read_text(encoding="utf-8")))
        return None


def md5(path: Path) -> str:
    """Of a file's bytes, as DVC counts it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def md5_of_folder(folder: Path) -> str:
    """Of a folder of code, as DVC counts it: of the list of its files and their hashes."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]
    entries = [{"md5": md5(path), "relpath": path.relative_to(folder).as_posix()} for path in files]
    entries.sort(key=lambda entry: entry["relpath"])
    return hashlib.md5(json.dumps(entries, sort_keys=True).encode()).hexdigest() + ".dir"
