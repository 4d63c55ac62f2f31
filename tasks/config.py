"""What `params.yaml` says, as frozen, typed, complete objects; `tasks.params` reads and checks the file.

The file names three things: corpora (where data comes from), encoders (what is kept when training
ends), and recipes (which objective on which encoder over which corpora). Settings that belong to
one modality or one objective are declared in that modality's or objective's own file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, TypeAdapter, WithJsonSchema

from models.settings import Settings, setting
from tasks.engine.settings import TrainSettings
from tasks.errors import InputError, unknown

PARAMS = Path("params.yaml")
SLOTS = ("general", "domain", "tasks")  # of a recipe, each the name of a corpus


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
    audio: str | None = setting(
        None,
        "Field with a recording, in the same forms; null takes the first of audio, recording, wav, path, "
        "file_name and the like.",
    )
    mask: str | None = setting(None, "Field with the mask of a picture's foreground, in the same forms.")
    id: str | None = setting(None, "Field with a unique id; without it ids are made from the content.")
    label: str = setting("label", "Field with the label.")
    transcript: str | None = setting(
        None,
        "Transcription: field with what is said; null takes the first of transcript, sentence, text, "
        "normalized_text and transcription, or what stands in a file beside the recording.",
    )
    tokens: str = setting("tokens", "Token classification: field with the list of words.")
    tags: str = setting("tags", "Token classification: field with the list of tags.")
    question: str = setting("question", "Question answering: field with the question.")
    answers: str = setting("answers", "Question answering: field with {text, answer_start} lists.")
    license: str | None = setting(None, "Field with the licence of a record.")
    group: str | None = setting(
        None,
        "Field whose equal values never fall on both sides of a split (patient, author, file); null takes "
        "the speaker of transcribed recordings, where one is told.",
    )
    split: str | None = setting(None, "Field that says train, validation or test.")


@dataclass(frozen=True, kw_only=True)
class Task(Settings):
    """One labelled set with train, validation and test rows."""

    kind: Literal[
        "classification", "token_classification", "question_answering", "segmentation", "transcription"
    ] = setting(
        "classification",
        "What is predicted; pictures: classification or segmentation; recordings: classification or "
        "transcription; text: classification, token_classification or question_answering.",
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
    config: dict[str, Any] = setting(
        {},
        "Fields of the transformers config that differ from its defaults; beside `from`, rates of dropout "
        "and the `patch_size` of vision transformers, whose weights are made to fit.",
    )


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
class SelfSupervised(TrainSettings):
    """What training without labels is told beside what every training is."""

    probe_every: int = setting(
        0,
        "Steps between readings of nearest neighbours and a linear probe on validation rows of the "
        "labelled sets of kind classification; 0 is off.",
        ge=0,
    )
    probe_rows: int = setting(
        1000, "Training rows of a labelled set in a reading, at most; validation rows half as many.", ge=2
    )


@dataclass(frozen=True, kw_only=True)
class Pretrain(SelfSupervised):
    """Self-supervised training on the general corpus."""

    objective: Settings = setting(description="The self-supervised task: `name` and its hyper-parameters.")


@dataclass(frozen=True, kw_only=True)
class Adapt(SelfSupervised):
    """Continued pretraining on the domain corpus (DAPT) or on the tasks' unlabelled training text (TAPT)."""

    corpus: Literal["domain", "tasks"] = setting(
        "domain",
        "What to adapt to: the corpus `domain`, or the training rows of `tasks` without their labels.",
    )
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
    floors: bool = setting(
        True,
        "Whether what needs no encoder (majority, raw inputs) is measured beside the arms; of recipes that "
        "share a labelled set, one is enough.",
    )
    freeze: Literal["nothing", "stem"] = setting(
        "nothing",
        "Stem: what makes vectors of raw input (convolutions over samples, embeddings of tokens or patches) "
        "keeps its trained weights; training from scratch trains it all the same.",
    )
    pooling: Literal["first", "mean", "cells"] = setting(
        "mean",
        "How token features become one vector; cells puts the means of 4 x 4 parts of a picture side by side "
        "for probe and nearest neighbours, where it matters what is where.",
    )
    max_validation: int = setting(
        500, "At most this many validation rows choose the epoch and the probe's penalty.", ge=1
    )
    max_epochs: int = setting(20, "Passes over the labelled rows at most; `steps` caps them.", ge=1)
    patience: int = setting(
        5,
        "Looks at validation without a better score before stopping; has an effect beside `evaluate_every`.",
        ge=1,
    )
    scratch_compute: Literal["same_steps", "shared", "equal"] = setting(
        "same_steps",
        "What training from scratch may cost: the other arms' steps; in all its runs together as much more "
        "as pretraining cost (shared); or in each of its runs (equal). Released weights: same_steps.",
    )


@dataclass(frozen=True, kw_only=True)
class Report(Settings):
    """The page at the end."""

    num_embedded: int = setting(500, "Points of the embedding map.", ge=10)
    num_neighbours: int = setting(5, "Neighbours shown per query.", ge=1)


@dataclass(frozen=True, kw_only=True)
class Promote(Settings):
    """When a new model takes the place of the one in production; judged on the same test rows."""

    mode: Literal["never", "ask", "auto"] = setting(
        "never",
        "What follows a run: nothing; the better model waits for a person's word; or it is promoted at once.",
    )
    name: str | None = setting(None, "Name of the registered model; null takes the recipe's.")
    task: str | None = setting(None, "Labelled set that decides; null takes the only one.")
    metric: str | None = setting(None, "Score that decides; null takes the first one of the task's kind.")
    min_gain: float = setting(0.0, "Gain, 0 to 1, above which its whole 95 % interval must lie.", ge=0, lt=1)
    slices: tuple[Literal["label", "group", "source", "license"], ...] = setting(
        (), "Columns of the test rows; no set of rows with one value in them may lose."
    )
    min_slice_rows: int = setting(20, "Test rows of a slice from which on it is looked at.", ge=2)
    max_slowdown: float = setting(
        1.5, "Largest accepted time of an answer, in times of the champion's.", gt=0
    )


@dataclass(frozen=True, kw_only=True)
class Retrain(Settings):
    """What `retrain` begins with when there is something new to learn."""

    start: Literal["over", "champion"] = setting(
        "over",
        "Over: as the recipe says, from its first stage. Champion: the adapted encoder of the model in "
        "production is adapted to what the domain holds now, or pretrained further where nothing is adapted.",
    )


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
    watch: bool = setting(
        False, "Whether `make ui` keeps an eye on its sources, and trains again when they have changed."
    )
    retrain: Retrain = setting(Retrain(), "What a recurring training begins with.")
    promote: Promote = setting(
        Promote(), "When the fine-tuned model takes the place of the one in production."
    )


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


def plain(settings: Settings) -> dict[str, Any]:
    """Settings as JSON values with every default filled in, for hashes, records and tracking."""
    return dict(json.loads(TypeAdapter(type(settings)).dump_json(settings, by_alias=True)))
