"""Models in MLflow's registry: which one is champion, what it answered on the test rows, and who was before.

A registered model is what `tasks.mlflow_runs` has kept of a run; nothing is copied. Beside a version lie
its answers on the test set (`exam.parquet`), so that a later one can be judged on the same rows.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pyarrow as pa
import pyarrow.parquet as pq
from mlflow.exceptions import MlflowException

from tasks import layout
from tasks.errors import InputError, unknown
from tasks.journal import masked

CHAMPION, CHALLENGER = "champion", "challenger"
EXAM = "exam"  # folder of a version's answers among its run's artifacts
HISTORY = "champions"  # tag of a registered model: versions that were champion, oldest first
LONGEST_TAG = 5000
ABSENT = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}


@dataclass(frozen=True)
class Version:
    """One version of a registered model.

    Attributes:
        name: of the registered model.
        number: of the version.
        run_id: of the run that made it.
        uri: where MLflow finds it.
        tags: what is written on it.
    """

    name: str
    number: str
    run_id: str
    uri: str
    tags: Mapping[str, str]

    def answers(self) -> tuple[dict[str, str], dict[str, str]]:
        """Its answer to each test row, and the row's fingerprint, by the row's id."""
        with tempfile.TemporaryDirectory() as folder:
            place = f"{EXAM}/{self.name}-{self.tags['exam']}.parquet"
            path = mlflow.artifacts.download_artifacts(
                run_id=self.run_id,
                artifact_path=place,
                dst_path=folder,
                tracking_uri=mlflow.get_tracking_uri(),
            )
            table = pq.read_table(path).to_pydict()
        return dict(zip(table["id"], table["answer"], strict=True)), dict(
            zip(table["id"], table["fingerprint"], strict=True)
        )

    def download(self, folder: Path) -> Path:
        """Weights and tokenizer or image processor, in a folder below `folder`.

        Raises:
            InputError: MLflow does not have them any more, or they cannot be written there.
        """
        lost = f"{self.uri}: MLflow has lost its files; restore its artifacts, or promote another version"
        try:
            path = mlflow.artifacts.download_artifacts(self.uri, dst_path=str(folder))
        except MlflowException as error:
            if error.error_code not in ABSENT:
                raise
            raise InputError(f"{lost} ({error.message})") from error
        except FileNotFoundError as error:
            raise InputError(f"{lost} ({error})") from error
        except OSError as error:
            raise InputError(f"{self.uri} cannot be copied to {folder}: {error}") from error
        data = [*(Path(path) / "data").glob("*/")]
        if len(data) != 1:
            raise InputError(f"{lost} ({path} holds {len(data)} models)")
        return data[0]


class Registry:
    """The registry of a tracking server.

    Args:
        uri: tracking server or database.
    """

    def __init__(self, uri: str) -> None:
        mlflow.set_tracking_uri(uri)
        mlflow.set_registry_uri(uri)
        self._client = mlflow.MlflowClient(uri, uri)

    def aliased(self, name: str, alias: str) -> Version | None:
        """The version that an alias names."""
        try:
            found = self._client.get_model_version_by_alias(name, alias)
        except MlflowException as error:
            if error.error_code in ABSENT:
                return None
            raise
        return _version(found)

    def version(self, name: str, number: str | None) -> Version:
        """A version by its number, or the challenger.

        Raises:
            InputError: there is none; says which there are.
        """
        self.champions(name)
        if number is None:
            found = self.aliased(name, CHALLENGER)
            if found is None:
                raise InputError(
                    f"{name} has no challenger; `python -m tasks.promote judge <recipe>` enters one"
                )
            return found
        versions = {str(one.version): one for one in self._client.search_model_versions(f"name = '{name}'")}
        if number not in versions:
            raise InputError(f"{name}: {unknown('version', number, versions)}")
        return _version(versions[number])

    def known(self, name: str, run_id: str, digest: str) -> Version | None:
        """The version that was made of a run and answered that test set."""
        for one in self._client.search_model_versions(f"name = '{name}'"):
            if one.run_id == run_id and one.tags.get("exam") == digest[:12]:
                return _version(one)
        return None

    def enter(self, name: str, run_id: str, task: str, answers: pa.Table, digest: str) -> Version:
        """Register what a run has kept for a task, as the challenger; the same version where it is there.

        Args:
            name: of the registered model.
            run_id: of the fine-tuning run.
            task: under whose name the run has kept the model.
            answers: id, fingerprint and answer per test row.
            digest: of the test set.

        Raises:
            InputError: the run has kept no model.
        """
        run = self._client.get_run(run_id)
        wanted = f"source_run_id = '{run_id}' AND name = '{task}'"
        kept = self._client.search_logged_models([run.info.experiment_id], wanted)
        if not kept:
            raise InputError(
                f"MLflow's run {run_id} has kept no model of {task!r}: an architecture that opens with our "
                "package alone is not kept (`resnet` and `vit` are)"
            )
        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        found = self.known(name, run_id, digest)
        if found is None:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"{name}-{digest[:12]}.parquet"
                pq.write_table(answers, path)
                self._client.log_artifact(run_id, str(path), EXAM)
            made = self._client.create_model_version(
                name,
                kept[0].model_uri,
                run_id,
                {"exam": digest[:12], "task": task},
                model_id=kept[0].model_id,
            )
            found = _version(made)
        self._client.set_registered_model_alias(name, CHALLENGER, found.number)
        return found

    def crown(self, version: Version, against: str | None = None) -> None:
        """Make a version the champion, and remember who was before.

        Args:
            version: the new champion.
            against: number of the champion that it was judged against; empty where there was none. None
                says that no comparison is meant.

        Raises:
            InputError: another one has become champion since.
        """
        with self._alone():
            now = self.aliased(version.name, CHAMPION)
            number = now.number if now else ""
            if against is not None and number not in (against, version.number):
                raise InputError(
                    f"version {number} has become champion of {version.name} since this one was judged "
                    f"against {against or 'none'}; judge it again"
                )
            before = [one for one in self.champions(version.name) if one not in (number, version.number)]
            history = [*before, *([number] if number and number != version.number else []), version.number]
            self._client.set_registered_model_tag(version.name, HISTORY, json.dumps(history))
            self._client.set_registered_model_alias(version.name, CHAMPION, version.number)
            waiting = self.aliased(version.name, CHALLENGER)
            if waiting and waiting.number == version.number:
                self._client.delete_registered_model_alias(version.name, CHALLENGER)

    def roll_back(self, name: str, by: str = "") -> tuple[str, str]:
        """Make the champion before the present one champion again; the numbers of both.

        Args:
            name: of the registered model.
            by: who asks; of somebody who asks again, as after a kill, only the first word counts.

        Raises:
            InputError: there is none.
        """
        with self._alone():
            versions = list(self._client.search_model_versions(f"name = '{name}'"))
            there = {str(one.version) for one in versions}
            now = self.aliased(name, CHAMPION)
            number = now.number if now else ""
            for one in versions:
                if by and one.tags.get("rolled_back_by") == by and str(one.version) != number:
                    return str(one.version), number
            before = [one for one in self.champions(name) if one in there and one != number]
            if now is None or not before:
                raise InputError(f"{name} has no champion before the present one; nothing is changed")
            reason = f"version {before[-1]} is champion again"
            self.write(now, {"word": "rolled back", "reason": reason, "rolled_back_by": by})
            self._client.set_registered_model_tag(name, HISTORY, json.dumps(before))
            self._client.set_registered_model_alias(
                name, CHAMPION, before[-1]
            )  # last: killed before, done again
        return number, before[-1]

    def looks(self, name: str, exam: str, against: str) -> int:
        """How many versions were judged on this exam against this champion."""
        versions = self._client.search_model_versions(f"name = '{name}'")
        return sum(one.tags.get("exam") == exam and one.tags.get("against") == against for one in versions)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One change of aliases at a time on this machine."""
        path = layout.scratch() / "locks" / "registry"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def champions(self, name: str) -> list[str]:
        """Numbers of the versions that were champion, oldest first; the last one is.

        Raises:
            InputError: there is no registered model of that name; says which there are.
        """
        try:
            tags = self._client.get_registered_model(name).tags
        except MlflowException as error:
            if error.error_code not in ABSENT:
                raise
            known = sorted(model.name for model in self._client.search_registered_models())
            raise InputError(f"no registered model {name!r}; known: {', '.join(known) or 'none'}") from None
        return list(json.loads(tags.get(HISTORY, "[]")))

    def write(self, version: Version, tags: Mapping[str, Any]) -> None:
        """Write tags on a version."""
        for name, value in tags.items():
            self._client.set_model_version_tag(version.name, version.number, name, str(value)[:LONGEST_TAG])

    def run(self, run_id: str) -> tuple[Any, Any]:
        """A run, and the one above it or None.

        Raises:
            InputError: there is no such run.
        """
        try:
            run = self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code not in ABSENT:
                raise
            raise InputError(f"MLflow knows no run {run_id}: {error.message}") from None
        above = run.data.tags.get("mlflow.parentRunId")
        return run, self._client.get_run(above) if above else None

    def branches(self) -> set[str]:
        """Git branches that hold what registered versions were made of."""
        runs = {version.run_id for version in self._client.search_model_versions()}
        above = [self.run(run_id)[1] for run_id in filter(None, runs)]
        return {run.data.tags["branch"] for run in above if run is not None and "branch" in run.data.tags}

    def note(self, run_id: str, name: str, document: Mapping[str, Any]) -> None:
        """Keep a JSON document with a run."""
        self._client.log_dict(run_id, dict(document), name)


@contextlib.contextmanager
def reachable(uri: str) -> Iterator[None]:
    """Say in a sentence that MLflow does not answer, or what it refuses."""
    try:
        yield
    except MlflowException as error:
        said = str(error.message).splitlines()[0]
        next_step = "is it there? `make ui` starts it"
        if "401" in said:
            next_step = "export UNMASK_USER and UNMASK_PASSWORD as they are where `make ui` runs"
        raise InputError(f"MLflow at {masked(uri)}: {said}; {next_step}") from error


def _version(found: Any) -> Version:
    uri = f"models:/{found.name}/{found.version}"
    return Version(found.name, str(found.version), found.run_id, uri, dict(found.tags))
