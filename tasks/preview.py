"""What a recipe would do to its data, before anything is paid for: `python -m tasks.preview <recipe>`.

Writes a page and its figures to `previews/<recipe>/`; opens nothing, trains nothing. Records come from
the ingested corpus, or straight from the first sources where nothing was ingested yet.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tasks import modalities, params
from tasks.config import Config
from tasks.errors import InputError, one_sentence

PAGE = "preview.html"


def run(name: str, config: Config, out: Path) -> Path:
    """Write the page; answer its path.

    Args:
        name: the recipe.
        config: all of `params.yaml`.
        out: folder of page and figures.

    Raises:
        InputError: the recipe is unknown, its data cannot be read, or its kind has nothing to look at.
    """
    from tasks.pages import gallery

    recipe = config.recipe(name)
    sections = modalities.pictures(recipe.modality).preview(name, config, out)
    if not sections:
        raise InputError(f"recipes.{name}: there is no preview of {recipe.modality}.")
    title = "What this recipe would show its encoder"
    sentences = [recipe.description] if recipe.description else []
    page = gallery.render(f"preview of {name}", title, sentences, sections)
    (out / PAGE).write_text(page, encoding="utf-8")
    return out / PAGE


def main() -> None:
    """Command line: `python -m tasks.preview <recipe>`."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.preview", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("name", help="recipe")
    parser.add_argument("--out", type=Path, help="folder of the page; previews/<recipe> without it")
    given = parser.parse_args()
    out = given.out or Path("previews") / given.name
    with one_sentence("preview", out):
        page = run(given.name, params.load(), out)
    for path in (page, *sorted(out.glob("*.png"))):
        print(path)


if __name__ == "__main__":
    main()
