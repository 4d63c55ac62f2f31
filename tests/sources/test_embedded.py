from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks import sources
from tasks.errors import InputError
from tasks.sources import docstrings, embedded, which_package

MODULE = '''
"""About the module, in a sentence that is long enough to be kept as a document of its own."""

raise RuntimeError("imported")


class Shape:
    """A shape.

    Longer text.
    """

    def area(self):
        """The area."""

        def inner():
            """Left out."""


async def wait():
    """Wait."""


plain = """not a docstring"""
'''


def test_docstrings_are_parsed_in_order_and_nothing_is_imported(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(MODULE)
    found = docstrings.docstrings(path)
    assert [text.split("\n")[0][:16] for text in found] == [
        "About the module",
        "A shape.",
        "The area.",
        "Wait.",
    ]
    assert found[1] == "A shape.\n\nLonger text."
    assert "module" not in sys.modules


def test_a_file_that_python_cannot_parse_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text('"""A template."""\ndef {{ name }}():\n    pass\n')
    assert docstrings.docstrings(path) == ()


def test_the_order_of_modules_depends_on_their_names_alone(tmp_path: Path) -> None:
    for package in ("one", "two"):
        (tmp_path / package).mkdir()
        for name in "abc":
            (tmp_path / package / f"{name}.py").write_text("")
    packages = {name: tmp_path / name for name in ("one", "two")}
    names = [name for name, _ in docstrings.sources(packages)]
    assert names == [name for name, _ in docstrings.sources(dict(reversed(packages.items())))]
    assert names != sorted(names), "packages are mixed, so that a cap takes from all"


def test_names_aliases_doctests_and_house_style_are_removed() -> None:
    text = which_package.masked(
        """Return a DataFrame like :class:`~pandas.Series` from np.ndarray (NumPy, scikit-learn).

        Parameters
        ----------
        x : array-like of shape (n_samples, n_features)
            The torch.nn weights.

        Explanation
        ===========

        >>> import sympy
        >>> x
        42

        Some words after it.
        """
    )
    lowered = text.lower()
    for cue in ("pandas", "dataframe", "np", "numpy", "scikit", "torch", "nn.", "sympy", "42", "parameters"):
        assert not {cue, f"{cue}."} & {*lowered.split()}, text
    for cue in ("n_samples", "explanation", "---", "===", ">>>", "`"):
        assert cue not in lowered
    assert "Some words after it." in text
    assert "weights" in text


@pytest.fixture(scope="module")
def task_rows() -> Iterator[tuple[dict[str, object], ...]]:
    """The task over three packages of the eight: the others take half a minute to parse."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((which_package, "PACKAGES"), (embedded, "SCIENCE")):
            patch.setattr(module, name, ("networkx", "numpy", "sklearn"))
        which_package.rows.cache_clear()
        yield which_package.rows()
    which_package.rows.cache_clear()


def test_the_task_is_balanced_long_enough_and_split_by_file(task_rows: tuple[dict[str, str], ...]) -> None:
    counts = Counter((row["split"], row["label"]) for row in task_rows)
    assert {
        len({counts[split, label] for label in which_package.PACKAGES}) for split in which_package.ROWS
    } == {1}
    assert all(counts[split, "numpy"] >= which_package.ROWS[split] // 2 for split in which_package.ROWS)
    assert min(len(row["text"]) for row in task_rows) >= which_package.MIN_CHARACTERS
    splits_by_file: dict[str, set[str]] = {}
    for row in task_rows:
        splits_by_file.setdefault(row["group"], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in splits_by_file.values())


def test_no_two_rows_of_the_task_resemble_each_other(task_rows: tuple[dict[str, str], ...]) -> None:
    seen = which_package.Fingerprints()
    assert all(seen.is_new(row["text"]) for row in task_rows)


def test_the_domain_corpus_holds_nothing_of_the_tasks_test_and_validation_files(
    task_rows: tuple[dict[str, str], ...],
) -> None:
    (file,) = sources.files("embedded://science-docs")
    assert file.rows
    guarded = {row["group"] for row in task_rows if row["split"] != "train"}
    texts = {row["text"] for row in task_rows if row["split"] != "train"}
    documents = [*file.rows()]
    assert len(documents) > 1000
    assert guarded.isdisjoint(row["group"] for row in documents)
    assert texts.isdisjoint(
        which_package.masked(row["text"])[: which_package.MAX_CHARACTERS] for row in documents
    )


def test_general_text_comes_from_no_scientific_or_web_package_and_is_capped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(embedded, "MAX_GENERAL", 400_000)
    (file,) = sources.files("embedded://python-docs")
    assert file.rows
    rows = [*file.rows()]
    topics = [row for row in rows if row["group"].startswith("pydoc_data/")]
    assert len(topics) > 50
    assert {row["license"] for row in topics} == {"PSF-2.0"}
    homes = {row["group"].partition("/")[0] for row in rows}
    assert homes.isdisjoint({*embedded.SCIENCE, *embedded.NEAR_SCIENCE, *embedded.WEB})
    assert sum(len(row["text"]) for row in rows if row not in topics) <= 400_000
    assert rows == [*file.rows()], "the same for the same installed versions"


def test_listings_name_versions_and_web_packages_only_for_web() -> None:
    science = sources.listing("embedded://science-docs")["packages"]
    assert {"python", "numpy", "scikit-learn"} <= science.keys()
    assert "sqlalchemy" not in science
    web = sources.listing("embedded://web-docs")["packages"]
    assert "sqlalchemy" in web
    assert "numpy" not in web
    assert sources.listing("embedded://python-docs")["packages"].keys() > science.keys()


def test_an_unknown_set_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="did you mean 'python-docs'"):
        list(sources.files("embedded://python-doc"))
