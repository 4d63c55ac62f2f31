"""Other values for keys of params.yaml in one run, named by dotted keys and checked before anything runs.

    python -m tasks.overrides text-mlm pretrain.steps=500 seed=3

`pretrain.steps` is the recipe's own, `seed` or `encoders.bert-demo.config.hidden_size` the file's.
Comments and anchors of the file stay: where several recipes share a mapping by an anchor, the
one whose key is set gets a mapping of its own.
"""

from __future__ import annotations

import argparse
import copy
import io
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.anchor import Anchor
from ruamel.yaml.comments import CommentedBase, CommentedMap
from ruamel.yaml.error import YAMLError

from tasks import modalities, params
from tasks.config import PARAMS, Config, Recipe, plain
from tasks.errors import InputError, unknown

PROJECT = "UNMASK_PROJECT"  # folder that relative paths mean, where it is not the file's
ROOTS = "UNMASK_ROOTS"  # folders and addresses that an override may name, separated by blanks
HARMLESS = ("embedded://", "public://")
ENTRIES = {"corpora": "corpus", "encoders": "encoder", "recipes": "recipe"}
PLACES = {"from", "train", "validation", "test"}  # keys that may hold a location


def apply(
    recipe: str, changes: Mapping[str, Any], path: Path = PARAMS, weights: Path | None = None
) -> Config:
    """Write the file with other values for some keys; the file stays as it is where one cannot be.

    Args:
        recipe: whose keys those are that name no section of the file.
        changes: dotted keys and their values, as JSON or YAML would hold them.
        path: the file.
        weights: folder of an encoder that the recipe goes on from, instead of its own start.

    Raises:
        InputError: a key or value is not known or not possible, or names a place outside the allowed
            roots; says which are.
    """
    before = params.load(path)
    onward = going_on(before.recipe(recipe), weights) if weights else {}
    written = changed(path.read_text(encoding="utf-8"), recipe, {**changes, **onward})
    aside = path.with_name(f".{path.name}.partial")
    aside.write_text(written, encoding="utf-8")
    try:
        after = params.load(aside)
        _refuse_places(before, after, Path(os.environ.get(PROJECT) or path.parent), weights)
        aside.replace(path)
    except InputError as error:
        raise InputError(str(error).replace(str(aside), str(path))) from None
    finally:
        aside.unlink(missing_ok=True)
    return after


def going_on(recipe: Recipe, weights: Path) -> dict[str, Any]:
    """The changes by which a recipe goes on from an encoder: adapted further, or else pretrained further."""
    encoder: dict[str, Any] = {"from": str(weights), "architecture": None, "config": {}}
    changes: dict[str, Any] = {f"encoders.{recipe.encoder}.{key}": value for key, value in encoder.items()}
    for key in modalities.tensors(recipe.modality).GO_WITH_WEIGHTS:
        changes[f"prepare.{key}"] = str(weights)
    return changes | ({"pretrain.steps": 0} if recipe.adapt.steps else {})


def changed(text: str, recipe: str, changes: Mapping[str, Any]) -> str:
    """The text of params.yaml with other values for some keys."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 1 << 16
    yaml.indent(mapping=2, sequence=4, offset=2)
    document = yaml.load(text)
    for key, value in changes.items():
        _set(document, _full(recipe, key), key, value)
    out = io.StringIO()
    yaml.dump(document, out)
    return out.getvalue()


def parsed(words: list[str]) -> dict[str, Any]:
    """Changes as a command line gives them: `pretrain.steps=500`, the value by YAML's rules.

    Raises:
        InputError: a word has no equals sign, or its value is no YAML.
    """
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        try:
            found[key.strip()] = YAML(typ="safe", pure=True).load(value)
        except YAMLError:
            equals = ""
        if not equals or not key.strip():
            raise InputError(f"{word!r}: expected key=value, for instance pretrain.steps=500")
    return found


def _full(recipe: str, key: str) -> list[str]:
    section = key.partition(".")[0]
    own = [] if section in {field.name for field in fields(Config)} else ["recipes", recipe]
    return [*own, *key.split(".")]


def _set(document: CommentedMap, path: list[str], key: str, value: Any) -> None:
    if path[0] in ENTRIES and len(path) < 3:
        raise InputError(f"{key}: whole entries are written into {PARAMS}; set a key of one")
    node = document
    for depth, part in enumerate(path[:-1]):
        inner = node.get(part)
        if inner is None and depth < 2:
            raise InputError(f"{key}: {unknown(ENTRIES[path[0]], part, map(str, node))}")
        if inner is not None and not isinstance(inner, CommentedMap):
            raise InputError(
                f"{key}: {'.'.join(path[: depth + 1])} is {inner!r}, not a mapping; set it as a whole"
            )
        node[part] = node = _of_its_own(node, part, inner)
    node[path[-1]] = value


def _of_its_own(parent: CommentedMap, part: str, inner: CommentedMap | None) -> CommentedMap:
    """The mapping below `parent` that nobody else shares."""
    if inner is None:
        return CommentedMap()
    is_inherited = part not in {name for name, _ in parent.non_merged_items()}
    if not is_inherited and not _is_anchored(inner):
        return inner
    own = CommentedMap()
    for name, value in inner.non_merged_items():
        own[name] = value if _is_anchored(value) else copy.deepcopy(value)
    inner.copy_attributes(own)
    setattr(own, Anchor.attrib, Anchor())
    return own


def _is_anchored(value: Any) -> bool:
    return isinstance(value, CommentedBase) and value.anchor.value is not None


def _refuse_places(before: Config, after: Config, project: Path, weights: Path | None) -> None:
    """Nothing that a form sends may make the pipeline read what was not offered."""
    known = {place for _, place in places(plain(before))} | ({str(weights)} if weights else set())
    roots = [str(project.absolute()), *os.environ.get(ROOTS, "").split()]
    for key, named in places(plain(after)):
        is_hub = ("encoders." in key or "tokenizer" in key) and not (project / named).exists()
        place = f"hf://{named}" if is_hub and "://" not in named else named
        if (
            named in known
            or place.startswith(HARMLESS)
            or any(_is_within(place, root, project) for root in roots)
        ):
            continue
        raise InputError(
            f"{key}: {place} lies outside of what an override may name ({', '.join(roots)}); write it into "
            f"{PARAMS}, or allow its folder or address in {ROOTS}"
        )


def _is_within(place: str, root: str, project: Path) -> bool:
    if "://" in place or "://" in root:
        return (place.rstrip("/") + "/").startswith(root.rstrip("/") + "/") and ".." not in place.split("/")
    return Path(os.path.realpath(project / Path(place).expanduser())).is_relative_to(os.path.realpath(root))


def places(value: Any, at: str = "") -> Iterator[tuple[str, str]]:
    """Every location in the settings, with its key."""
    for name, inner in value.items() if isinstance(value, Mapping) else ():
        key = f"{at}.{name}".lstrip(".")
        if name in PLACES and isinstance(inner, (str, list, tuple)):
            yield from ((key, place) for place in ([inner] if isinstance(inner, str) else inner))
        else:
            yield from places(inner, key)


def main() -> None:
    """Command line: set keys of the params.yaml in this folder."""
    parser = argparse.ArgumentParser(prog="python -m tasks.overrides", description=main.__doc__)
    parser.add_argument("recipe")
    parser.add_argument("changes", nargs="*", metavar="key=value", help="values by the rules of YAML")
    parser.add_argument("--weights", type=Path, help="folder of an encoder to go on from")
    options = parser.parse_args()
    try:
        apply(options.recipe, parsed(options.changes), weights=options.weights)
    except InputError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
