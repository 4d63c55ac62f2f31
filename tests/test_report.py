"""The report: true sentences, whole pages from whatever a run left, nothing fetched, nothing unescaped."""

import contextlib
import itertools
import json
import math
import random
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.settings import Settings
from tasks import report, stage
from tasks.config import Adapt, Config, Corpus, Finetune, Pretrain, Recipe, Report, Validate
from tasks.errors import InputError
from tasks.journal import Run
from tasks.pages import curves, figures, mistakes, neighbours, plots, score_figures, wording
from tasks.pages.scores import Score, by_task, standing

Line = dict[str, Any]
LABELS = ["numpy", "pandas", "scipy", "sympy"]
EVIL = '<script>alert("x")</script><img src="http://evil.example/x.png">'


def row(arm: str, method: str, budget: str, mean: float, half: float, **more: Any) -> Line:
    return {
        "task": "package",
        "kind": "classification",
        "arm": arm,
        "method": method,
        "budget": budget,
        "metric": "accuracy",
        "mean": mean,
        "low": mean - half,
        "high": mean + half,
        "seeds": 5,
        **more,
    }


def summary(
    scratch: float = 0.364,
    pretrained: float = 0.439,
    adapted: float = 0.629,
    floor: float = 0.528,
    half: float = 0.02,
    budgets: Sequence[str] = ("50",),
    **more: Any,
) -> list[Line]:
    rows = []
    for budget in budgets:
        for arm, mean in (("scratch", scratch), ("pretrained", pretrained), ("adapted", adapted)):
            rows.append(row(arm, "finetune", budget, mean, half, **more))
        rows.append(row("tfidf", "floor", budget, floor, half, **more))
        rows.append(row("majority", "floor", budget, 0.125, 0.0, **{**more, "seeds": 1}))
    return rows


def test_more_steps_for_training_from_scratch_are_told() -> None:
    lines = [
        row("scratch", "finetune", "260", 0.775, 0.02, steps=1485),
        row("pretrained", "finetune", "260", 0.794, 0.02, steps=300),
    ]
    told = "Training from scratch had 1,485 steps with 260 labels where pretrained weights had 300"
    assert told in " ".join(report.verdict(lines))
    lines[0]["steps"] = 300
    assert "1,485" not in " ".join(report.verdict(lines))
    assert "Training from scratch had" not in " ".join(report.verdict(lines))


def config() -> Config:
    recipe = Recipe(
        modality="text",
        description="A small BERT on documentation.",
        general="docs",
        domain="science",
        tasks="science",
        encoder="bert-mini",
        validate=Validate(),
        prepare=Settings(),
        pretrain=Pretrain(objective=Settings()),
        adapt=Adapt(),
        finetune=Finetune(),
        report=Report(num_embedded=120, num_neighbours=3),
    )
    return Config(
        corpora={name: Corpus() for name in ("docs", "science", "none")}, recipes={"text-mlm": recipe}
    )


def leave_run(root: Path, rows: list[Line] | None = None, name: str = "text-mlm") -> None:
    """The files of a whole run, as the stages write them."""
    rows = (
        [
            *_curve(),
            *summary(task="entities", metric="entity_f1", kind="token_classification", budgets=("200",)),
        ]
        if rows is None
        else rows
    )
    for corpus in ("docs", "science"):
        _write(root / f"data/corpora/{corpus}/manifest.json", _manifest(corpus))
    _write(root / f"data/validated/{name}/validation.json", _validation())
    _write(root / f"data/prepared/{name}/manifest.json", _prepared())
    run = root / "runs" / name
    _write(run / "pretrain/losses.json", _losses(600, 8.5, 3.6))
    _write(run / "adapt/losses.json", _losses(400, 4.3, 3.2))
    _write(
        run / "adapt/gap.json",
        {
            "general": {"before": 3.56, "after": 3.74},
            "domain": {"before": 4.34, "after": 3.18},
            "forgetting": 0.18,
            "budget": 0.5,
            "within_budget": True,
            "overlap": 0.62,
            "fertility": {"general": 1.41, "domain": 1.58},
            "features": {
                "frechet": {"before": 0.412, "after": 0.377},
                "a_distance": {"before": 1.2, "after": 1.6},
            },
        },
    )
    _write(run / "finetune/summary.json", rows)
    _tables(run / "finetune")
    for made, seconds in (("pretrain", 166.2), ("adapt", 111.0), ("finetune", 95.5)):
        _write(
            run / f"{made}.record.json",
            {
                "stage": made,
                "recipe": name,
                "seconds": seconds,
                "samples": 38400,
                "units": 2457600,
                "unit": "tokens",
                "device": "cpu",
                "threads": 2,
                "peak_memory_bytes": 812_000_000,
                "mlflow_run_id": f"{made}0123456789abcdef",
                "git_commit": "0123456789abcdef0123456789abcdef01234567",
                "versions": {"torch": "2.13.0", "transformers": "5.23.0"},
            },
        )
    (root / "dvc.lock").write_text(
        "schema: '2.0'\nstages:\n"
        f"  pretrain@{name}:\n    cmd: python -m tasks.pretrain {name}\n    outs:\n"
        f"    - path: runs/{name}/pretrain\n      hash: md5\n"
        "      md5: 3e8810829533b7caba0175e446596b88.dir\n      size: 6800000\n"
    )


def _curve() -> list[Line]:
    levels = {
        ("scratch", "finetune"): (0.364, 0.469, 0.669),
        ("pretrained", "finetune"): (0.439, 0.573, 0.673),
        ("adapted", "finetune"): (0.629, 0.704, 0.774),
        ("scratch", "probe"): (0.263, 0.407, 0.516),
        ("pretrained", "probe"): (0.332, 0.445, 0.535),
        ("adapted", "probe"): (0.607, 0.693, 0.733),
        ("tfidf", "floor"): (0.528, 0.711, 0.803),
        ("majority", "floor"): (0.26, 0.26, 0.26),
    }
    return [
        row(arm, method, budget, mean, 0 if arm == "majority" else 0.025, seeds=1 if arm == "majority" else 5)
        for (arm, method), means in levels.items()
        for budget, mean in zip(("50", "200", "all"), means, strict=True)
    ]


def _manifest(corpus: str) -> Line:
    tasks = {
        "package": {
            "kind": "classification",
            "labels": LABELS,
            "splits": {"train": 2880, "validation": 640, "test": 240},
        },
        "entities": {
            "kind": "token_classification",
            "labels": ["O", "B-Disease"],
            "splits": {"train": 500, "test": 60},
        },
    }
    return {
        "corpus": corpus,
        "modality": "text",
        "counts": {
            "read": 81_223,
            "kept": 42_001,
            "exact_duplicates": 30_120,
            "near_duplicates": 9_000,
            "rejected": {"empty": 90, "over_long": 12},
            "encoding_errors": 3,
        },
        "sources": [
            {
                "location": f"package-{i}",
                "license": "BSD-3-Clause" if i % 2 else None,
                "records": 700 + i,
                "sha256": f"{i:064x}",
            }
            for i in range(30)
        ],
        "files": [],
        "tasks": tasks if corpus == "science" else {},
    }


def _validation() -> Line:
    failed = {
        "slot": "domain",
        "column": "near_duplicate",
        "expectation": "expect_column_mean_to_be_between",
        "severity": "warning",
        "passed": False,
        "table": "records",
        "remedy": "Raise `validate.max_near_duplicates`.",
        "observed": 0.0712,
        "unexpected": 214,
        "examples": ["9f31c", "a01b2"],
    }
    passed = {**failed, "slot": "general", "column": "length", "passed": True}
    return {
        "passed": True,
        "checks": [passed, passed, failed],
        "leakage": [
            {
                "task": "package",
                "split": "test",
                "found_in": "domain",
                "kind": "exact",
                "rows": 52,
                "of": 240,
                "removed": 61,
            },
            {"task": "package", "split": "validation", "found_in": "train", "kind": "near", "rows": 0},
        ],
        "overlap": {"general~domain": 0.62},
        "comparisons": {"general~domain": {"vocabulary_overlap": 0.62, "token_overlap": 0.91}},
        "statistics": {
            "general": {"rows": 31_000, "metrics": {"length": {"mean": 812.3, "median": 600}}},
            "domain": {"rows": 9_000, "metrics": {"length": {"mean": 402.0, "median": 333}}},
        },
    }


def _prepared() -> Line:
    numbers = {"rows": 20_312, "tokens": 2_600_000, "documents": 31_000}
    return {
        "modality": "text",
        "sequence_length": 128,
        "vocabulary_size": 4096,
        "slots": {"general": {"train": numbers, "heldout": numbers}, "domain": {"train": numbers}},
        "fertility": {"general": 1.41, "domain": 1.58},
        "unknown_rate": {"general": 0.001, "domain": 0.004},
        "files": [],
    }


def _losses(steps: int, start: float, end: float) -> Line:
    noise = random.Random(0)
    at = [(step, end + (start - end) * math.exp(-4 * step / steps)) for step in range(0, steps + 1, 5)]
    return {
        "train": [
            {
                "step": step,
                "loss": loss + noise.gauss(0, 0.06),
                "lr": 1e-3 * (1 - step / steps),
                "accuracy": 0.6 * step / steps,
                "gradient_norm": 0.4 + 0.3 * math.exp(-step / 100) + noise.random() * 0.1,
            }
            for step, loss in at
        ],
        "heldout": {
            "general": [{"step": s, "loss": v + 0.2} for s, v in at[::20]],
            "domain": [{"step": s, "loss": v + 0.6} for s, v in at[::20]],
        },
        "health": [{"step": s, "effective_rank": 0.6 - 0.1 * s / steps} for s, _ in at[::10]],
        "probes": [
            {"step": s, "knn.package": 0.2 + 0.3 * s / steps, "probe.package": 0.3 + 0.4 * s / steps}
            for s, _ in at[::30]
        ],
    }


def _tables(folder: Path) -> None:
    noise = random.Random(1)
    results, predictions, embeddings = [], [], []
    for arm, level in (("scratch", 0.66), ("adapted", 0.77)):
        for seed in range(3):
            results.append(
                {
                    "task": "package",
                    "kind": "classification",
                    "arm": arm,
                    "method": "finetune",
                    "budget": "all",
                    "seed": seed,
                    "metric": "accuracy",
                    "validation": level + 0.01 * seed,
                    "test": level,
                }
            )
    results.append(
        {
            **results[-1],
            "task": "entities",
            "kind": "token_classification",
            "budget": "200",
            "metric": "entity_f1",
        }
    )
    for place in range(240):
        label = LABELS[(place * 7 + place // 9) % 4]
        text = (
            f"Return the {label} array of row {place}, with broadcasting over all axes but the last one."
            + EVIL
        )
        common = {
            "task": "package",
            "method": "finetune",
            "budget": "all",
            "id": f"row-{place:04}",
            "label": label,
        }
        for arm, level in (("scratch", 0.66), ("adapted", 0.77)):
            for seed in range(3):
                guess = label if noise.random() < level else noise.choice(LABELS)
                predictions.append({**common, "arm": arm, "seed": seed, "prediction": guess})
        centre = LABELS.index(label)
        vector = [noise.gauss(2.0 * (axis == centre), 0.7) for axis in range(12)]
        embeddings.append(
            {"task": "package", "id": common["id"], "label": label, "text": text, "vector": vector}
        )
    predictions.append(
        {
            "task": "entities",
            "arm": "adapted",
            "method": "finetune",
            "budget": "200",
            "seed": 2,
            "id": "n1",
            "label": "O B-Disease I-Disease O B-Gene",
            "prediction": "O B-Disease I-Disease O O",
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("results", results), ("predictions", predictions), ("embeddings", embeddings)):
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


class Page(HTMLParser):
    """Tags with their attributes, and the text of the page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("UNMASK_FLOW_RUN_ID", raising=False)
    monkeypatch.delenv("UNMASK_FLOW_RUN_URL", raising=False)
    return tmp_path


def render(project: Path) -> str:
    report.run("text-mlm", config())
    return (project / "runs/text-mlm/report/report.html").read_text()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a whole run, made once."""
    root = tmp_path_factory.mktemp("whole")
    with contextlib.chdir(root):
        leave_run(root)
        return render(root)


# Sentences


def test_headline_says_that_adaptation_lifts_where_the_intervals_are_apart() -> None:
    headline = report.verdict(summary())[0]
    assert (
        "Pretraining and adaptation lift accuracy on package over training from scratch by 26.5 points"
        in headline
    )
    assert "intervals apart" in headline
    assert "tf-idf stays below with 50 labels" in headline


def test_headline_says_so_where_training_made_it_worse() -> None:
    headline = report.verdict(summary(scratch=0.7, adapted=0.5))[0]
    assert "lower accuracy on package over training from scratch by 20.0 points" in headline
    assert "lift" not in headline


def test_headline_claims_nothing_where_intervals_overlap() -> None:
    headline = report.verdict(summary(scratch=0.61, adapted=0.63))[0]
    assert "no difference to accuracy on package" in headline
    assert "intervals apart" not in headline


@pytest.mark.parametrize(
    ("floor", "words"),
    [(0.75, "tf-idf is better"), (0.64, "tf-idf cannot be told from it"), (0.4, "tf-idf stays below")],
)
def test_headline_places_the_floor_where_the_numbers_place_it(floor: float, words: str) -> None:
    assert words in report.verdict(summary(floor=floor))[0]


def test_one_seed_is_not_called_a_difference() -> None:
    headline = report.verdict(summary(seeds=1, half=0.0))[0]
    assert "one seed, no interval" in headline
    assert "apart" not in headline


def test_less_is_better_for_losses() -> None:
    a, b = (Score.of(row("adapted", "finetune", "50", mean, 1, metric="perplexity")) for mean in (40, 90))
    assert standing(a, b) == "above"
    assert standing(b, a) == "below"


def test_outcomes_that_differ_by_budget_are_told_apart() -> None:
    rows = summary(budgets=("50",)) + summary(budgets=("all",), scratch=0.62, adapted=0.63, floor=0.8)
    headline = report.verdict(rows)[0]
    assert "by 26.5 points with 50 labels (intervals apart)" in headline
    assert "no difference to it that the intervals can tell with all labels" in headline
    assert "stays below with 50 labels and is better with all labels" in headline


def test_several_tasks_are_counted() -> None:
    rows = summary(task="a") + summary(task="b", scratch=0.62, floor=0.8)
    headline = report.verdict(rows)[0]
    assert "in 1 of 2 comparisons, not told apart in 1" in headline
    assert "tf-idf is better than the adapted model in 1 of 2 comparisons, worse in 1" in headline


def test_steps_are_told_apart_below_the_headline() -> None:
    steps = report.verdict(summary())[1]
    assert "pretraining alone lifts accuracy from 36.4 to 43.9 %" in steps
    assert "adaptation after it lifts accuracy from 43.9 to 62.9 %" in steps


def test_one_arm_alone_is_not_said_to_have_bought_anything() -> None:
    rows = [line for line in summary() if line["arm"] in ("adapted", "tfidf")]
    assert report.verdict(rows)[0].startswith("Only the adapted arm was run")


def test_no_tasks_make_one_sentence() -> None:
    assert len(report.verdict([])) == 1
    assert "No labelled task" in report.table([])


# Table in the terminal


def test_table_fits_a_hundred_columns_with_five_budgets() -> None:
    rows = summary(budgets=("50", "100", "200", "1000", "all"))
    assert max(map(len, report.table(rows).splitlines())) <= 100


def test_table_holds_numbers_intervals_and_the_verdict() -> None:
    text = report.table(summary())
    assert re.search(r"adapted +fine-tuned +62\.9\* \[60\.9–64\.9\]", text)
    assert re.search(r"tf-idf +floor +52\.8 ", text)
    assert " ".join(text.split()).endswith(report.verdict(summary())[0])


def test_no_star_where_the_best_cannot_be_told_from_the_second() -> None:
    assert "*" not in report.table(summary(floor=0.61))


# The page


def test_page_of_a_whole_run_has_every_section_filled(whole: str) -> None:
    text = Page(whole).text
    assert "beat training from scratch in all 4 comparisons" in text
    for fact in (
        "62.9",
        "60.4–65.4",
        "Within the budget",
        "nearest neighbours carry",
        "52",
        "expect column mean",
        "3e8810829533b7caba0175e446596b88.dir",
        "0123456789ab",
        "pretrain0123456789abcdef",
        "tokens",
        "dvc repro report@text-mlm",
        "BSD-3-Clause",
        "2 min 46 s",
        "adapted, fine-tuned on all labels, seed 2",
    ):
        assert fact in text, fact
    assert "Disease" in text
    assert 'class="absent"' not in whole
    assert len(whole.encode()) < 2_000_000


def test_broken_expectation_stands_beside_its_remedy(whole: str) -> None:
    (line,) = re.findall(r"<tr>.*near_duplicate</td>.*</tr>", whole)
    assert "Raise <code>validate.max_near_duplicates</code>." in line


def test_page_asks_nothing_of_the_network(whole: str) -> None:
    for tag, attributes in Page(whole).tags:
        for key in ("src", "href", "srcset", "data", "action", "xlink:href"):
            value = attributes.get(key) or ""
            assert tag == "a" or not re.match(r"(https?:)?//", value), (tag, value)
        assert tag not in {"iframe", "object", "embed", "base", "img"}
    assert "@import" not in whole
    assert not re.search(r"url\((?!#)", whole)


def test_data_is_escaped_everywhere(project: Path) -> None:
    rows = _curve()
    for line in rows:
        line["task"] = EVIL
    leave_run(project, rows)
    validation = _validation()
    for line in (*validation["checks"], *validation["leakage"]):
        line.update({key: EVIL for key in ("slot", "column", "task", "found_in") if key in line})
    _write(project / "data/validated/text-mlm/validation.json", validation)
    page = Page(render(project))
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not any(tag == "img" for tag, _ in page.tags)
    assert EVIL in page.text


def test_masks_are_not_shown_as_words(project: Path) -> None:
    rows = summary(task="package", metric="mean_iou", kind="segmentation")
    leave_run(project, rows)
    page = render(project)
    assert "word for word" not in page
    assert "No predictions of a trained model were kept" in page


def test_same_files_give_the_same_bytes(project: Path) -> None:
    leave_run(project)
    folder = project / "runs/text-mlm/report"
    render(project)
    first = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    render(project)
    assert first == {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
    assert {path.suffix for path in first} == {".html", ".svg", ".png"}


@pytest.mark.parametrize(
    "missing",
    [
        ("runs/text-mlm/finetune/summary.json", "data/corpora/science/manifest.json"),
        (
            "runs/text-mlm/finetune/results.parquet",
            "runs/text-mlm/finetune/embeddings.parquet",
            "runs/text-mlm/adapt/gap.json",
            "data/validated/text-mlm/validation.json",
        ),
        (
            "runs/text-mlm/finetune/predictions.parquet",
            "runs/text-mlm/adapt/losses.json",
            "data/prepared/text-mlm/manifest.json",
            "dvc.lock",
        ),
        ("runs/text-mlm/pretrain/losses.json", "runs/text-mlm/pretrain.record.json"),
    ],
)
def test_missing_files_leave_a_page_without_empty_figures(project: Path, missing: tuple[str, ...]) -> None:
    leave_run(project)
    for path in missing:
        (project / path).unlink()
    html = render(project)
    assert "<svg" in html
    assert not re.search(r"<tbody>\s*</tbody>|<svg[^>]*>\s*</svg>", html)


def test_a_run_that_left_nothing_but_its_folder_is_told_in_sentences(project: Path) -> None:
    (project / "runs/text-mlm").mkdir(parents=True)
    html = render(project)
    assert len(re.findall('class="absent"', html)) >= 7
    assert "<figure" not in html


def test_a_run_without_tasks_has_a_headline_of_losses_and_says_what_it_forgot(project: Path) -> None:
    gap = {
        "domain": {"before": 4.34, "after": 3.18},
        "forgetting": 0.9,
        "budget": 0.5,
        "within_budget": False,
    }
    _write(project / "runs/text-mlm/adapt/gap.json", gap)
    text = Page(render(project)).text
    assert "Adaptation lowers the held-out loss on the domain: 4.34 before, 3.18 after" in text
    assert "Over the budget." in text


def test_the_flow_run_is_linked_only_by_a_web_address(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "runs/text-mlm").mkdir(parents=True)
    monkeypatch.setenv("UNMASK_FLOW_RUN_ID", "flow-7")
    monkeypatch.setenv("UNMASK_FLOW_RUN_URL", "http://127.0.0.1:4200/runs/flow-run/flow-7")
    assert 'href="http://127.0.0.1:4200/runs/flow-run/flow-7"' in render(project)
    monkeypatch.setenv("UNMASK_FLOW_RUN_URL", "javascript:alert(1)")
    html = render(project)
    assert "javascript:" not in html
    assert "flow-7" in html


def test_generated_samples_and_perplexity_are_shown(project: Path) -> None:
    sample = {"arm": "adapted", "prompt": "Return the", "text": "mean of <b>x</b>"}
    score = {
        "arm": "adapted",
        "slot": "domain",
        "perplexity": 41.27,
        "bits_per_character": 1.93,
        "tokens": 900,
    }
    _write(
        project / "runs/text-mlm/finetune/samples.json", {"perplexity": [score], "samples": [sample, sample]}
    )
    text = Page(render(project)).text
    assert "mean of <b>x</b>" in text
    assert "41.3" in text
    assert "1.930" in text


@pytest.mark.parametrize("generates", [True, False])
def test_navigation_links_the_sections_that_are_there(project: Path, generates: bool) -> None:
    samples = [{"arm": "adapted", "prompt": "Return the", "text": "mean"}] if generates else []
    _write(project / "runs/text-mlm/finetune/samples.json", {"samples": samples})
    tags = Page(render(project)).tags
    links = [attributes["href"] for tag, attributes in tags if tag == "a"]
    assert links == [f"#{attributes['id']}" for tag, attributes in tags if tag == "section"]
    assert ("#samples" in links) is generates


def test_a_recipe_that_never_ran_is_an_error_with_the_next_step(project: Path) -> None:
    with pytest.raises(InputError, match="dvc repro report@text-mlm"):
        report.run("text-mlm", config())


@pytest.mark.parametrize("path", ["finetune/summary.json", "finetune/results.parquet"])
def test_a_damaged_file_is_named(project: Path, path: str) -> None:
    leave_run(project)
    (project / "runs/text-mlm" / path).write_text("{]")
    with pytest.raises(InputError, match=path):
        report.run("text-mlm", config())


def test_gains_are_the_stage_s_metrics(project: Path) -> None:
    _write(project / "runs/text-mlm/finetune/summary.json", summary())
    context = stage.Context("text-mlm", config(), Run(None), project / "scratch")
    assert report.work(context).metrics["package.50.gain"] == pytest.approx(26.5)


# Parts


def test_confusion_counts_are_those_of_the_pairs() -> None:
    found = mistakes.confusion([("a", "a"), ("a", "b"), ("b", "b"), ("a", "b")])
    assert found.counts == [[1, 2], [0, 1]]
    assert found.worst == [("a", "b", 2, 3)]
    assert (found.correct, found.total) == (2, 4)


def test_rare_labels_are_joined_and_no_row_is_lost() -> None:
    found = mistakes.confusion([(f"label-{n:03}", f"label-{n:03}") for n in range(60)])
    assert len(found.labels) == mistakes.MOST_CLASSES
    assert sum(map(sum, found.counts)) == 60


def test_entity_scores_equal_seqeval() -> None:
    from seqeval.metrics import classification_report

    pairs = [
        ("O B-D I-D O B-G", "O B-D O O B-G"),
        ("B-D O B-G I-G", "B-D O B-G I-G"),
        ("O O B-D", "B-G O B-D"),
    ]
    peer = classification_report(
        [a.split() for a, _ in pairs], [b.split() for _, b in pairs], output_dict=True, zero_division=0
    )
    for score in mistakes.entity_scores(pairs):
        assert score.f1 == pytest.approx(peer[score.entity]["f1-score"])
        assert score.support == peer[score.entity]["support"]


def test_neighbours_are_the_nearest_by_angle() -> None:
    import numpy as np

    vectors = np.array([[1, 0], [10, 1], [0, 1], [0.1, 5], [-1, 0]], np.float32)
    rows = [{"id": str(n), "label": label, "text": f"t{n}"} for n, label in enumerate("aabbc")]
    found = neighbours.neighbourhood(rows, vectors, 1)
    assert found is not None
    assert [query.neighbours[0].text for query in found.queries] == ["t1", "t3", "t2"]
    assert found.agreement == pytest.approx(4 / 5)


def test_names_at_line_ends_keep_their_distance_and_their_order() -> None:
    moved = plots.spread([0.5, 0.51, 0.1, 0.505], 0.1)
    order = sorted(moved)
    assert all(b - a >= 0.1 - 1e-9 for a, b in itertools.pairwise(order) if a > 0.3)
    assert moved[2] == 0.1
    assert moved[0] < moved[3] < moved[1]


def test_readings_are_drawn_by_task_in_per_cent(tmp_path: Path) -> None:
    readings = [{"step": s, "knn.a.b": 0.1, "probe.a.b": 0.42, "knn.c": 0.2} for s in (0, 50)]
    (stage,) = curves.figures_of(
        {"pretrain": {"train": [{"step": 1, "loss": 2.0}], "probes": readings}}, tmp_path
    )
    both, one = stage["small"]
    assert both.caption == "a.b: accuracy of k-NN and probe on validation rows in pretrain, by step."
    assert one.caption == "c: accuracy of k-NN on validation rows in pretrain, by step."
    assert {"a.b: accuracy, %", "k-NN", "probe", "40"} <= set(re.findall(r">([^<>]+)</text>", both.svg))
    assert len({path.name for path in tmp_path.glob("readings-*.svg")}) == 2


def test_arms_of_one_number_of_labels_stand_below_each_other(tmp_path: Path) -> None:
    rows = [
        {"task": "t", "arm": arm, "method": method, "budget": "50", "metric": "accuracy", "mean": 0.5,
         "low": 0.4, "high": 0.6, "seeds": 5}
        for arm, method in [("pixel_lr", "floor"), ("scratch", "finetune"), ("scratch", "knn")]
    ]  # fmt: skip
    (task,) = by_task(rows)
    plot = score_figures.label_budgets(task, None, tmp_path)
    assert "with 50 labels" in plot.caption
    names = [text for text in re.findall(r">([^<>]+)</text>", plot.svg) if "s" in text]
    assert names == ["scratch, fine-tuned", "scratch, k-NN", "pixels, logistic"]


def test_an_a_distance_is_said_as_what_a_classifier_gets_right(whole: str) -> None:
    text = Page(whole).text
    assert "right about the corpus of 80.0 % of held-out samples before adaptation" in text
    assert "and of 90.0 % after it; guessing gives 50 %" in text


def test_inline_figures_take_the_page_s_colours(tmp_path: Path) -> None:
    plot = figures.gap({"domain": {"before": 4.0, "after": 3.0}}, tmp_path)
    assert "var(--c1)" in plot.svg
    assert not re.search("#[0-9a-f]{6}", plot.svg, re.IGNORECASE)
    assert "var(" not in (tmp_path / "transfer-gap.svg").read_text()


def test_tasks_whose_names_differ_in_lost_letters_keep_files_of_their_own() -> None:
    assert len({plots.slug(name) for name in ("a b", "a/b", "任务一", "任务二", "a-b")}) == 5


def test_dollars_in_names_are_not_formulas(tmp_path: Path) -> None:
    plot = figures.confusion("price $x$", ["$a", "b_$\\frac"], [[1, 0], [0, 2]], "", tmp_path)
    assert "$a" in plot.svg


@pytest.mark.parametrize(
    ("rate", "unit", "words"),
    [
        (33_400, "tokens", "33.4 k tokens per second"),
        (1.5, "runs", "1.5 runs per second"),
        (0.233, "runs", "4.3 s per run"),
        (1 / 150, "seconds of audio", "2 min 30 s per second of audio"),
    ],
)
def test_pace_is_said_in_the_direction_that_makes_numbers_above_one(
    rate: float, unit: str, words: str
) -> None:
    assert wording.pace(rate, unit) == words


def test_code_in_sentences_is_set_as_code_and_all_else_is_escaped() -> None:
    assert wording.with_code("Lower `a.b` < 1.") == "Lower <code>a.b</code> &lt; 1."


def test_excerpts_are_one_line_cut_at_a_word() -> None:
    text = wording.excerpt("a\x00b\n" + "word " * 100, 40)
    assert len(text) <= 42
    assert text.startswith("a b word")
    assert text.endswith("word …")
