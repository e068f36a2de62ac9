"""Image encoders on this machine, as ONNX models: pictures in, feature rows out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from milk_recsys.base.errors import DataError
from milk_recsys.base.files import read_json
from milk_recsys.catalogue.encoders.contract import Arrays, Rows

__all__ = ["SUFFIXES", "Pictures", "find_pictures"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
PICTURES_AT_ONCE = 32
DEFAULT_SIZE = 224
# Mean and standard deviation of ImageNet's colours, which most models expect.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Pictures:
    """Pictures to rows by an ONNX model; nothing is downloaded or fitted.

    A picture is scaled until its shorter side fits, cut at the centre, and its colours are
    normalised. Sizes and colours come from ``preprocessor_config.json`` (Hugging Face) or
    ``open_clip_config.json`` in the folder of the model, else they are those of ImageNet.

    Arguments:
        model: file of the model, which takes (n, 3, height, width) and returns (n, width).
    """

    kind = "pictures"

    def __init__(self, model: Path) -> None:
        if not (find_spec("onnxruntime") and find_spec("PIL")):
            raise DataError(
                "--picture-encoder needs onnxruntime and Pillow, which are not installed: "
                "pip install 'invmod[pictures]'."
            )
        import onnxruntime

        self.model = model.expanduser().resolve()
        if not self.model.is_file():
            raise DataError(f"--picture-encoder: {model} is no file. Name an ONNX model.")
        try:
            self._session = onnxruntime.InferenceSession(
                self.model, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # Its errors have no common class.
            first = (str(error).splitlines() or [""])[0]
            raise DataError(f"{self.model}: is no ONNX model ({first:.200}).") from None
        self._input = self._session.get_inputs()[0]
        self.size, self.mean, self.std = self._preparation()
        self.digest = _digest(self.model)
        # A model with a fixed batch takes that many pictures.
        fixed = self._input.shape[0] if len(self._input.shape) == 4 else None
        self._batch = fixed if isinstance(fixed, int) else PICTURES_AT_ONCE
        self._width = self._run(np.zeros((1, 3, self.size, self.size), np.float32)).shape[1]

    @property
    def width(self) -> int:
        """Length of the model's output."""
        return int(self._width)

    def encode(self, cells: Sequence[Path | None]) -> Rows:
        """Return the rows (n, width) of files of pictures; None has a row of zeros."""
        rows = np.zeros((len(cells), self.width), dtype=np.float32)
        known = [k for k, path in enumerate(cells) if path is not None]
        for start in range(0, len(known), self._batch):
            places = known[start : start + self._batch]
            rows[places] = self._run(np.stack([self._read(cells[k]) for k in places]))
        return rows

    def settings(self) -> dict[str, Any]:
        """Return the file of the model and the digest of its files."""
        return {"encoder": str(self.model), "digest": self.digest}

    def arrays(self) -> Arrays:
        """Return nothing: the model stays where it is."""
        return {}

    @classmethod
    def restore(cls, settings: Mapping[str, Any], _: Arrays, name: str | None = None) -> Pictures:
        """Open the model that was used before; see `Sentences.restore`."""
        encoder = cls(Path(name or settings["encoder"]))
        if encoder.digest != settings["digest"]:
            raise DataError(
                f"{encoder.model}: is another model than the one of the training data "
                f"({settings['encoder']}). Name that one with --picture-encoder."
            )
        return encoder

    def _preparation(self) -> tuple[int, npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return the size of the model's pictures, and the mean and deviation of its colours."""
        values = _config(self.model.parent)
        shape = self._input.shape
        if len(shape) != 4 or (isinstance(shape[1], int) and shape[1] != 3):
            raise DataError(
                f"{self.model}: must take pictures (n, 3, height, width), but its input "
                f"{self._input.name!r} is {shape}."
            )
        size = shape[2] if isinstance(shape[2], int) else values.get("size", DEFAULT_SIZE)
        mean, std = (
            np.array(values.get(key, default), dtype=np.float32)[:, None, None]
            for key, default in (("mean", MEAN), ("std", STD))
        )
        return int(size), mean, std

    def _read(self, path: Path | None) -> npt.NDArray[np.float32]:
        """Return a picture as (3, size, size) numbers."""
        from PIL import Image

        try:
            with Image.open(str(path)) as picture:
                image = picture.convert("RGB")
        except Exception as error:  # Its decoders raise errors of many classes.
            raise DataError(
                f"{path}: is no picture that can be read ({error!s:.120}). Correct it, or remove "
                "the file: the item then lacks the modality."
            ) from None
        scale = self.size / min(image.size)
        width, height = (max(self.size, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - self.size) // 2, (height - self.size) // 2
        image = image.crop((left, top, left + self.size, top + self.size))
        pixels = np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / 255
        return ((pixels - self.mean) / self.std).astype(np.float32)

    def _run(self, pictures: npt.NDArray[np.float32]) -> Rows:
        """Return the model's output for (n, 3, size, size), (n, width)."""
        count = len(pictures)
        fixed = self._input.shape[0]
        if isinstance(fixed, int) and count < fixed:
            padding = np.zeros((fixed - count, *pictures.shape[1:]), np.float32)
            pictures = np.concatenate([pictures, padding])
        kind = np.float16 if self._input.type == "tensor(float16)" else np.float32
        output = np.asarray(self._session.run(None, {self._input.name: pictures.astype(kind)})[0])
        if output.ndim == 4:  # Maps of features: their mean over places.
            output = output.mean(axis=(2, 3))
        if output.ndim != 2 or not np.isfinite(output).all():
            raise DataError(
                f"{self.model}: must return one finite row per picture, got {output.shape}."
            )
        rows: Rows = output[:count].astype(np.float32)
        return rows


def find_pictures(folder: Path) -> dict[str, Path]:
    """Return the file of each item: the pictures in a folder and below, by their names.

    The name without its ending is the id of the item, as in H&M's ``images/010/0108775015.jpg``.

    Raises:
        DataError: the folder has no pictures, or two of one name.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. Name the folder of pictures.")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            continue
        if path.stem in found:
            raise DataError(
                f"{folder}: has two pictures of {path.stem!r}: {found[path.stem]}, {path}."
            )
        found[path.stem] = path
    if not found:
        raise DataError(f"{folder}: has no pictures ({', '.join(SUFFIXES)}).")
    return found


def _config(folder: Path) -> dict[str, Any]:
    """Return the size, mean and std that a configuration beside the model states."""
    for name in ("preprocessor_config.json", "open_clip_config.json"):
        path = folder / name
        if path.is_file():
            try:
                values = read_json(path)
                return _open_clip(values) if name.startswith("open_clip") else _hugging_face(values)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise DataError(
                    f"{path}: cannot be read ({error!r:.120}). Correct it, or remove it."
                ) from None
    return {}


def _open_clip(values: Mapping[str, Any]) -> dict[str, Any]:
    colours = values.get("preprocess_cfg", {})
    size = int(values["model_cfg"]["vision_cfg"]["image_size"])
    return {"size": size, **{key: colours[key] for key in ("mean", "std") if key in colours}}


def _hugging_face(values: Mapping[str, Any]) -> dict[str, Any]:
    size = values.get("crop_size", values.get("size", DEFAULT_SIZE))
    if isinstance(size, dict):
        size = size.get("height", size.get("shortest_edge", DEFAULT_SIZE))
    colours = {k: values[f"image_{k}"] for k in ("mean", "std") if f"image_{k}" in values}
    return {"size": int(size), **colours}


def _digest(model: Path) -> str:
    with model.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
