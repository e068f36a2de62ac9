"""What a `Recommender` can do with each method. This module does not import torch."""

from __future__ import annotations

from types import MappingProxyType

from milk_recsys.base.errors import DataError
from milk_recsys.config.method import BUILT_IN, Method, find_method

__all__ = ["ABILITIES", "abilities", "need"]

ABILITIES = MappingProxyType(
    {
        "recommend": "lists of new items for users, and of users for new items; save and load",
        "vectors": "vectors of users and new items, for export and the server",
        "user_features": "lists for customers without history, from features of users",
        "fold_in": "lists for new customers, from the items that they took",
        "include_warm": "new and known items in one list",
        "first_pairs": "content and first interactions of an item together",
        "explain": "parts of a score by modality and by known item",
        "update": "new pairs, users and items without a fit from the start",
    }
)
"""Ability -> description. Every method with a learner of `methods.learner` has the first one, and a
method with vectors the first three."""
WITHOUT_VECTORS = frozenset(
    f"milk_recsys.methods.learner:{name}" for name in ("closed_form", "trained")
)


def abilities(method: Method) -> tuple[str, ...]:
    """Return the names of what a `Recommender` can do with a method."""
    if method.scorer is None:
        return ("recommend",) if method.learner in WITHOUT_VECTORS else ()
    return tuple(ABILITIES) if method.name == "keep" else tuple(ABILITIES)[:3]


def need(method: Method, ability: str, where: str) -> None:
    """Raise DataError unless a method has an ability.

    Arguments:
        where: the function that needs it, for the message.
    """
    own = abilities(method)
    if ability in own:
        return
    able = [name for name in BUILT_IN if ability in abilities(find_method(name))]
    can = f"which can: {', '.join(own)}" if own else "whose learner is its own"
    raise DataError(
        f"{where}: needs {ability} ({ABILITIES[ability]}). The model is {method.name}, {can}. "
        f"Models that can do it: {', '.join(able)}."
    )
