"""Values stated in the paper: its tables.

References:
    Bai, Zhang, Wu, et al., Multimodality invariant learning for multimedia-based new item
    recommendation, SIGIR 2024.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["TABLE_1", "TABLE_2", "TABLE_3", "TABLE_4", "in_paper"]

TABLE_1: Mapping[str, Mapping[str, tuple[int, int, int]]] = {
    "baby": {
        "train": (19442, 5640, 128963),
        "validation": (10342, 705, 0),
        "test": (10474, 705, 0),
    },
    "clothing": {
        "train": (39384, 18427, 222759),
        "validation": (19801, 2303, 0),
        "test": (19858, 2303, 0),
    },
    "tiktok": {"train": (9319, 5368, 55126), "validation": (2380, 671, 0), "test": (2960, 671, 0)},
}
"""Data set -> part -> users, items and interactions.

Interactions are stated only for the training part; they are 0 elsewhere.
"""

_MODELS = ("duif", "dropoutnet", "mtpr", "heater", "clcrec", "ccfcrec", "gar", "gorec", "milk")
_COLUMNS = [
    (setting, data, k)
    for setting in ("ftmt", "mtmt")
    for data in ("baby", "clothing", "tiktok")
    for k in (10, 20)
]
_RECALL = """
.0217 .0381 .0189 .0318 .1814 .1921 .0172 .0308 .0188 .0323 .1706 .1804
.0178 .0208 .0155 .0269 .1221 .1276 .0130 .0227 .0150 .0254 .1011 .1169
.0261 .0328 .0224 .0371 .1526 .1615 .0187 .0325 .0190 .0317 .1444 .1661
.0303 .0492 .0338 .0522 .1260 .1327 .0259 .0438 .0308 .0515 .1148 .1349
.0247 .0418 .0281 .0453 .1529 .1584 .0190 .0328 .0265 .0403 .1228 .1459
.0295 .0464 .0355 .0545 .1802 .1920 .0210 .0355 .0291 .0453 .1715 .1809
.0307 .0485 .0352 .0555 .1486 .1691 .0271 .0449 .0319 .0523 .1292 .1512
.0335 .0544 .0429 .0639 .1465 .1605 .0282 .0473 .0430 .0634 .1416 .1582
.0381 .0628 .0484 .0716 .1886 .2002 .0328 .0517 .0470 .0684 .1793 .1884
"""
_NDCG = """
.0117 .0163 .0100 .0137 .1792 .1803 .0088 .0125 .0104 .0140 .1682 .1706
.0057 .0071 .0093 .0123 .0979 .0956 .0071 .0098 .0077 .0100 .0824 .0860
.0156 .0208 .0125 .0165 .1271 .1211 .0100 .0139 .0106 .0140 .1177 .1229
.0178 .0222 .0186 .0237 .1082 .1016 .0136 .0185 .0166 .0223 .0937 .0975
.0133 .0181 .0163 .0210 .1321 .1249 .0105 .0143 .0148 .0185 .1036 .1080
.0159 .0209 .0207 .0259 .1799 .1802 .0114 .0154 .0163 .0207 .1567 .1596
.0163 .0210 .0200 .0255 .1133 .1173 .0147 .0196 .0176 .0232 .0956 .1004
.0179 .0249 .0234 .0292 .1096 .1124 .0153 .0206 .0234 .0300 .0952 .0988
.0215 .0277 .0279 .0343 .1830 .1852 .0182 .0234 .0270 .0329 .1774 .1779
"""


def _read(text: str, metric: str) -> dict[tuple[str, str, str, str], float]:
    """Read a table with a row for each of `_MODELS` and a column for each of `_COLUMNS`."""
    values = {}
    for model, row in zip(_MODELS, text.split("\n")[1:-1], strict=True):
        for (setting, data, k), value in zip(_COLUMNS, row.split(), strict=True):
            values[model, setting, data, f"{metric}@{k}"] = float(value)
    return values


TABLE_2: Mapping[tuple[str, str, str, str], float] = _read(_RECALL, "recall") | _read(_NDCG, "ndcg")
"""(model, setting, data set, metric) -> value.

The paper names MICRO as a baseline, but its table has no row of it.
"""

TABLE_3: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "zero": {"baby": (0.0501, 0.0215), "clothing": (0.0670, 0.0322)},
    "mean": {"baby": (0.0525, 0.0228), "clothing": (0.0665, 0.0320)},
    "map": {"baby": (0.0507, 0.0220), "clothing": (0.0619, 0.0294)},
    "align": {"baby": (0.0585, 0.0255), "clothing": (0.0682, 0.0330)},
    "envs": {"baby": (0.0609, 0.0264), "clothing": (0.0686, 0.0335)},
    "milk": {"baby": (0.0628, 0.0277), "clothing": (0.0716, 0.0343)},
}
"""Row -> data set -> Recall@20 and NDCG@20 under FTMT."""

TABLE_4: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "milk": {"baby": (0.0628, 0.0277), "clothing": (0.0716, 0.0343)},
    "w/o e=0": {"baby": (0.0433, 0.0179), "clothing": (0.0685, 0.0333)},
    "w/o cs": {"baby": (0.0487, 0.0205), "clothing": (0.0656, 0.0319)},
    "w/o random": {"baby": (0.0555, 0.0237), "clothing": (0.0643, 0.0314)},
}
"""Row -> data set -> Recall@20 and NDCG@20 under FTMT."""


def in_paper(data: str) -> str | None:
    """Return the data set of the paper that the name of a data set contains, or None."""
    return next((name for name in TABLE_1 if name in data.lower()), None)
