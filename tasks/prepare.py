"""Records to memory-mapped tensors: `python -m tasks.prepare <recipe>`.

What a tensor is, the recipe's modality knows. This stage leaves out the records that `validate`
excluded, publishes the outcome whole or not at all, and lists every file with its hash.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import layout, modalities, stage, validate
from tasks.corpora import stored
from tasks.sources.folders import sha256

if TYPE_CHECKING:
    from collections.abc import Mapping

    from models.settings import Settings
    from tasks.config import Config, Recipe


def run(context: stage.Context) -> stage.Outcome:
    """Turn the records of a recipe into tensors."""
    recipe = context.recipe
    excluded = validate.excluded(layout.validated(context.name))
    manifest = prepare(
        recipe, stored.folders(recipe), excluded, layout.prepared(context.name), context.config.seed
    )
    rows, unit = _total(manifest, "rows"), modalities.tensors(recipe.modality).UNIT
    return stage.Outcome(numbers(manifest), samples=rows, units=_total(manifest, unit) or rows, unit=unit)


def inputs(name: str, config: Config) -> tuple[list[Settings], list[Path]]:
    """The recipe's settings of this stage; manifests of its corpora, which hash every record; exclusions."""
    recipe = config.recipe(name)
    manifests = [folder / "manifest.json" for folder in stored.folders(recipe).values()]
    return [recipe.prepare], [*manifests, layout.validated(name) / "exclusions.parquet"]


def prepare(
    recipe: Recipe, corpora: Mapping[str, Path], excluded: Mapping[str, set[str]], out: Path, seed: int
) -> dict[str, Any]:
    """Write the tensors of every slot and `manifest.json` to `out`, which appears only when whole.

    Returns:
        The manifest: the modality's statistics, and path and sha256 of every file.

    Raises:
        InputError: something that a person can mend; `out` is then as it was.
    """
    with stage.published(out) as folder:
        manifest: dict[str, Any] = {"modality": recipe.modality}
        manifest |= modalities.tensors(recipe.modality).prepare(recipe, corpora, excluded, folder, seed)
        manifest["files"] = [
            {"path": path.relative_to(folder).as_posix(), "sha256": sha256(path)}
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        ]
        text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False)
        (folder / "manifest.json").write_text(text + "\n", encoding="utf-8")
    return manifest


def numbers(manifest: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Every number of the manifest under its dotted path (`slots.general.train.rows`)."""
    found: dict[str, float] = {}
    for key, value in manifest.items():
        if isinstance(value, dict):
            found |= numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float):
            found[f"{prefix}{key}"] = value
    return found


def _total(manifest: Mapping[str, Any], what: str) -> int:
    return sum(counts.get(what, 0) for splits in manifest["slots"].values() for counts in splits.values())


def main() -> None:
    """Command line: `python -m tasks.prepare <recipe>`."""
    stage.main("prepare", run, inputs)


if __name__ == "__main__":
    main()
