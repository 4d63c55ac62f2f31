"""Answers of a fine-tuned transformers model to raw text, pictures or sound; travels with models in MLflow.

Needs torch, transformers and pandas (and Pillow for pictures, soundfile and soxr for recordings), and
nothing else of this project, so that a model folder works wherever it is taken. Weights are read from
safetensors and no code that lies beside them is run. A picture or recording is a file's bytes in base64.
"""

from __future__ import annotations

import base64
import importlib.metadata
import io
import itertools
import json
from pathlib import Path
from typing import Any

KINDS = {
    "ForSequenceClassification": "classification",
    "ForTokenClassification": "token_classification",
    "ForQuestionAnswering": "question_answering",
    "ForImageClassification": "image_classification",
    "ForCTC": "transcription",
}
INPUTS = {
    "classification": ("text",),
    "token_classification": ("text",),
    "question_answering": ("question", "text"),
    "image_classification": ("picture",),
    "audio_classification": ("recording",),
    "transcription": ("recording",),
}
OUTPUTS = {
    "classification": ("label", "score"),
    "token_classification": ("words", "tags"),
    "question_answering": ("answer", "score"),
    "image_classification": ("label", "score"),
    "audio_classification": ("label", "score"),
    "transcription": ("text",),
}
PACKAGES = {
    "image_classification": ["pillow"],
    "audio_classification": ["soundfile", "soxr"],
    "transcription": ["soundfile", "soxr"],
}
LONGEST_ANSWER = 30  # tokens


def kind(folder: Path) -> str:
    """What the model in a folder predicts, by the class that its config names."""
    config = json.loads((Path(folder) / "config.json").read_text())
    architectures = config.get("architectures") or [""]
    if "conv_stride" in config and architectures[0].endswith("ForSequenceClassification"):
        return "audio_classification"  # a sequence of samples
    for suffix, name in KINDS.items():
        if architectures[0].endswith(suffix):
            return name
    raise ValueError(
        f"{folder}: cannot serve a {architectures[0] or 'model without architectures'}; known: {KINDS}"
    )


def opens_anywhere(folder: Path) -> bool:
    """Whether transformers alone opens the model, without an architecture of this project."""
    from transformers.models.auto import modeling_auto

    model_type = json.loads((Path(folder) / "config.json").read_text())["model_type"]
    return model_type in modeling_auto.MODEL_MAPPING_NAMES


def example(value: str | bytes) -> str:
    """An input as it is sent."""
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def requirements(kind: str) -> list[str]:
    """The packages that answering needs, as installed here."""
    names = ["torch", "transformers", "safetensors", "pandas", "mlflow"]
    names += PACKAGES.get(kind, [])
    return [f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in names]


class Answerer:
    """A model and its tokenizer or image processor, called with a table of inputs."""

    def __init__(self, folder: Path) -> None:
        import transformers

        self.kind = kind(folder)
        suffix = next(
            (suffix for suffix, name in KINDS.items() if name == self.kind), "ForAudioClassification"
        )
        auto = getattr(transformers, f"AutoModel{suffix}")
        self.model = auto.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
        if self.kind == "image_classification":
            self.processor = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
            return
        if self.kind in ("audio_classification", "transcription"):
            self.processor = transformers.AutoFeatureExtractor.from_pretrained(folder, local_files_only=True)
            return
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        positions = getattr(self.model.config, "max_position_embeddings", None)
        self.longest = min(self.tokenizer.model_max_length, positions or self.tokenizer.model_max_length)

    def predict(self, inputs: Any, params: dict[str, Any] | None = None) -> Any:
        """A table with one row of answers per row of inputs."""
        import pandas as pd
        import torch

        columns = INPUTS[self.kind]
        table = pd.DataFrame(inputs) if not isinstance(inputs, pd.DataFrame) else inputs
        if len(columns) == 1 and list(map(str, table.columns)) == ["0"]:  # a bare list of texts
            table.columns = list(columns)
        missing = [column for column in columns if column not in table]
        if missing:
            raise ValueError(f"missing columns {missing}; this model reads {list(columns)}")
        answer = getattr(self, f"_{self.kind}")
        with torch.inference_mode():
            rows = [answer(*row) for row in table[list(columns)].astype(str).itertuples(index=False)]
        return pd.DataFrame(rows, columns=list(OUTPUTS[self.kind]))

    def _classification(self, text: str) -> tuple[str, float]:
        encoded = self.tokenizer(text, truncation=True, max_length=self.longest, return_tensors="pt")
        best = self.model(**encoded).logits[0].softmax(-1).max(-1)
        return self.model.config.id2label[int(best.indices)], float(best.values)

    def _image_classification(self, picture: str) -> tuple[str, float]:
        from PIL import Image

        with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
            is_grey = self.model.config.num_channels == 1
            pixels = self.processor(image.convert("L" if is_grey else "RGB"), return_tensors="pt")
        best = self.model(**pixels).logits[0].softmax(-1).max(-1)
        return self.model.config.id2label[int(best.indices)], float(best.values)

    def _heard(self, recording: str) -> Any:
        """The model's logits for a recording, [T, V] or [labels]."""
        import soundfile
        import soxr

        samples, rate = soundfile.read(
            io.BytesIO(base64.b64decode(recording)), dtype="float32", always_2d=True
        )
        wanted = self.processor.sampling_rate
        mono = soxr.resample(samples.mean(1), rate, wanted) if rate != wanted else samples.mean(1)
        return self.model(**self.processor(mono, sampling_rate=wanted, return_tensors="pt")).logits[0]

    def _audio_classification(self, recording: str) -> tuple[str, float]:
        best = self._heard(recording).softmax(-1).max(-1)
        return self.model.config.id2label[int(best.indices)], float(best.values)

    def _transcription(self, recording: str) -> tuple[str]:
        names, blank = self.model.config.id2label, self.model.config.pad_token_id
        path = [number for number, _ in itertools.groupby(self._heard(recording).argmax(-1).tolist())]
        said = "".join(names[number] for number in path if number != blank)
        return (" ".join(said.replace("|", " ").split()),)

    def _token_classification(self, text: str) -> tuple[list[str], list[str]]:
        words = text.split()
        encoded = self.tokenizer(
            words, is_split_into_words=True, truncation=True, max_length=self.longest, return_tensors="pt"
        )
        best = self.model(**encoded).logits[0].argmax(-1).tolist()
        tags = ["O"] * len(words)
        for position, word in reversed(list(enumerate(encoded.word_ids()))):
            if word is not None:  # a word's first token speaks for it
                tags[word] = self.model.config.id2label[best[position]]
        return words, tags

    def _question_answering(self, question: str, text: str) -> tuple[str, float]:
        encoded = self.tokenizer(
            question, text, truncation="only_second", max_length=self.longest,
            return_offsets_mapping=True, return_tensors="pt",
        )  # fmt: skip
        offsets = encoded.pop("offset_mapping")[0].tolist()
        inside = [position for position, part in enumerate(encoded.sequence_ids()) if part == 1]
        out = self.model(**encoded)
        starts, ends = out.start_logits[0].log_softmax(-1), out.end_logits[0].log_softmax(-1)
        score, start, end = max(
            (float(starts[i] + ends[j]), i, j) for i in inside for j in inside if i <= j < i + LONGEST_ANSWER
        )
        return text[offsets[start][0] : offsets[end][1]], float(2.718281828459045**score)


def _load_pyfunc(path: str) -> Answerer:
    return Answerer(Path(path))
