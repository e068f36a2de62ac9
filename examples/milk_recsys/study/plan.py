"""The runs that each table and figure needs, in the order of their dependencies."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from milk_recsys.config.method import find_method
from milk_recsys.config.options import Options
from milk_recsys.study.proposals import propose
from milk_recsys.study.records import MONITOR, Run
from milk_recsys.study.spaces import (
    ABLATIONS,
    FACTORS,
    FIELD,
    FORMER,
    METHODS,
    SWEEPS,
    VARIANTS,
    WHY_PENALTIES,
    WINNER,
    WITHOUT,
    is_own,
    space_of,
)
from milk_recsys.study.store import Line, Store

__all__ = ["NAMES", "Name", "Plan", "best_trial", "needs", "strongest"]

Name = Literal[
    "table1",
    "table2",
    "table3",
    "table4",
    "figure1",
    "figure3",
    "figure4",
    "figure5",
    "figure6",
    "why",
]
"""A table or a figure of the paper."""
NAMES: tuple[Name, ...] = get_args(Name)
TUNING_SEED = 1000  # split and training seed of all trials, different from the seeds of all repeats
FACTOR_TRIALS, FACTORS_SEED = 8, 15  # trials of the matrix factorisation, and seed of their sampler
TOP_REPEATS = 3  # repeats of the best point of a sweep
FRESH, FRESH_SEED = 10, 200  # number of repeats on held-out splits, and the first of their seeds
RIVALS = 3  # strongest other methods that are compared with the winner there

NEEDS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "table1": ((), ()),
    "table2": (METHODS, ("ftmt", "mtmt")),
    "table3": (ABLATIONS, ("ftmt",)),
    "table4": (("milk",), ("ftmt",)),
    "figure1": (("duif",), ("ftmt", "mtmt")),
    "figure3": (METHODS, ("ftmt",)),
    "figure4": (ABLATIONS, ("ftmt", "mtmt")),
    "figure5": (ABLATIONS, ("ftmt",)),
    "figure6": (("milk",), ("ftmt",)),
    "why": (("milk", "erm"), ("ftmt",)),
    "field": (FIELD, ("ftmt", "mtmt")),
}
"""Table or figure -> the methods that it needs, tuned and repeated, and their settings.

The comparison of all systems (`field`) also needs every method of your own that a plan names.
"""


def needs(name: str, method: str) -> bool:
    """Return whether a table or figure needs the runs of a method."""
    return method in NEEDS[name][0] or (name == "field" and is_own(method))


@dataclasses.dataclass(frozen=True)
class Plan:
    """The tables and figures of a study, with the number of its trials and repeats.

    Attributes:
        data: folder of the data set; None for embedded data.
        names: tables and figures, of `NAMES`, or "field" for the comparison of all systems.
        trials: number of trials per method.
        repeats: number of repeats per method and setting.
        methods, settings: restrict the runs to these.
        decide: whether MILK, its ablations and the strongest baseline get twice the repeats under
            FTMT, and whether finalists run on held-out splits.
        threads: number of threads of a run.
        quick: whether runs have few epochs, to check that the whole study works.
    """

    data: Path | None
    names: tuple[str, ...]
    trials: int
    repeats: int
    methods: tuple[str, ...] = METHODS
    settings: tuple[str, ...] = ("ftmt", "mtmt")
    decide: bool = True
    threads: int | None = None
    quick: bool = False

    # --- runs -------------------------------------------------------------------------------------

    def ready(self, store: Store, in_flight: Collection[tuple[Any, ...]] = ()) -> Iterator[Run]:
        """Yield the runs that the results file lacks and whose dependencies are met, in order."""
        for run in self.with_factors(store)._ready(store):
            if run.key not in in_flight and not store.has(run):
                yield run

    def _ready(self, store: Store) -> Iterator[Run]:
        """Yield all runs whose dependencies are met, whether made or not.

        A method that needs factors waits for the trials of the factorisation, and a repeat waits
        for the trials of its method. Only the next trial of a method is yielded, because it depends
        on the results of those before.
        """
        # 1. Search and repeats of all methods.
        if self._factor_trials() > len(store.of("factors", "factors")):
            yield self._factor_trial(store.of("factors", "factors"))
        for method, settings in self._wanted().items():
            if self._tuned(store, method):
                for setting in settings:
                    yield from (
                        self._repeat(store, method, setting, k) for k in range(self.repeats)
                    )
            elif not find_method(method).needs_factors or self._factors(store) is not None:
                yield self._trial(method, store.of("trial", method))
        # 2. Variants and sweeps of MILK, which start from its tuned options.
        if "milk" in self.methods and self._tuned(store, "milk"):
            if "table4" in self.names:
                for variant in VARIANTS:
                    yield from (
                        self._repeat(store, "milk", "ftmt", k, variant) for k in range(self.repeats)
                    )
            if "figure6" in self.names:
                yield from self._sweeps(store)
            if "why" in self.names:
                yield from (self._point(store, *at) for at in self._why())
        # 3. More repeats of the methods that the claims of the paper compare.
        if self.decide and "table2" in self.names and "ftmt" in self.settings:
            for method in self.deciding(store):
                numbers = range(self.repeats, 2 * self.repeats)
                yield from (self._repeat(store, method, "ftmt", k) for k in numbers)
        # 4. Comparison of all systems: timing, ablations of the winner, and held-out splits.
        if "field" in self.names:
            yield from (self._timing(store, m) for m in self._wanted() if self._tuned(store, m))
            if WINNER in self._wanted() and self._tuned(store, WINNER):
                for without in WITHOUT:
                    yield from (
                        self._repeat(store, WINNER, "ftmt", k, without) for k in range(self.repeats)
                    )
            for method in self.finalists(store):
                yield from (self._fresh(store, method, k) for k in range(self.fresh()))

    def systems(self, store: Store) -> list[str]:
        """Return the methods, and the former version of the winner if its runs are there."""
        former = [FORMER] if store.of("repeat", FORMER) else []
        return [*self.methods, *former]

    def repeats_of(self, store: Store, method: str, setting: str = "ftmt") -> list[Line]:
        """Return the repeats of a method that may be compared, as many as the plan has."""
        return store.ranked("repeat", method, setting, limit=self.repeats)

    def done(self, store: Store) -> int:
        """Count the runs of this plan in the results file, which may have runs of other plans."""
        plan = self.with_factors(store)
        trials = sum(min(len(store.of("trial", m)), self._num_trials(m)) for m in self._wanted())
        factors = min(len(store.of("factors", "factors")), self._factor_trials())
        repeats = {
            run.key
            for run in plan._ready(store)  # yields made runs too, except trials
            if run.phase not in ("trial", "factors") and store.has(run)
        }
        return trials + factors + len(repeats)

    def total(self) -> int:
        """Return the number of runs of the whole plan."""
        wanted = self._wanted()
        count = self._factor_trials() + sum(
            self._num_trials(m) + self.repeats * len(s) for m, s in wanted.items()
        )
        if "milk" in self.methods:
            count += len(VARIANTS) * self.repeats * ("table4" in self.names)
            # A sweep has one repeat per point, and more at its best point.
            count += sum(len(v) + self.top_repeats() - 1 for v in SWEEPS.values()) * (
                "figure6" in self.names
            )
            if "why" in self.names:
                # The first repeat of each point is a run of Figure 6 as well.
                count += sum(
                    number > 0 or "figure6" not in self.names for *_, number in self._why()
                )
        if self.decide and "table2" in self.names and "ftmt" in self.settings:
            count += self.repeats * (
                len(set(ABLATIONS) & set(self.methods)) + bool(self.baselines())
            )
        if "field" in self.names:
            count += len(wanted) + len(WITHOUT) * self.repeats * (WINNER in wanted)
            if self.decide and WINNER in wanted:
                own = {WINNER, *ABLATIONS} & set(wanted)
                count += self.fresh() * (
                    len(own) + min(RIVALS, len(set(wanted) - own - {"random"}))
                )
        return count

    def _wanted(self) -> dict[str, tuple[str, ...]]:
        """Return the methods that the tables and figures need, in order, with their settings."""
        wanted: dict[str, tuple[str, ...]] = {}
        for method in self.methods:
            settings = {s for name in self.names if needs(name, method) for s in NEEDS[name][1]}
            kept = tuple(s for s in self.settings if s in settings)
            if kept:
                wanted[method] = kept
        return wanted

    def baselines(self) -> list[str]:
        """Return the tuned methods except MILK and its ablations."""
        return [m for m in self.methods if m not in ABLATIONS and space_of(m)]

    def _num_trials(self, method: str) -> int:
        """Return the number of trials of a method: none if it has no search space."""
        return self.trials if space_of(method) else 0

    def _factor_trials(self) -> int:
        """Return the number of trials of the factorisation: none if no method needs factors."""
        return (
            min(self.trials, FACTOR_TRIALS)
            if any(find_method(m).needs_factors for m in self._wanted())
            else 0
        )

    def top_repeats(self) -> int:
        """Return the number of repeats of the best points of a sweep."""
        return min(TOP_REPEATS, self.repeats)

    def _tuned(self, store: Store, method: str) -> bool:
        """Return whether all trials of a method are made."""
        return len(store.of("trial", method)) >= self._num_trials(method)

    def deciding(self, store: Store) -> list[str]:
        """Return the methods with twice the repeats: MILK, its ablations, the strongest baseline.

        The list is empty until every method has its repeats, since only then the strongest baseline
        is known.
        """
        wanted = [m for m, settings in self._wanted().items() if "ftmt" in settings]
        if "milk" not in wanted or any(len(store.of("repeat", m)) < self.repeats for m in wanted):
            return []
        return [m for m in ABLATIONS if m in wanted] + strongest(
            store, self.baselines(), self.repeats
        )[:1]

    def fresh(self) -> int:
        """Return the number of repeats of the finalists on held-out splits."""
        return self.repeats if self.quick else FRESH

    def finalists(self, store: Store) -> list[str]:
        """Return the methods for held-out splits: winner, MILK, its ablations and strong others.

        The list is empty without `decide`, and until every method has its repeats.
        """
        wanted = [m for m, settings in self._wanted().items() if "ftmt" in settings]
        if (
            not self.decide
            or WINNER not in wanted
            or any(len(store.of("repeat", m)) < self.repeats for m in wanted)
        ):
            return []
        own = [WINNER, *(m for m in ABLATIONS if m in wanted)]
        others = [m for m in wanted if m not in own and m != "random"]
        return own + strongest(store, others, self.repeats)[:RIVALS]

    # --- options ----------------------------------------------------------------------------------

    def _options(self, model: str, setting: str, seed: int, values: Mapping[str, Any]) -> Options:
        """Return the options of a run; `values` replace the limits of the method."""
        method = find_method(model)
        own = dict(values)
        limits = dict(method.limits)
        if self.quick:
            limits |= {"epochs": 2, "eval_every": 1} if method.trains else {}
            own |= {"factor_epochs": 2} if method.needs_factors else {}
        fixed: dict[str, Any] = {"data": self.data, "setting": setting, "compare": "none"}
        fixed |= {"seed": seed, "split_seed": seed, "empty_items": "drop", "threads": self.threads}
        return Options.of(model, **fixed, **limits, **own)

    def _factor_trial(self, before: Sequence[Line]) -> Run:
        number = len(before)
        tuned = propose(FACTORS, (FACTORS_SEED, number), before, "held_out")
        return Run(
            "factors", "factors", number, self._options("gorec", "ftmt", TUNING_SEED, tuned), tuned
        )

    def _factors(self, store: Store) -> dict[str, Any] | None:
        """Return the tuned options of the factorisation; None until all its trials are made."""
        lines = store.of("factors", "factors")
        if len(lines) < self._factor_trials():
            return None
        return (
            dict(max(lines, key=lambda line: line["held_out"][MONITOR])["tuned"]) if lines else {}
        )

    def _trial(self, method: str, before: Sequence[Line]) -> Run:
        number = len(before)
        tuned = propose(
            space_of(method), (find_method(method).search_seed, number), before, "validation"
        )
        return self._run("trial", method, method, "ftmt", number, TUNING_SEED, tuned)

    def _chosen(self, store: Store, method: str) -> dict[str, Any]:
        """Return the tuned options of a method, by its best trial."""
        lines = store.of("trial", method)
        return dict(best_trial(lines)["tuned"]) if lines else {}

    def _fresh(self, store: Store, method: str, number: int) -> Run:
        """Return a repeat on a held-out split, which no search has used."""
        return self._run(
            "fresh",
            method,
            method,
            "ftmt",
            number,
            FRESH_SEED + number,
            self._chosen(store, method),
        )

    def _timing(self, store: Store, method: str) -> Run:
        """Return the run that measures the time to rank the test items, after one epoch."""
        run = self._run("timing", method, method, "ftmt", 0, 0, self._chosen(store, method))
        once: dict[str, Any] = {"epochs": 1} if find_method(method).trains else {}
        return dataclasses.replace(run, options=run.options.replace(**once))

    def _repeat(
        self, store: Store, method: str, setting: str, number: int, variant: str | None = None
    ) -> Run:
        tuned = self._chosen(store, method)
        if variant:
            tuned |= {**VARIANTS, **WITHOUT}[variant]
        return self._run("repeat", variant or method, method, setting, number, number, tuned)

    def _sweeps(self, store: Store) -> Iterator[Run]:
        """Yield one repeat of each point, then more repeats of the best point on validation."""
        for option, values in SWEEPS.items():
            yield from (self._point(store, option, value, 0) for value in values)
            first = {
                value: store.of(f"sweep {option}={value:g}", "milk", limit=1) for value in values
            }
            if all(first.values()):
                best = max(first, key=lambda value: first[value][0]["validation"][MONITOR])
                yield from (
                    self._point(store, option, best, number)
                    for number in range(1, self.top_repeats())
                )

    def _why(self) -> Iterator[tuple[str, float, int]]:
        """Yield the points of the penalty weight for the table `why`, with several repeats each."""
        for value in WHY_PENALTIES:
            yield from (("penalty_weight", value, number) for number in range(self.top_repeats()))

    def _point(self, store: Store, option: str, value: float, number: int) -> Run:
        """Return a run of MILK with tuned options except one."""
        chosen = {**self._chosen(store, "milk"), option: float(value)}
        return self._run(
            f"sweep {option}={value:g}", "milk", "milk", "ftmt", number, number, chosen
        )

    def _run(
        self,
        phase: str,
        method: str,
        model: str,
        setting: str,
        number: int,
        seed: int,
        tuned: Mapping[str, Any],
    ) -> Run:
        values = dict(tuned)
        if find_method(model).needs_factors:
            values |= self._frozen
        return Run(phase, method, number, self._options(model, setting, seed, values), tuned)

    _frozen: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)
    """Tuned options of the factorisation, which all methods that need factors share."""

    def with_factors(self, store: Store) -> Plan:
        """Return the plan with the tuned options of the factorisation, if there are any."""
        return dataclasses.replace(self, _frozen=self._factors(store) or {})


def strongest(
    store: Store, methods: Sequence[str], repeats: int, setting: str = "ftmt"
) -> list[str]:
    """Return the methods that have all repeats, sorted by mean test NDCG@20, the best first."""

    def mean(method: str) -> float:
        return float(
            np.mean(
                [x["test"][MONITOR] for x in store.ranked("repeat", method, setting, limit=repeats)]
            )
        )

    ready = [
        m
        for m in methods
        if len(store.of("repeat", m, setting)) >= repeats and store.ranked("repeat", m, setting)
    ]
    return sorted(ready, key=mean, reverse=True)


def best_trial(trials: Sequence[Line]) -> Line:
    """Return the trial with the best validation score; the first one if several are equal."""
    return max(trials, key=lambda line: float(line["validation"][MONITOR]))
