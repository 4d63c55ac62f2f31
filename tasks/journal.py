"""What a run says about itself while it works: metrics, parameters, inputs, files, models.

Every call appends to a file (see `tasks.spool`) and returns in microseconds; nothing here knows
MLflow or the network. Files are copied when they are named, so that what is sent later is what
was meant.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tasks import gauges, spool

MEASURE_EVERY_SECONDS = 10.0
SECRET_NAMES = re.compile(
    r"SECRET|TOKEN|PASSW|AUTH_STRING|CREDENTIAL|PRIVATE|(API|ACCESS)_?KEY", re.IGNORECASE
)
IN_ADDRESSES = (
    (re.compile(r"(\w+://)[^/@\s]+@"), r"\1***@"),
    (
        re.compile(r"([?&][\w-]*(?:sig|signature|token|key|secret|password)[\w-]*=)[^&\s]+", re.IGNORECASE),
        r"\1***",
    ),
)


class Run:
    """A tracked run, from the side that does the work.

    Args:
        file: where the run is written, or None where tracking is off: then every call does nothing.
        watch: called every ten seconds from a thread beside the work; keeps the sender alive.
    """

    def __init__(self, file: spool.Spool | None, watch: Callable[[], None] = lambda: None) -> None:
        self._file = file
        self._watch = watch
        self._mine: set[str] = set()
        self._complained = False
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def name(self) -> str:
        """The run's name before MLflow gives it an id; empty where tracking is off."""
        return self._file.name if self._file else ""

    @property
    def resumed(self) -> bool:
        """Whether an earlier process began this run."""
        return bool(self._file and self._file.resumed)

    def id(self, patience: float = 20.0) -> str | None:
        """MLflow's id of the run, or None while no server has given one.

        Args:
            patience: seconds to wait at most; the first run of a new database takes the longest.
        """
        deadline = time.monotonic() + patience
        while self._file:
            if run_id := spool.load(spool.state_file(self._file.path)).get("run_id"):
                return str(run_id)
            if time.monotonic() > deadline or spool.load(self._file.path.parent / "trouble").get("cause"):
                break
            time.sleep(0.05)
        return None

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Append scalars of one step. What an earlier process of this run has logged is left out."""
        if self._file is None:
            return
        newest, fresh = self._file.newest, {}
        for name, value in metrics.items():
            if step > newest.get(name, step - 1):
                newest[name] = step
                fresh[name] = float(value)
            elif name in self._mine and not self._complained:
                self._complained = True
                warnings.warn(
                    f"metric {name!r}: step {step} comes after step {newest[name]} and is left out; "
                    "steps of one metric must rise",
                    stacklevel=2,
                )
        if fresh:
            self._mine.update(fresh)
            self._file.append({"m": fresh, "s": step, "t": spool.now()})

    def goes_back(self) -> None:
        """From here on steps come a second time; they are left out until they pass the newest."""
        self._mine.clear()

    def params(self, settings: Mapping[str, Any]) -> None:
        """Settings, nested ones under dotted names, secrets masked."""
        self._append("params", {name: masked(value) for name, value in flat(settings).items()})

    def tags(self, tags: Mapping[str, str]) -> None:
        """Words to find the run by; a later value replaces an earlier one."""
        self._append("tags", {name: masked(str(value)) for name, value in tags.items()})

    def dataset(self, name: str, digest: str, source: str, context: str = "training") -> None:
        """Name what the run reads: any name, a hash of the content, and where it lies."""
        self._append(
            "dataset", {"name": name, "digest": digest[:36], "source": masked(source), "context": context}
        )

    def artifact(self, path: Path | str, folder: str = "") -> None:
        """Keep a copy of a file or folder with the run.

        Args:
            path: what to copy.
            folder: where to put it among the run's artifacts.
        """
        self._append("artifact", lambda: {"copy": self._copy(Path(path)), "folder": folder})

    def model(self, folder: Path | str, name: str, examples: Mapping[str, list[Any]]) -> None:
        """Keep a fine-tuned transformers model so that `mlflow models serve` can answer with it.

        Args:
            folder: what `save_pretrained` wrote, safetensors and tokenizer.
            name: name of the model within the run (the task's).
            examples: columns of a few inputs: `text`, or `question` and `text`.
        """
        self._append(
            "model", lambda: {"copy": self._copy(Path(folder)), "name": name, "examples": dict(examples)}
        )

    def measure_machine(self) -> None:
        """Log the machine's load every ten seconds until the run ends."""
        if self._file is not None:
            self._thread = threading.Thread(target=self._measure, name="gauges", daemon=True)
            self._thread.start()

    def end(self, status: str) -> None:
        """Close the run as FINISHED, FAILED or KILLED; all but the first can be gone on with."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        if self._file is not None:
            self._file.append({"end": status, "t": spool.now()})
            self._file.close()

    def _measure(self) -> None:
        measure = gauges.machine()
        newest = self._file.newest if self._file else {}
        step = 1 + max((newest[name] for name in newest if name.startswith("system/")), default=-1)
        while not self._over.wait(MEASURE_EVERY_SECONDS):
            self.log(measure(), step)
            self._watch()
            step += 1

    def _append(self, what: str, value: Any) -> None:
        if self._file is not None:
            self._file.append({what: value() if callable(value) else value, "t": spool.now()})

    def _copy(self, path: Path) -> str:
        assert self._file is not None
        numbers = spool.files(self._file.path)
        number = len(list(numbers.iterdir())) if numbers.exists() else 0
        target = numbers / str(number) / path.name
        target.parent.mkdir(parents=True)
        if path.is_dir():
            shutil.copytree(path, target)
        else:
            shutil.copyfile(path, target)
        return str(target.relative_to(numbers.parent))


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as one level of dotted names and written values."""
    out: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            out |= flat(value, f"{prefix}{name}.")
        else:
            out[prefix + name] = value if isinstance(value, str) else json.dumps(value)
    return out


def masked(text: str) -> str:
    """`text` without passwords in addresses and without the values of secret environment variables."""
    for pattern, kept in IN_ADDRESSES:
        text = pattern.sub(kept, text)
    for secret in _secrets():
        text = text.replace(secret, "***")
    return text


@functools.cache
def _secrets() -> tuple[str, ...]:
    return tuple(value for name, value in os.environ.items() if SECRET_NAMES.search(name) and len(value) >= 8)
