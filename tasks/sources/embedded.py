"""Data that needs no download: the documentation on the user's own machine, letters of its fonts, voices.

    embedded://python-docs           Python's language topics, docstrings of the standard library and of
                                     installed packages that are not about science
    embedded://science-docs          docstrings of scientific packages, without the modules that the task
                                     validates and tests on
    embedded://web-docs              docstrings of web and database packages: a domain beside the point,
                                     the control that shows whether adaptation needs the *right* domain
    embedded://package-of-docstring  labelled: which package a docstring belongs to
    embedded://glyphs                pictures of capital letters, from which the test fonts are absent
    embedded://glyphs-general        pictures of small letters, digits and signs in the same fonts
    embedded://letter-of-glyph       labelled: which letter it is, tested on unseen fonts; with masks
    embedded://voices                words said by the synthetic voices of espeak-ng, an extra (GPL)
    embedded://spoken-digit          labelled: which digit one says, tested on unseen voices; with transcripts

Each is the same for the same installed versions, and capped so that a demo keeps its time.
"""

from __future__ import annotations

import ast
import functools
import platform
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tasks.errors import InputError, unknown
from tasks.sources import File, docstrings, glyphs, voices

SCHEME = "embedded://"
MIN_CHARACTERS = 100  # one-line docstrings repeat the name of what they document
# Characters, before deduplication. A character costs 0.7 microseconds to parse, and the small recipes
# read 2 to 5 million tokens, that is 8 to 20 million characters, in several passes.
MAX_GENERAL, MAX_SCIENCE_PER_PACKAGE, MAX_WEB = 6_000_000, 1_000_000, 3_000_000

WEB = frozenset(
    """
    aiobotocore aiohttp aiosqlite alembic asyncpg botocore celery django docker fastapi flask flask_cors
    graphene graphql gunicorn h11 h2 httpcore httpcore2 httpx httpx2 hpack itsdangerous jinja2 kombu
    oauthlib peewee psycopg psycopg2 pymongo pymysql redis requests requests_oauthlib s3fs sqlalchemy
    sqlparse starlette tornado urllib3 uvicorn websockets werkzeug yarl
    """.split()  # noqa: SIM905 - forty quoted names read worse
)
SCIENCE = ("networkx", "numpy", "pandas", "scipy", "sklearn", "sympy", "torch", "transformers")
# About science, statistics or data, so neither general nor part of the task.
NEAR_SCIENCE = frozenset(
    """
    PIL accelerate altair contourpy dask datasets datasketch datatrove evaluate fastparquet flax
    functorch gensim great_expectations huggingface_hub imageio isympy jax joblib keras kiwisolver
    lightgbm llvmlite matplotlib mlflow mpl_toolkits mpmath narwhals nltk numba onnx onnxruntime peft
    plotly polars py3langid pyarrow pylab ray safetensors seaborn sentencepiece seqeval shap skops spacy
    statsmodels tensorboard tensorflow threadpoolctl tokenizers torchaudio torchgen torchvision triton
    trl xarray xgboost
    """.split()  # noqa: SIM905 - forty quoted names read worse
)

Rows = Iterator[dict[str, Any]]


def files(location: str) -> Iterator[File]:
    """One file whose rows are the documents.

    Raises:
        InputError: nothing of that name is embedded, or the packages it comes from are missing.
    """
    name = _name(location)
    yield File(location=location, rows=functools.partial(_rows, name), columns=_COLUMNS.get(name, _DOCUMENTS))


def listing(location: str, *, full_hash: bool) -> dict[str, Any]:
    """Versions of Python and of the packages that the data comes from."""
    name = _name(location)
    versions = docstrings.versions()
    if name in {**glyphs.COLUMNS, **voices.COLUMNS}:
        packages = glyphs.PACKAGES if name in glyphs.COLUMNS else voices.PACKAGES
        versions = {key: value for key, value in versions.items() if key in packages}
    elif name != "python-docs":
        wanted = WEB if name == "web-docs" else {*SCIENCE, "scikit-learn"}
        versions = {
            key: value for key, value in versions.items() if key.replace("-", "_") in wanted or key in wanted
        }
    return {"packages": {"python": platform.python_version(), **dict(sorted(versions.items()))}}


def _name(location: str) -> str:
    name = location.removeprefix(SCHEME)
    if name not in EMBEDDED:
        raise InputError(f"{location}: {unknown('embedded set', name, EMBEDDED)}")
    return name


def _rows(name: str) -> Rows:
    yield from EMBEDDED[name]()


def _python_docs() -> Rows:
    yield from _topics()
    used = 0
    left_out = {*SCIENCE, *NEAR_SCIENCE, *WEB}
    others = {name: path for name, path in docstrings.installed().items() if name not in left_out}
    for packages in (docstrings.standard_library(), others):
        for row in _of(packages, is_standard=packages is not others):
            used += len(row["text"])
            if used > MAX_GENERAL:
                return
            yield row


def _topics() -> Rows:
    """The language reference as `help()` shows it, read off the file without importing it."""
    path = Path(sysconfig.get_paths()["stdlib"]) / "pydoc_data" / "topics.py"
    tree = docstrings.parse(path.read_bytes()) if path.is_file() else None
    for node in tree.body if tree else ():
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            for topic, text in ast.literal_eval(node.value).items():
                yield {"text": text.strip(), "group": f"pydoc_data/{topic}", "license": "PSF-2.0"}


def _web_docs() -> Rows:
    packages = {name: path for name, path in docstrings.installed().items() if name in WEB}
    if not packages:
        raise InputError(
            f"embedded://web-docs: none of {', '.join(sorted(WEB))} is installed; pip install sqlalchemy."
        )
    used = 0
    for row in _of(packages):
        used += len(row["text"])
        if used > MAX_WEB:
            return
        yield row


def _science_docs() -> Rows:
    from tasks.sources import which_package

    guarded = which_package.Fingerprints()
    for row in which_package.rows():
        if row["split"] != "train":
            guarded.is_new(row["text"])
    for name, path in docstrings.installed().items():
        if name not in SCIENCE:
            continue
        used = 0
        for row in _of({name: path}, skip=lambda module: which_package.split_of(module) != "train"):
            used += len(row["text"])
            if used > MAX_SCIENCE_PER_PACKAGE:
                break
            if not guarded.resembles(which_package.masked(row["text"])):
                yield row


def _of(
    packages: dict[str, Path],
    *,
    is_standard: bool = False,
    skip: Callable[[str], bool] = lambda module: False,
) -> Rows:
    """Documents of packages, module by module."""
    for module, path in docstrings.sources(packages):
        if skip(module):
            continue
        package = module.partition("/")[0].removesuffix(".py")
        licence = "PSF-2.0" if is_standard else docstrings.license_of(package)
        for text in docstrings.docstrings(path):
            if len(text) >= MIN_CHARACTERS:
                yield {"text": text, "group": module, "license": licence}


def _package_of_docstring() -> Rows:
    from tasks.sources import which_package

    yield from which_package.rows()


EMBEDDED: dict[str, Callable[[], Rows]] = {
    "python-docs": _python_docs,
    "science-docs": _science_docs,
    "web-docs": _web_docs,
    "package-of-docstring": _package_of_docstring,
    "glyphs": glyphs.letters,
    "glyphs-general": glyphs.others,
    "letter-of-glyph": glyphs.letter_task,
    "voices": voices.phrases,
    "spoken-digit": voices.digit_task,
}
_DOCUMENTS = {"group": "group", "license": "license"}
_COLUMNS = {"package-of-docstring": {**_DOCUMENTS, "split": "split"}, **glyphs.COLUMNS, **voices.COLUMNS}
