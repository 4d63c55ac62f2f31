"""`params.yaml` read and checked; what is unknown or impossible is refused with its path.

The settings of every modality and objective are joined with those of `tasks.config` into one schema.
"""

from __future__ import annotations

import argparse
import functools
import json
import operator
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, fields, make_dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from models.settings import setting
from tasks import modalities
from tasks.config import PARAMS, SLOTS, Config, Corpus, Encoder, Pretrain, Recipe, Task
from tasks.errors import InputError, unknown

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@functools.cache
def schema() -> TypeAdapter[Config]:
    """The type of the whole file, with the settings of every modality and objective in its place."""
    from models import objectives  # brings torch; listing and ingest do without

    choices = [_variant(cls.Settings, "name", name) for name, cls in objectives.load_all().items()]
    pretrain = _derive(Pretrain, objective=_one_of("name", choices))
    recipes = [
        _variant(
            _derive(
                Recipe,
                validate=modalities.quality(name).ValidateSettings,
                prepare=modalities.tensors(name).PrepareSettings,
                pretrain=pretrain,
            ),
            "modality",
            name,
        )
        for name in modalities.NAMES
    ]
    corpora: Any = _corpora_type()
    recipes_by_name: Any = dict[str, _one_of("modality", recipes)]  # type: ignore[misc]
    return TypeAdapter(_derive(Config, corpora=corpora, recipes=recipes_by_name))


@functools.cache
def _corpora_type() -> Any:
    """The type of the section `corpora`."""
    members = [
        _variant(modalities.records(name).CorpusSettings, "modality", name) for name in modalities.NAMES
    ]
    return dict[str, _one_of("modality", members)]  # type: ignore[misc]


def _derive(settings: type, **types: Any) -> type:
    """The settings class with other types for some of its fields; their sentences stay."""
    known = {field.name: field for field in fields(settings)}
    replaced = [
        (name, type_, dataclass_field(default=known[name].default, metadata=known[name].metadata))
        if known[name].default_factory is MISSING
        else (
            name,
            type_,
            dataclass_field(default_factory=known[name].default_factory, metadata=known[name].metadata),
        )
        for name, type_ in types.items()
    ]
    return make_dataclass(settings.__name__, replaced, bases=(settings,), frozen=True, kw_only=True)


def _variant(settings: type, tag: str, value: str) -> type:
    """The settings class with one more field that says which member of the union it is."""
    field = (tag, Literal[value], setting(value, f"Which settings these are: {value}."))
    return make_dataclass(settings.__name__, [field], bases=(settings,), frozen=True, kw_only=True)


def _one_of(tag: str, members: list[type]) -> Any:
    if len(members) == 1:
        return members[0]
    return Annotated[functools.reduce(operator.or_, members), Discriminator(tag)]


def load(path: Path = PARAMS) -> Config:
    """Read and check the whole file.

    Raises:
        InputError: the file is missing, is not YAML, or breaks the schema; every fault is listed
            with its path, its value and the known choices.
    """
    raw = read_yaml(path)
    _refuse_names(raw, path)
    config: Config = _check(schema(), raw, path, ())
    faults = [*_impossible(config)]
    if faults:
        raise InputError("\n".join(f"{path}: {fault}" for fault in faults))
    return config


def load_corpora(path: Path = PARAMS) -> dict[str, Corpus]:
    """Only the section `corpora`, checked; imports neither torch nor any objective."""
    raw = read_yaml(path)
    _refuse_names(raw, path)
    section = raw.get("corpora") or {}
    corpora: dict[str, Corpus] = _check(TypeAdapter(_corpora_type()), section, path, ("corpora",))
    return corpora


def _check(adapter: TypeAdapter[Any], raw: Any, path: Path, at: tuple[str, ...]) -> Any:
    try:
        return adapter.validate_json(json.dumps(raw))
    except ValidationError as error:
        faults = [_sentence(adapter, raw, fault, at) for fault in error.errors(include_url=False)]
        raise InputError("\n".join(f"{path}: {fault}" for fault in faults)) from None


def _refuse_names(raw: dict[str, Any], path: Path) -> None:
    """Names become parts of paths and of DVC's command lines."""
    sections = {name: raw.get(name) or {} for name in ("corpora", "encoders", "recipes")}
    tables = [*sections.items()]
    for corpus, entry in sections["corpora"].items() if isinstance(sections["corpora"], dict) else ():
        tables.append((f"corpora.{corpus}.tasks", (entry or {}).get("tasks") or {}))
    faults = [
        f"{path}: {section}.{name}: names are letters and digits, with `-` and `_` between them"
        for section, table in tables
        for name in (table if isinstance(table, dict) else ())
        if not NAME.fullmatch(str(name))
    ]
    if faults:
        raise InputError("\n".join(faults))


def read_yaml(path: Path) -> dict[str, Any]:
    """The file as plain values, by YAML 1.2's rules (`1e-3` is a number, `no` is a word)."""
    try:
        raw = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing; run from the project's root folder.") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(raw, dict):
        raise InputError(f"{path} must hold a mapping with seed, corpora, encoders and recipes.")
    return raw


def _sentence(adapter: TypeAdapter[Any], raw: Any, fault: Any, at: tuple[str, ...]) -> str:
    """One fault of pydantic's as `path: what is wrong; what is allowed`."""
    path: list[str] = []
    where = raw
    *parents, last = fault["loc"] or ("",)
    for key in parents:
        # pydantic's path also names members of unions, which are no keys of the file
        if (isinstance(where, dict) and key in where) or (isinstance(where, list) and isinstance(key, int)):
            where = where[key]
            path.append(str(key))
    name = ".".join([*at, *path, str(last)])
    given = fault["input"]
    match fault["type"]:
        case "unexpected_keyword_argument" | "extra_forbidden":
            return f"{name}: {unknown('key', str(last), _keys_at(adapter, raw, path))}"
        case "missing":
            return f"{name}: is required and missing"
        case "union_tag_invalid" | "union_tag_not_found":
            context = fault["ctx"]
            tag = str(context["discriminator"]).strip("'")
            known = str(context.get("expected_tags", "")).replace("'", "").split(", ")
            value = given.get(tag, "") if isinstance(given, dict) else given
            return f"{name}.{tag}: {unknown(tag, str(value), known)}"
    said = fault["msg"].removeprefix("Value error, ")
    return f"{name}: {said[0].lower()}{said[1:]}; got {given!r} ({type(given).__name__})"


def _keys_at(adapter: TypeAdapter[Any], raw: Any, path: list[str]) -> list[str]:
    """The known keys of the mapping at that path, read off the JSON schema."""
    document = adapter.json_schema()
    node, where = _resolved(document, document, raw), raw
    for key in path:
        is_list = isinstance(where, list)
        where = where[int(key)] if is_list else where[key]
        inside = {**node, **node.get("properties", {})}
        within = inside.get(key) or inside.get("additionalProperties") or inside["items"]
        node = _resolved(document, within, where)
    return sorted(node.get("properties", {}))


def _resolved(document: dict[str, Any], node: dict[str, Any], value: Any) -> dict[str, Any]:
    """The node behind references, and of alternatives the one that the value's tag names."""
    while "$ref" in node or "oneOf" in node or "anyOf" in node:
        if "$ref" in node:
            node = document["$defs"][node["$ref"].rsplit("/", 1)[-1]]
        elif "discriminator" in node:
            tag = value.get(node["discriminator"]["propertyName"])
            node = {"$ref": node["discriminator"]["mapping"][tag]}
        else:
            node = next(part for part in node["anyOf"] if part.get("type") != "null")
    return node


def json_schema() -> dict[str, Any]:
    """JSON schema of `params.yaml`, for editors and forms."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema().json_schema()}


def _impossible(config: Config) -> Iterator[str]:
    """Combinations that are each valid alone and cannot work together."""
    for name, recipe in config.recipes.items():
        at = f"recipes.{name}"
        for slot in SLOTS:
            corpus = getattr(recipe, slot)
            if corpus not in config.corpora:
                yield f"{at}.{slot}: {unknown('corpus', corpus, config.corpora)}"
            elif corpus != "none" and config.corpora[corpus].modality != recipe.modality:
                yield (
                    f"{at}.{slot}: corpus {corpus!r} holds {config.corpora[corpus].modality}, "
                    f"the recipe is for {recipe.modality}"
                )
        yield from _foreign_objective(at, recipe)
        if recipe.encoder not in config.encoders:
            yield f"{at}.encoder: {unknown('encoder', recipe.encoder, config.encoders)}"
        else:
            yield from _unfit_encoder(at, recipe, config.encoders[recipe.encoder])
        yield from _unpayable(at, recipe, config.encoders.get(recipe.encoder))
        yield from _unpromotable(at, recipe, config.corpora.get(recipe.tasks))
        if recipe.pretrain.steps and recipe.general == "none":
            yield f"{at}.pretrain.steps: must be 0 where `general` is none; name a corpus"
        if recipe.adapt.steps and getattr(recipe, recipe.adapt.corpus) == "none":
            yield f"{at}.adapt.steps: must be 0 where `{recipe.adapt.corpus}` is none; name a corpus"
        if recipe.adapt.replay_fraction and recipe.general == "none":
            yield f"{at}.adapt.replay_fraction: must be 0 where `general` is none"
        sets = config.corpora[recipe.tasks].tasks.values() if recipe.tasks in config.corpora else ()
        for stage in ("pretrain", "adapt"):
            if getattr(recipe, stage).on_collapse == "roll_back" and not getattr(recipe, stage).health_every:
                yield f"{at}.{stage}.health_every: must not be 0 where `on_collapse` is roll_back"
            if getattr(recipe, stage).probe_every and "classification" not in {task.kind for task in sets}:
                yield (
                    f"{at}.{stage}.probe_every: must be 0 where `tasks` names no labelled set of kind "
                    "classification"
                )
        yield from _unanswerable(at, recipe, sets)
    for name, encoder in config.encoders.items():
        if (encoder.architecture is None) == (encoder.source is None):
            yield f"encoders.{name}: give either `architecture` (from scratch) or `from` (released weights)"
    if "none" not in config.corpora:
        yield "corpora.none: is required; write `none: {modality: text}`, the corpus of recipes that lack one"


def _foreign_objective(at: str, recipe: Recipe) -> Iterator[str]:
    """An objective of another modality."""
    from models import objectives

    offered = modalities.tensors(recipe.modality).OFFERS
    fitting = [name for name, kind in objectives.load_all().items() if {*kind.reads} <= {*offered}]
    name: str = recipe.pretrain.objective.name  # type: ignore[attr-defined]  # the union's tag
    if name not in fitting:
        yield f"{at}.pretrain.objective.name: {unknown(f'{recipe.modality} objective', name, fitting)}"


def _unfit_encoder(at: str, recipe: Recipe, encoder: Encoder) -> Iterator[str]:
    """An architecture that is unknown or cannot read the inputs; released weights are seen when loaded."""
    from models.encoders import architecture_config

    if encoder.architecture is None:
        return
    try:
        config = architecture_config(encoder.architecture, encoder.config)
        modalities.tensors(recipe.modality).check_encoder(config, recipe)
    except ValueError as error:
        yield f"{at}.encoder: {recipe.encoder}: {error}"


def _unpayable(at: str, recipe: Recipe, encoder: Encoder | None) -> Iterator[str]:
    """What fine-tuning would refuse after the training is paid for."""
    finetune, is_released = recipe.finetune, encoder is not None and encoder.source is not None
    if "scratch" in finetune.arms:
        if (is_released or recipe.retrain.start == "champion") and finetune.scratch_compute != "same_steps":
            yield (
                f"{at}.finetune.scratch_compute: must be same_steps where the encoder starts from released "
                f"weights or from the champion, whose cost is not known; got {finetune.scratch_compute}"
            )
    elif recipe.tasks != "none" and not (
        ("pretrained" in finetune.arms and (recipe.pretrain.steps or is_released))
        or ("adapted" in finetune.arms and recipe.adapt.steps)
    ):
        yield f"{at}.finetune.arms: none of them is trained: the stages before have steps 0; name scratch"


def _unanswerable(at: str, recipe: Recipe, sets: Iterable[Task]) -> Iterator[str]:
    """Labelled sets of which no method of the recipe makes anything."""
    from tasks.downstream import kind

    for name in sorted({task.kind for task in sets}):
        able = [*kind(name).FROZEN, *(["finetune"] if recipe.modality in kind(name).HEADS else [])]
        if not {*recipe.finetune.methods} & {*able}:
            yield f"{at}.finetune.methods: none of them does {name}; name {' or '.join(able)}"


def _unpromotable(at: str, recipe: Recipe, corpus: Corpus | None) -> Iterator[str]:
    """What promotion would refuse after the training is paid for."""
    from tasks.downstream import kind

    wanted = recipe.promote
    if wanted.mode == "never" or corpus is None:
        return
    if not wanted.task and len(corpus.tasks) != 1:
        yield f"{at}.promote.task: name one of the labelled sets {', '.join(corpus.tasks) or '(none)'}"
    elif wanted.task and wanted.task not in corpus.tasks:
        yield f"{at}.promote.task: {unknown('labelled set', wanted.task, corpus.tasks)}"
    else:
        task = corpus.tasks[wanted.task or next(iter(corpus.tasks))]
        known = kind(task.kind).METRICS
        if wanted.metric and wanted.metric not in known:
            yield f"{at}.promote.metric: {unknown(f'metric of {task.kind}', wanted.metric, known)}"
        if recipe.modality not in kind(task.kind).HEADS:
            yield f"{at}.promote.mode: must be never for {task.kind}, which leaves no model to serve"
    if "finetune" not in recipe.finetune.methods:
        yield f"{at}.promote.mode: must be never where `finetune.methods` lacks finetune: no model is left"


def main() -> None:
    """Print the JSON schema, or check params.yaml."""
    parser = argparse.ArgumentParser(prog="python -m tasks.params", description=main.__doc__)
    parser.add_argument(
        "--check", action="store_true", help="say what is wrong with params.yaml, if anything"
    )
    if not parser.parse_args().check:
        print(json.dumps(json_schema(), indent=1))
        return
    try:
        config = load()
    except InputError as error:
        sys.exit(str(error))
    print(f"{PARAMS} is right: {len(config.recipes)} recipes")


if __name__ == "__main__":
    main()
