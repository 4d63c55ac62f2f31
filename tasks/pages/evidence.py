"""Everything that a run left behind, read once; what is missing is empty, what is damaged is an error."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import layout
from tasks.config import SLOTS, Config
from tasks.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

STAGES = ("ingest", "validate", "prepare", "pretrain", "adapt", "finetune")
TRAINING_STAGES = ("pretrain", "adapt")
Json = dict[str, Any]
Row = Mapping[str, Any]
Rows = Sequence[Row]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the page is made of.

    Attributes:
        recipe: name of the recipe.
        description: its sentence in `params.yaml`.
        modality: its kind of data.
        slots: corpus name by slot (`general`, `domain`, `tasks`); `none` left out.
        corpora: manifest of each corpus.
        validation: what `validate` found.
        prepared: manifest of the prepared tensors.
        losses: curves of `pretrain` and `adapt`.
        gap: losses before and after adaptation.
        summary: scores of the arms, over seeds.
        results: scores of the arms, per seed.
        predictions: labels and predictions of test rows.
        embeddings: vectors of test rows.
        generation: perplexity and samples of a generative model.
        records: cost and versions of each stage, by stage (`ingest` once per corpus).
        hashes: (stage, path, hash, bytes) of every DVC output that led here.
        num_embedded: points of the embedding map.
        num_neighbours: neighbours shown per query.
    """

    recipe: str
    description: str
    modality: str
    slots: Mapping[str, str]
    corpora: Mapping[str, Json]
    validation: Json
    prepared: Json
    losses: Mapping[str, Json]
    gap: Json
    summary: Rows
    results: pa.Table | None
    predictions: pa.Table | None
    embeddings: pa.Table | None
    generation: Json
    records: Mapping[str, Json]
    hashes: Rows
    num_embedded: int = 500
    num_neighbours: int = 5


def read(name: str, config: Config) -> Evidence:
    """Everything that the stages before left for the recipe.

    Raises:
        InputError: the recipe is unknown, nothing of it has run, or a file cannot be read.
    """
    recipe = config.recipe(name)
    if not Path("runs", name).is_dir():
        raise InputError(
            f"runs/{name} is missing: nothing of this recipe has run; run `dvc repro report@{name}`."
        )
    slots = {slot: str(getattr(recipe, slot)) for slot in SLOTS if getattr(recipe, slot) != "none"}
    corpora = list(dict.fromkeys(slots.values()))
    finetune = layout.run(name, "finetune")
    return Evidence(
        recipe=name,
        description=recipe.description,
        modality=recipe.modality,
        slots=slots,
        corpora={corpus: _json(layout.corpus(corpus) / "manifest.json") for corpus in corpora},
        validation=_json(layout.validated(name) / "validation.json"),
        prepared=_json(layout.prepared(name) / "manifest.json"),
        losses={stage: _json(layout.run(name, stage) / "losses.json") for stage in TRAINING_STAGES},
        gap=_json(layout.run(name, "adapt") / "gap.json"),
        summary=_list(finetune / "summary.json"),
        results=_table(finetune / "results.parquet"),
        predictions=_table(finetune / "predictions.parquet"),
        embeddings=_table(finetune / "embeddings.parquet"),
        generation=_json(finetune / "samples.json"),
        records=_records(name, corpora),
        hashes=_hashes(name, corpora),
        num_embedded=recipe.report.num_embedded,
        num_neighbours=recipe.report.num_neighbours,
    )


def files(name: str, config: Config) -> list[Path]:
    """The files that the page of a recipe is made of, those that are there."""
    recipe, finetune = config.recipe(name), layout.run(name, "finetune")
    corpora = {str(getattr(recipe, slot)) for slot in SLOTS}
    made = [
        *(layout.corpus(corpus) / "manifest.json" for corpus in sorted(corpora)),
        layout.validated(name) / "validation.json",
        layout.prepared(name) / "manifest.json",
        *(layout.run(name, stage) / "losses.json" for stage in TRAINING_STAGES),
        layout.run(name, "adapt") / "gap.json",
        *(finetune / f"{part}.parquet" for part in ("results", "predictions", "embeddings")),
        finetune / "summary.json",
        finetune / "samples.json",
    ]
    return [path for path in made if path.is_file()]


def _json(path: Path) -> Any:
    """The file's content, an empty mapping where there is no such file."""
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}); delete it and run its stage again.") from None


def _list(path: Path) -> Rows:
    content = _json(path)
    return content if isinstance(content, list) else []


def _table(path: Path) -> pa.Table | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        return None
    try:
        return pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} is not a readable parquet file ({error}); run its stage again.") from None


def _records(recipe: str, corpora: Sequence[str]) -> dict[str, Json]:
    """Record files by a title for the stage; those of `ingest` belong to corpora, not to the recipe."""
    found = {f"ingest {corpus}": _json(layout.record(corpus, "ingest")) for corpus in corpora}
    found |= {stage: _json(layout.record(recipe, stage)) for stage in STAGES[1:]}
    return {stage: record for stage, record in found.items() if record}


def _hashes(recipe: str, corpora: Sequence[str]) -> Rows:
    """Outputs of the recipe's stages as `dvc.lock` pins them, in the order of the pipeline."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    path = Path("dvc.lock")
    if not path.is_file():
        return []
    try:
        locked = (YAML(typ="safe").load(path.read_text(encoding="utf-8")) or {}).get("stages", {})
    except YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {error}") from None
    wanted = [f"ingest@{corpus}" for corpus in corpora] + [f"{stage}@{recipe}" for stage in STAGES[1:]]
    return [
        {"stage": stage, "path": out["path"], "hash": out.get("md5", ""), "bytes": out.get("size", 0)}
        for stage in wanted
        for out in locked.get(stage, {}).get("outs", [])
    ]
