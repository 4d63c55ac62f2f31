"""`params.yaml` as frozen, typed, complete objects; what is unknown or impossible is refused with its path.

The file names three things: corpora (where data comes from), encoders (what is kept when training
ends), and recipes (which objective on which encoder over which corpora). Settings that belong to
one modality or one objective are declared in that modality's or objective's own file; this module
joins them into one schema.
"""

from __future__ import annotations

import argparse
import functools
import json
import operator
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, make_dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Discriminator, TypeAdapter, ValidationError, WithJsonSchema
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from models.settings import Settings, setting
from tasks import modalities
from tasks.engine.settings import TrainSettings
from tasks.errors import InputError, unknown

PARAMS = Path("params.yaml")


Locations = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda given: (given,) if isinstance(given, str) else tuple(given or ())),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]


@dataclass(frozen=True, kw_only=True)
class Columns(Settings):
    """Which field of a record means what, in tables and JSON lines."""

    text: str = setting("text", "Field with the text (or the context, in question answering).")
    image: str | None = setting(
        None,
        "Field with a picture: its bytes, its path, or {bytes, path}; null takes the first of image, img, "
        "picture, path, file_name and the like.",
    )
    mask: str | None = setting(None, "Field with the mask of a picture's foreground, in the same forms.")
    id: str | None = setting(None, "Field with a unique id; without it ids are made from the content.")
    label: str = setting("label", "Field with the label.")
    tokens: str = setting("tokens", "Token classification: field with the list of words.")
    tags: str = setting("tags", "Token classification: field with the list of tags.")
    question: str = setting("question", "Question answering: field with the question.")
    answers: str = setting("answers", "Question answering: field with {text, answer_start} lists.")
    license: str | None = setting(None, "Field with the licence of a record.")
    group: str | None = setting(
        None, "Field whose equal values never fall on both sides of a split (patient, author, file)."
    )
    split: str | None = setting(None, "Field that says train, validation or test.")


@dataclass(frozen=True, kw_only=True)
class Task(Settings):
    """One labelled set with train, validation and test rows."""

    kind: Literal["classification", "token_classification", "question_answering", "segmentation"] = setting(
        "classification", "What is predicted."
    )
    source: str | None = setting(
        None,
        "One location for all splits; rows are told apart by `columns.split`, or cut by `fractions`.",
        alias="from",
    )
    train: str | None = setting(None, "Location of the training rows.")
    validation: str | None = setting(None, "Location of the validation rows.")
    test: str | None = setting(None, "Location of the test rows.")
    format: str = setting("auto", "Format of the files; auto goes by the file's name.")
    columns: Columns = setting(Columns(), "Which field means what.")
    fractions: tuple[float, float, float] = setting(
        (0.6, 0.2, 0.2), "Shares of train, validation and test where one location holds them all."
    )
    license: str | None = setting(None, "Licence of the set, where records carry none.")


@dataclass(frozen=True, kw_only=True)
class Corpus(Settings):
    """A named source of data of one modality: unlabelled records (`from`), labelled sets, or both."""

    modality: str = setting("text", "Modality of the records.")
    source: Locations = setting(
        (),
        "Locations: folder, glob, file, archive, s3://, gs://, https://, hf://owner/name, "
        "public://name/path, embedded://name.",
        alias="from",
    )
    format: str = setting("auto", "Format of the files; auto goes by each file's name.")
    columns: Columns = setting(Columns(), "Which field means what.")
    license: str | None = setting(None, "Licence of the corpus, where records carry none.")
    tasks: dict[str, Task] = setting({}, "Labelled sets by name.")
    heldout_fraction: float = setting(
        0.02, "Share of documents kept out of training to measure the loss on.", ge=0, lt=1
    )
    max_records: int | None = setting(None, "Stop after this many kept records; null reads all.", ge=1)
    full_hash: bool = setting(
        False, "List sources by content hash, for places where size and time of change can lie."
    )


@dataclass(frozen=True, kw_only=True)
class Encoder(Settings):
    """The network that is kept: a transformers architecture from a config, or released weights."""

    architecture: str | None = setting(None, "Model type in transformers' words: bert, gpt2, vit, ...")
    source: str | None = setting(
        None, "Released weights to start from: a name on the hub, or a folder.", alias="from"
    )
    config: dict[str, Any] = setting({}, "Fields of the transformers config that differ from its defaults.")


@dataclass(frozen=True, kw_only=True)
class Validate(Settings):
    """Expectations that hold for every modality; a hard one stops the recipe, a soft one is reported."""

    min_records: int = setting(
        10, "Hard: smallest number of unlabelled records of a corpus, and of training rows of a task.", ge=1
    )
    min_labels_per_class: int = setting(2, "Soft: smallest number of training rows of a class.", ge=1)
    max_class_share: float = setting(
        0.95, "Soft: largest share of one class among the training rows.", gt=0, le=1
    )
    leak_containment: float = setting(
        0.8,
        "Share of a test row's pieces (text: eight-word sequences) in one training record from which on "
        "the row counts as known.",
        gt=0,
        le=1,
    )
    max_leaked_share: float = setting(
        0.05,
        "Soft: largest share of a task's test or validation rows that stand in one training set.",
        ge=0,
        le=1,
    )
    max_described: int = setting(
        100_000, "Records per corpus that are described; more are sampled by the hash of their id.", ge=1
    )


@dataclass(frozen=True, kw_only=True)
class Pretrain(TrainSettings):
    """Self-supervised training on the general corpus."""

    objective: Settings = setting(description="The self-supervised task: `name` and its hyper-parameters.")


@dataclass(frozen=True, kw_only=True)
class Adapt(TrainSettings):
    """Continued pretraining on the domain corpus (DAPT) or on the tasks' unlabelled training text (TAPT)."""

    corpus: Literal["domain", "tasks"] = setting("domain", "What to adapt to.")
    replay_fraction: float = setting(
        0.0, "Share of samples drawn from the general corpus, against forgetting.", ge=0, lt=1
    )
    forgetting_budget: float = setting(
        0.5,
        "Largest accepted rise of the held-out loss on the general corpus; more is reported as a breach.",
        ge=0,
    )


@dataclass(frozen=True, kw_only=True)
class Finetune(TrainSettings):
    """Supervised training on few labels, in the same protocol for every arm."""

    label_budgets: tuple[int | Literal["all"], ...] = setting(
        (50, 200), "How many labelled training rows each point of the curve gets."
    )
    num_seeds: int = setting(5, "Label draws and initialisations per point.", ge=1)
    arms: tuple[Literal["scratch", "pretrained", "adapted"], ...] = setting(
        ("scratch", "pretrained", "adapted"), "Which encoders are compared."
    )
    methods: tuple[Literal["finetune", "probe", "knn"], ...] = setting(
        ("probe", "finetune"),
        "Linear probe and nearest neighbours (classification alone) on frozen features, full fine-tuning.",
    )
    pooling: Literal["first", "mean"] = setting("mean", "How token features become one vector.")
    max_validation: int = setting(
        500, "At most this many validation rows choose the epoch and the probe's penalty.", ge=1
    )
    max_epochs: int = setting(20, "Passes over the labelled rows at most; `steps` caps them.", ge=1)
    patience: int = setting(5, "Evaluations without a better validation score before stopping.", ge=1)


@dataclass(frozen=True, kw_only=True)
class Report(Settings):
    """The page at the end."""

    num_embedded: int = setting(500, "Points of the embedding map.", ge=10)
    num_neighbours: int = setting(5, "Neighbours shown per query.", ge=1)


@dataclass(frozen=True, kw_only=True)
class Recipe(Settings):
    """Which objective on which encoder over which corpora, with the settings of each stage."""

    modality: str = setting(description="Modality of all its corpora.")
    description: str = setting("", "One sentence for tables and forms.")
    general: str = setting(description="Corpus to pretrain on, or none.")
    domain: str = setting(description="Corpus to adapt to, or none.")
    tasks: str = setting(description="Corpus with the labelled sets, or none.")
    encoder: str = setting(description="Entry of `encoders`.")
    validate: Validate = setting(description="Expectations on the data, in the modality's words.")
    prepare: Settings = setting(description="How records become tensors, in the modality's words.")
    pretrain: Pretrain = setting(description="Self-supervised training on the general corpus.")
    adapt: Adapt = setting(description="Continued pretraining on the domain; `steps: 0` keeps the weights.")
    finetune: Finetune = setting(description="Supervised training on few labels.")
    report: Report = setting(description="Settings of the page that is made in the end.")


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """All of `params.yaml`."""

    seed: int = setting(0, "Seed of everything drawn at random.", ge=0)
    corpora: dict[str, Corpus] = setting({}, "Sources of data by name.")
    encoders: dict[str, Encoder] = setting({}, "Networks by name.")
    recipes: dict[str, Recipe] = setting({}, "Recipes by name.")

    def recipe(self, name: str) -> Recipe:
        """The recipe of that name, or an error that lists the known ones."""
        return _named(self.recipes, "recipe", name)

    def corpus(self, name: str) -> Corpus:
        """The corpus of that name, or an error that lists the known ones."""
        return _named(self.corpora, "corpus", name)


T = TypeVar("T")


def _named(table: Mapping[str, T], what: str, name: str) -> T:
    if name not in table:
        raise InputError(f"{unknown(what, name, table)}. They are defined in {PARAMS}.")
    return table[name]


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
    config: Config = _check(schema(), raw, path, ())
    faults = [*_impossible(config)]
    if faults:
        raise InputError("\n".join(f"{path}: {fault}" for fault in faults))
    return config


def load_corpora(path: Path = PARAMS) -> dict[str, Corpus]:
    """Only the section `corpora`, checked; imports neither torch nor any objective."""
    section = read_yaml(path).get("corpora") or {}
    corpora: dict[str, Corpus] = _check(TypeAdapter(_corpora_type()), section, path, ("corpora",))
    return corpora


def _check(adapter: TypeAdapter[Any], raw: Any, path: Path, at: tuple[str, ...]) -> Any:
    try:
        return adapter.validate_json(json.dumps(raw))
    except ValidationError as error:
        faults = [_sentence(adapter, raw, fault, at) for fault in error.errors(include_url=False)]
        raise InputError("\n".join(f"{path}: {fault}" for fault in faults)) from None


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
        for slot in ("general", "domain", "tasks"):
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
        if recipe.pretrain.steps and recipe.general == "none":
            yield f"{at}.pretrain.steps: must be 0 where `general` is none; name a corpus"
        if recipe.adapt.steps and getattr(recipe, recipe.adapt.corpus) == "none":
            yield f"{at}.adapt.steps: must be 0 where `{recipe.adapt.corpus}` is none; name a corpus"
        if recipe.adapt.replay_fraction and recipe.general == "none":
            yield f"{at}.adapt.replay_fraction: must be 0 where `general` is none"
    for name, encoder in config.encoders.items():
        if (encoder.architecture is None) == (encoder.source is None):
            yield f"encoders.{name}: give either `architecture` (from scratch) or `from` (released weights)"
        if encoder.source is not None and encoder.config:
            yield f"encoders.{name}.config: has no effect beside `from`; released weights bring their own"
    if "none" not in config.corpora:
        yield "corpora.none: is required; write `none: {modality: text}`, the corpus of recipes that lack one"


def _foreign_objective(at: str, recipe: Recipe) -> Iterator[str]:
    """An objective of another modality."""
    from models import objectives

    known = modalities.tensors(recipe.modality).READS
    fitting = [name for name, kind in objectives.load_all().items() if {*kind.reads} <= {*known}]
    name: str = recipe.pretrain.objective.name  # type: ignore[attr-defined]  # the union's tag
    if name not in fitting:
        yield f"{at}.pretrain.objective.name: {unknown(f'{recipe.modality} objective', name, fitting)}"


def plain(settings: Settings) -> dict[str, Any]:
    """Settings as JSON values with every default filled in, for hashes, records and tracking."""
    return dict(json.loads(TypeAdapter(type(settings)).dump_json(settings, by_alias=True)))


def main() -> None:
    """Print the JSON schema: `python -m tasks.config > params.schema.json`."""
    argparse.ArgumentParser(description="Print the JSON schema of params.yaml.").parse_args()
    print(json.dumps(json_schema(), indent=1))


if __name__ == "__main__":
    main()
