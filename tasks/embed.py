"""Embeddings of a folder of files, and who is whose nearest neighbour.

    python -m tasks.embed <run or model folder> <folder of files> [--out <folder>] [--pooling mean|class]

Writes `embeddings.parquet` (path, embedding) and `neighbours.html`. A run is the name of a recipe that
was trained here or its folder below `runs/`; its adapted encoder is taken where there is one.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import modalities
from tasks.errors import InputError, one_sentence, unknown

if TYPE_CHECKING:
    from tasks.modalities import Embedded, Pictures

TABLE, PAGE = "embeddings.parquet", "neighbours.html"
NEIGHBOURS = 7
QUERIES = 16
NAMED = 10  # files without a vector that are told by name
SIDE = 72


def run(given: Path, folder: Path, out: Path, pooling: str = "mean") -> Embedded:
    """Write table and page; answer what was embedded.

    Args:
        given: run, or folder of a model.
        folder: with the files.
        out: folder that both are written to.
        pooling: how an encoder's tokens become one vector, `mean` or `class`.

    Raises:
        InputError: model or folder cannot be read; says what to do.
    """
    model = model_folder(given)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; name one that holds the files to embed.")
    pictures = modalities.pictures(modality_of(model))
    found = pictures.embed(model, folder, pooling)
    out.mkdir(parents=True, exist_ok=True)
    _write_table(found, out / TABLE, model, pooling)
    (out / PAGE).write_text(_page(found, pictures, folder, model), encoding="utf-8")
    return found


def model_folder(given: Path) -> Path:
    """The folder with `config.json` that a run or a model folder stands for.

    Raises:
        InputError: there is none; names the runs that there are.
    """
    for root in (given, Path("runs") / given):
        for place in (root, root / "model", root / "adapt/model", root / "pretrain/model"):
            if (place / "config.json").is_file():
                return place
    runs = [path.parents[2].name for path in Path("runs").glob("*/pretrain/model/config.json")]
    if not given.exists():
        raise InputError(f"{unknown('run or model folder', str(given), runs)}.")
    raise InputError(
        f"{given} holds no model (no config.json, in it or below `pretrain/model`); name a run that was "
        "trained, or a folder that save_pretrained wrote."
    )


def modality_of(model: Path) -> str:
    """The modality whose inputs a model reads.

    Raises:
        InputError: the config is unknown, or no modality has such inputs.
    """
    import transformers
    from transformers import AutoConfig, AutoModel

    from models import encoders

    try:
        with encoders.quiet():
            config = AutoConfig.from_pretrained(model)
            kind: Any = AutoModel._model_mapping[type(config)]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{model / 'config.json'} is not a config that transformers {transformers.__version__} knows: "
            f"{str(error).splitlines()[0]}"
        ) from None
    reads = kind.main_input_name
    for name in modalities.NAMES:
        if reads == modalities.pictures(name).READS:
            return name
    raise InputError(
        f"{model} reads {reads}, which no modality here has; known: {', '.join(modalities.NAMES)}."
    )


def _write_table(found: Embedded, path: Path, model: Path, pooling: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    width = found.vectors.shape[1]
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(found.vectors.reshape(-1)), width)
    table = pa.table({"path": found.paths, "embedding": embedding})
    about = {"model": str(model), "pooling": pooling, "left_out": dict(found.left_out)}
    pq.write_table(table.replace_schema_metadata({"unmask": json.dumps(about)}), path, compression="zstd")


def _page(found: Embedded, pictures: Pictures, folder: Path, model: Path) -> str:
    from tasks.pages import gallery, neighbours
    from tasks.pages.sheets import data_uri, scaled

    labels = _labels(found.paths)
    rows = [
        {"id": path, "text": path, "label": label} for path, label in zip(found.paths, labels, strict=True)
    ]
    count = min(NEIGHBOURS, len(rows) - 1)
    near = neighbours.neighbourhood(rows, found.vectors, count, QUERIES) if count else None
    sentences = [f"{len(rows):,} files of {folder}, {found.vectors.shape[1]} numbers each, by {model}."]
    sentences += told(found)
    if near is None:
        sentences.append("One file has no neighbours.")
    elif near.agreement is not None:
        sentences.append(
            f"{100 * near.agreement:.1f} % of the {count} nearest neighbours are in the file’s own "
            f"sub-folder, {100 * near.chance:.1f} % of any two files."
        )
    queries = near.queries if near else []
    ids = {query.id for query in queries} | {one.id for query in queries for one in query.neighbours}
    # a name that is no UTF-8 stands in the table as escapes, under which there is no file
    shown = [path for path in sorted(ids) if (folder / path).is_file()]
    seen = {path: data_uri(scaled(pictures.picture(folder / path), SIDE)) for path in shown}
    return gallery.render(
        "nearest neighbours", "Which files the encoder holds for alike", sentences, (), queries, seen
    )


def told(found: Embedded) -> list[str]:
    """One sentence on the files that have no vector, where there are any."""
    if not found.left_out:
        return []
    reasons = ", ".join(
        f"{reason} {count:,}" for reason, count in Counter(found.left_out.values()).most_common()
    )
    names = ", ".join(list(found.left_out)[:NAMED]) + (", …" if len(found.left_out) > NAMED else "")
    return [f"{len(found.left_out):,} files have no vector ({reasons}): {names}."]


def _labels(paths: list[str]) -> list[str]:
    """The first sub-folder of each file, where there is more than one; else nothing."""
    labels = [path.partition("/")[0] if "/" in path else "" for path in paths]
    return labels if len(set(labels)) > 1 else [""] * len(paths)


def main() -> None:
    """Command line: `python -m tasks.embed <run or model folder> <folder of files>`."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.embed", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("model", type=Path, help="recipe that was trained, its folder, or a model folder")
    parser.add_argument("folder", type=Path, help="folder with the files")
    parser.add_argument("--out", type=Path, help="folder for table and page; embedded/<name> without it")
    parser.add_argument("--pooling", choices=("mean", "class"), default="mean", help="tokens to one vector")
    given = parser.parse_args()
    out = given.out or Path("embedded") / given.folder.resolve().name
    with one_sentence("embed", out):
        found = run(given.model, given.folder, out, given.pooling)
    for sentence in told(found):
        print(sentence, file=sys.stderr)
    print(f"{out / TABLE}\n{out / PAGE}")


if __name__ == "__main__":
    main()
