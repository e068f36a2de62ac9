"""A fitted model with the ids of its users and items."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, cast

from invmod.regression.patterns import PatternChoice
from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.importers.ids import Ids
from milk_recsys.catalogue.importers.row_options import RowOptions
from milk_recsys.config.method import load
from milk_recsys.config.options import Options
from milk_recsys.estimator.user_content import UserContent
from milk_recsys.methods.keep.fitted import KeepModel
from milk_recsys.methods.keep.user_map import UserMap
from milk_recsys.run.learner_scorer import LearnerScorer, ScoresModel
from milk_recsys.run.scorer import Scorer, ScoringModel

__all__ = ["Fitted"]


@dataclasses.dataclass
class Fitted:
    """A fitted model, and how frames are read for it.

    Attributes:
        options: options of the run.
        model: in the precision of the run.
        dims: modality -> width of its features.
        content_zeros: modalities of which a row of zeros is content.
        users, items: ids of the users, and of the training items in the order of the model.
        facts: of the data set, for config.json.
        columns: modality -> columns of its frame.
        rows: which rows of a frame of pairs count, with the names of its columns.
        user_content: regression of users' vectors on features of users, or None.
    """

    options: Options
    model: ScoringModel | ScoresModel
    dims: dict[str, int]
    content_zeros: tuple[str, ...]
    users: Ids
    items: Ids
    facts: dict[str, Any]
    columns: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    rows: RowOptions = dataclasses.field(default_factory=RowOptions)
    user_content: UserContent | None = None
    # What is computed from the model when it is first needed. Vectors of another version do not
    # fit together.
    _scorer: Scorer | None = dataclasses.field(default=None, init=False, repr=False)
    _user_map: UserMap | None = dataclasses.field(default=None, init=False, repr=False)
    version: object = dataclasses.field(default_factory=object, init=False, repr=False)

    @property
    def scorer(self) -> Scorer:
        """The scorer, with a copy of the model in float64 if it has vectors."""
        if self._scorer is None and isinstance(self.model, ScoresModel):
            self._scorer = LearnerScorer(self.model, self.dims, content_zeros=self.content_zeros)
        if self._scorer is None:
            make = load(str(self.options.definition.scorer))
            state = cast(Any, self.model).state_dict()
            copy = make(self.options, self.dims, len(self.users), state)
            self._scorer = Scorer(copy, self.dims, content_zeros=self.content_zeros)
        return self._scorer

    @property
    def user_map(self) -> UserMap:
        """The map from pairs to vectors, in float64; of KEEP alone."""
        if self._user_map is None:
            self._user_map = UserMap(cast(KeepModel, self.scorer.model))
        return self._user_map

    @property
    def is_keep(self) -> bool:
        """Whether the method is KEEP, whose model contains the training pairs."""
        return self.options.run.model == "keep"

    def share_choices(self) -> None:
        """Give the model the options of patterns that its copy for scoring chose since the fit.

        An update or a saved file then keeps them.
        """
        if self._scorer is not None and self.is_keep:
            regression = cast(KeepModel, self._scorer.model).regression
            choices: dict[Sequence[str], PatternChoice] = dict(regression.choices.items())
            cast(KeepModel, self.model).regression.set_choices(choices)

    def changed(self) -> None:
        """Forget what was computed from the model, after the model has changed."""
        self._scorer = self._user_map = None
        self.version = object()

    def check_version(self, version: object, what: str) -> None:
        """Raise DataError if vectors are of another model, or from before an update."""
        if version is not self.version:
            raise DataError(
                f"{what}: was made with another model, or before the update of this one. Make it "
                "again."
            )

    def check_trained(self, users: Any, where: str) -> None:
        """Raise DataError if a user of the numbers (u,) has no training pair."""
        untrained = ~self.scorer.trained_users[users]
        if untrained.any():
            name = self.users.names[int(users[int(untrained.long().argmax())])]
            raise DataError(
                f"{where}: user {name!r} has no training pair, so nothing is known about this user "
                f"({int(untrained.sum())} such users). Leave such users out, or use fold_in."
            )
