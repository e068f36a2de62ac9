"""Bodies of requests and answers. Those with features depend on the model's modalities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, create_model

__all__ = [
    "Added",
    "Audience",
    "AudienceList",
    "Error",
    "Explained",
    "Health",
    "ItemList",
    "Limits",
    "Listed",
    "ListedUser",
    "Lists",
    "Name",
    "Part",
    "audience_body",
    "explain_body",
    "fold_in_body",
    "items_body",
    "recommend_body",
]

MAX_NAME = 512
Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
"""The id of a user or of an item, as text."""

MAX_TOGETHER = 1_000_000  # Of ids in `available`, `exclude` and `users`; the body has a limit, too.


class Limits(BaseModel):
    """Limits on the size of a request.

    Attributes:
        k: length of a list.
        users: number of lists of one request.
        items: number of items that are added at once, or whose lists of users are wanted.
    """

    k: int = 1000
    users: int = 1000
    items: int = 1000


class Strict(BaseModel):
    """A body without unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Error(BaseModel):
    """Why a request was refused."""

    detail: str


class Health(BaseModel):
    """What is served."""

    status: str
    model: str
    users: int
    known_items: int
    new_items: int


class Listed(BaseModel):
    """An item in a list. Scores order the items of one user and have no unit."""

    item: str
    score: float
    known: bool


class ItemList(BaseModel):
    """The list of a user, best first."""

    user: str
    items: list[Listed]


class Lists(BaseModel):
    """The list of each user, in the order of the request."""

    lists: list[ItemList]


class ListedUser(BaseModel):
    """A user in the list of an item."""

    user: str
    score: float


class AudienceList(BaseModel):
    """The users of an item, best first."""

    item: str
    users: list[ListedUser]


class Audience(BaseModel):
    """The list of each item, in the order of the request."""

    lists: list[AudienceList]


class Part(BaseModel):
    """A part of a score, which may be negative."""

    name: str
    part: float


class Explained(BaseModel):
    """A score as a sum of parts: over modalities, and over items that the user took."""

    user: str
    item: str
    score: float
    by_modality: list[Part]
    by_item: list[Part]


class Added(BaseModel):
    """The items that were added, and how many there are now."""

    added: list[str]
    new_items: int


def _names(limit: int, *, low: int = 0) -> Any:
    return Annotated[list[Name], Field(min_length=low, max_length=limit)]


def _by_name(limit: int) -> Any:
    names: Any = _names(MAX_TOGETHER)
    return Annotated[dict[Name, names], Field(max_length=limit)]


def _selection(limits: Limits, *, include_warm: bool) -> dict[str, Any]:
    """Return the fields that select items."""
    fields: dict[str, Any] = {
        "k": (Annotated[int, Field(ge=1, le=limits.k)], 20),
        "available": (_names(MAX_TOGETHER) | None, None),
    }
    return fields | ({"include_warm": (bool, False)} if include_warm else {})


def recommend_body(limits: Limits, *, include_warm: bool) -> type[BaseModel]:
    """Return the body of /recommend."""
    fields = _selection(limits, include_warm=include_warm)
    users = _names(limits.users, low=1)
    return create_model(
        "Recommend",
        __base__=Strict,
        users=(users, ...),
        exclude=(_by_name(limits.users), {}),
        **fields,
    )


def fold_in_body(
    limits: Limits, *, include_warm: bool, users: Mapping[str, int]
) -> type[BaseModel]:
    """Return the body of /fold-in.

    Arguments:
        users: modality -> width of the features of users; empty if the model has none.
    """
    fields = _selection(limits, include_warm=include_warm)
    fields["exclude"] = (_names(MAX_TOGETHER), [])
    if users:
        features = features_model("CustomerFeatures", users)
        fields |= {"items": (_names(MAX_TOGETHER, low=1) | None, None)}
        fields |= {"features": (features | None, None)}
    else:
        fields["items"] = (_names(MAX_TOGETHER, low=1), ...)
    return create_model("FoldIn", __base__=Strict, **fields)


def audience_body(limits: Limits) -> type[BaseModel]:
    """Return the body of /audience."""
    return create_model(
        "AudienceOf",
        __base__=Strict,
        items=(_names(limits.items, low=1), ...),
        k=(Annotated[int, Field(ge=1, le=limits.k)], 20),
        users=(_names(MAX_TOGETHER) | None, None),
        exclude=(_by_name(limits.items), {}),
    )


def explain_body() -> type[BaseModel]:
    """Return the body of /explain."""
    return create_model("Explain", __base__=Strict, user=(Name, ...), item=(Name, ...))


def features_model(name: str, dims: Mapping[str, int]) -> type[BaseModel]:
    """Return the features of an item or of a customer: some of the modalities, in full width."""
    finite = Annotated[float, Field(allow_inf_nan=False, strict=False)]
    # Fields are numbered, since a modality may be called like an attribute of a model.
    fields: dict[str, Any] = {
        f"modality_{k}": (
            Annotated[list[finite], Field(min_length=dim, max_length=dim)],
            Field(default=None, alias=modality),
        )
        for k, (modality, dim) in enumerate(dims.items())
    }
    return create_model(
        name,
        __config__=ConfigDict(
            extra="forbid", json_schema_extra={"minProperties": 1}, populate_by_name=False
        ),
        **fields,
    )


def items_body(limits: Limits, dims: Mapping[str, int]) -> type[BaseModel]:
    """Return the body of POST /items."""
    item = create_model(
        "NewItem",
        __base__=Strict,
        item=(Name, ...),
        features=(features_model("Features", dims), ...),
    )
    items = Annotated[list[item], Field(min_length=1, max_length=limits.items)]  # type: ignore[valid-type]
    return create_model("NewItems", __base__=Strict, items=(items, ...))
