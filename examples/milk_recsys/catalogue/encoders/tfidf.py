"""TF-IDF of the words of a text, reduced by a truncated singular value decomposition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.encoders.contract import Arrays, Rows

__all__ = ["Tfidf", "fit_tfidf"]

MAX_WORDS = 50_000


class Tfidf:
    """Texts to rows: weights of known words times the leading singular vectors.

    A text without a known word has a row of zeros.

    Arguments:
        words: the known words, in the order of the weights.
        idf: (words,) inverse document frequencies.
        components: (width, words) singular vectors.
    """

    kind = "tfidf"

    def __init__(
        self,
        words: Sequence[str],
        idf: npt.NDArray[np.float64],
        components: npt.NDArray[np.float64],
    ) -> None:
        # Imported here because it takes a second, which other encoders and --help do not need.
        from sklearn.feature_extraction.text import TfidfVectorizer

        self.words, self.idf, self.components = tuple(words), idf, components
        self._vectorizer = TfidfVectorizer(
            sublinear_tf=True, stop_words="english", vocabulary=list(words)
        )
        self._vectorizer.idf_ = idf

    @property
    def width(self) -> int:
        """Number of singular vectors."""
        return len(self.components)

    def encode(self, cells: Sequence[str]) -> Rows:
        """Return the rows (n, width) of texts."""
        rows: Rows = (self._vectorizer.transform(cells) @ self.components.T).astype(np.float32)
        return rows

    def settings(self) -> dict[str, Any]:
        """Return the known words."""
        return {"words": list(self.words)}

    def arrays(self) -> Arrays:
        """Return the frequencies and the singular vectors."""
        return {"idf": self.idf, "components": self.components}

    @classmethod
    def restore(cls, settings: Mapping[str, Any], arrays: Arrays) -> Tfidf:
        """Return the encoder that was saved."""
        return cls(settings["words"], arrays["idf"], arrays["components"])


def fit_tfidf(texts: Sequence[str], dim: int, modality: str = "text") -> Tfidf:
    """Fit TF-IDF and a truncated SVD on texts, of which empty ones are left out.

    Raises:
        DataError: there are fewer than two texts, or they have no word in common.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    known = [text for text in texts if text]
    if len(known) < 2:
        raise DataError(
            f"{modality}: fewer than two of the items to fit on have a text, so nothing can be "
            "fitted. Give an --encoder."
        )
    vectorizer = TfidfVectorizer(
        sublinear_tf=True, min_df=2, max_features=MAX_WORDS, stop_words="english"
    )
    try:
        weights = vectorizer.fit_transform(known)
    except ValueError as error:
        raise DataError(
            f"{modality}: the texts contain no usable word ({error}). Give an --encoder."
        ) from None
    words = vectorizer.get_feature_names_out().tolist()
    idf = np.asarray(vectorizer.idf_)
    if len(words) == 1:
        return Tfidf(words, idf, np.ones((1, 1)))
    # A truncated SVD has fewer components than the matrix has rows or columns.
    width = max(1, min(dim, weights.shape[1] - 1, len(known) - 1))
    # It divides by the variance of the texts, which is 0 if all are equal.
    with np.errstate(divide="ignore", invalid="ignore"):
        svd = TruncatedSVD(width, random_state=0).fit(weights)
    return Tfidf(words, idf, np.asarray(svd.components_))
