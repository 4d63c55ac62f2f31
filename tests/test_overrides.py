"""One run with other values: which are set, whom they reach, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tasks import overrides, params
from tasks.errors import InputError

REAL = Path(__file__).parents[1] / "params.yaml"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(REAL.read_text())
    return path


def plain(text: str) -> Any:
    return YAML(typ="safe").load(text)


def expected(recipe: str, changes: dict[str, Any]) -> Any:
    """The same change on plain values, in which nothing is shared."""
    import json

    values = json.loads(json.dumps(plain(REAL.read_text())))
    for key, value in changes.items():
        parts = key.split(".")
        node = values if parts[0] in values else values["recipes"][recipe]
        for part in parts[:-1]:
            node = node.setdefault(part, {})
        node[parts[-1]] = value
    return values


@pytest.mark.parametrize("recipe", ["text-mlm", "image-mae", "image-ijepa", "cifar-simclr", "cifar-moco"])
@pytest.mark.parametrize(
    "changes",
    [
        {"pretrain.steps": 7},
        {"seed": 3, "finetune.num_seeds": 2, "pretrain.lr": 1e-5},
        {"adapt.ema_decay": 0.5, "encoders.bert-demo.config.hidden_size": 96},
        {"corpora.glyphs.duplicates.near": False},
    ],
)
def test_values_reach_the_recipe_that_is_meant_and_no_other(recipe: str, changes: dict[str, Any]) -> None:
    written = overrides.changed(REAL.read_text(), recipe, changes)
    assert plain(written) == expected(recipe, changes)
    kept = [line for line in REAL.read_text().splitlines() if line.lstrip().startswith("#")]
    assert [line for line in written.splitlines() if line.lstrip().startswith("#")] == kept


def test_changed_file_is_what_stages_read(file: Path) -> None:
    config = overrides.apply("text-mlm", {"pretrain.steps": 7}, file)
    assert config.recipe("text-mlm").pretrain.steps == 7
    assert params.load(file) == config


@pytest.mark.parametrize(
    ("recipe", "changes", "said"),
    [
        ("text-mlm", {"pretrain.stepz": 7}, "recipes.text-mlm.pretrain.stepz: unknown key 'stepz'; did you mean 'steps'?"),
        ("text-mlm", {"pretrain.steps": -5}, "recipes.text-mlm.pretrain.steps: input should be greater than"),
        ("text-mlm", {"pretrain.steps.more": 1}, "pretrain.steps.more: recipes.text-mlm.pretrain.steps is "),
        ("text-mlm", {"encoders.bert-dmo.config.hidden_size": 1}, "unknown encoder 'bert-dmo'; did you mean 'bert-demo'?"),
        ("text-mml", {"pretrain.steps": 7}, "unknown recipe 'text-mml'; did you mean 'text-mlm'?"),
        ("text-mlm", {"encoder": "nothing"}, "nothing"),
        ("text-mlm", {"corpora.x; curl evil #": {"modality": "text"}}, "whole entries are written into params.yaml"),
        ("text-mlm", {"recipes": {}}, "whole entries are written into params.yaml"),
        ("text-mlm", {"encoders.bert-base-uncased.from": "stranger/model"}, "hf://stranger/model lies outside"),
        ("text-mlm", {"corpora.glyphs.from": "/etc"}, "corpora.glyphs.from: /etc lies outside"),
        ("text-mlm", {"corpora.glyphs.from": "../up"}, "corpora.glyphs.from: ../up lies outside"),
        ("text-mlm", {"corpora.glyphs.from": "s3://theirs/x"}, "corpora.glyphs.from: s3://theirs/x lies outside"),
        ("text-mlm", {"encoders.bert-base-uncased.from": "/etc"}, "/etc lies outside"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_and_the_file_stays(
    file: Path, recipe: str, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        overrides.apply(recipe, changes, file)
    assert file.read_text() == REAL.read_text()
    assert [path.name for path in file.parent.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize(
    "place", ["/data/ours/notes", "s3://ours/notes", "photos", "public://emoji/emoji.tar"]
)
def test_places_that_are_allowed_can_be_named(
    file: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNMASK_ROOTS", "/data/ours s3://ours")
    assert overrides.apply("text-mlm", {"corpora.glyphs.from": place}, file).corpus("glyphs").source == (
        place,
    )


def test_link_does_not_lead_out_of_the_roots(file: Path) -> None:
    (file.parent / "door").symlink_to("/etc")
    with pytest.raises(InputError, match="door lies outside"):
        overrides.apply("text-mlm", {"corpora.glyphs.from": "door"}, file)


def test_paths_mean_the_project_where_the_file_lies_elsewhere(
    file: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path_factory.mktemp("project")
    (project / "photos").mkdir()
    (project / "door").symlink_to("/etc")
    monkeypatch.setenv("UNMASK_PROJECT", str(project))
    for place in ("photos", str(project / "photos")):
        config = overrides.apply("text-mlm", {"corpora.glyphs.from": place}, file)
        assert config.corpus("glyphs").source == (place,)
    with pytest.raises(InputError, match="door lies outside"):
        overrides.apply("text-mlm", {"corpora.glyphs.from": "door"}, file)


def test_command_line_gives_values_by_the_rules_of_yaml() -> None:
    words = ["pretrain.steps=500", "pretrain.lr=1e-3", "finetune.label_budgets=[50, all]", "encoder=a=b"]
    assert overrides.parsed(words) == {
        "pretrain.steps": 500, "pretrain.lr": 1e-3, "finetune.label_budgets": [50, "all"], "encoder": "a=b",
    }  # fmt: skip


@pytest.mark.parametrize("word", ["pretrain.steps", "=5", "a=[1"])
def test_command_line_that_says_nothing_is_refused(word: str) -> None:
    with pytest.raises(InputError, match="expected key=value"):
        overrides.parsed([word])
