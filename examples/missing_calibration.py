"""Sets of classes that hold by pattern, in the studies digits_quadrants and omics_subtypes.

The test rows of each split are divided into two halves: one calibrates a trained model, the other
measures how often its sets contain the class, and how large they are. In both halves 30% of the
cells are hidden at random. The rules of `invmod.calibration` are compared with one quantile for all
patterns, as split conformal prediction without patterns has it.

Every split appends its lines to calibration.jsonl, from which a study that was stopped resumes.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invmod.calibration import calibrate_by_pattern
from invmod.calibration.ranks import conformal_quantile
from invmod.missingness import hide_features, mask_from_features, simulate_mcar
from missing_methods import Problem, train
from missing_tables import half_width, pair

__all__ = ["CalibrationStudy", "calibration_table"]

COVERAGE = 0.9
MISSING_RATE = 0.3
RULES = ("mondrian", "masked_down", "nested", "auto")


@dataclass(frozen=True)
class Half:
    """One half of the test rows, with some cells hidden."""

    features: dict[str, Tensor]
    mask: Tensor
    targets: Tensor


@dataclass(frozen=True)
class CalibrationStudy:
    """Calibration of one method on one problem.

    Arguments:
        problem: the data and the splits.
        folder: folder of ``calibration.jsonl``, which has a line per split and rule.
        config: configuration of the method "environments".
        seeds: number of splits.
    """

    problem: Problem
    folder: Path
    config: Mapping[str, float]
    seeds: int = 10

    def run(self) -> list[dict[str, Any]]:
        """Calibrate the splits that are not stored yet; return one line per split and rule."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "calibration.jsonl"
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        # The lines of a split are written at once, but the last write may have been cut short.
        complete = text[: text.rfind("\n") + 1]
        if complete != text:
            path.write_text(complete, encoding="utf-8")
        stored = [json.loads(line) for line in complete.splitlines()]
        lines = []
        for seed in range(self.seeds):
            of_seed = [x for x in stored if x["seed"] == seed and x["config"] == self.config]
            if len(of_seed) != 1 + len(RULES):
                of_seed = self._split(seed)
                with path.open("a", encoding="utf-8") as file:
                    file.write(as_text(of_seed))
            lines += of_seed
        # Without the lines of other configurations and of splits that were not written completely.
        path.write_text(as_text(lines), encoding="utf-8")
        return lines

    def _split(self, seed: int) -> list[dict[str, Any]]:
        predict = train(self.problem, "environments", self.config, seed)
        calibration, test = halves(self.problem, seed)
        sets = {"one quantile": pooled_sets(predict, calibration, test)}
        for rule in RULES:
            predictor = calibrate_by_pattern(
                predict,
                calibration.features,
                calibration.targets,
                "probability",
                mask=calibration.mask,
                coverage=COVERAGE,
                rule=rule,
            )
            sets[rule] = predictor.sets(test.features, test.mask)
        return [
            {
                "seed": seed,
                "config": dict(self.config),
                "rule": rule,
                "hidden": counted(members, test, self.problem),
            }
            for rule, members in sets.items()
        ]


def as_text(lines: Iterable[Mapping[str, Any]]) -> str:
    """Return one line of JSON for each element."""
    return "".join(json.dumps(line) + "\n" for line in lines)


def halves(problem: Problem, seed: int) -> tuple[Half, Half]:
    """Divide the test rows of a split at random and hide cells of both halves at random."""
    generator = torch.Generator().manual_seed(2000 + seed)
    test = problem.split(seed)[2]
    test = test[torch.randperm(len(test), generator=generator)]
    names = tuple(problem.features)
    features = {name: x[test] for name, x in problem.features.items()}
    observed = mask_from_features(features, names)
    # A modality that no test row has cannot be hidden.
    rates = [MISSING_RATE if column.any() else 0.0 for column in observed.T]
    mask = simulate_mcar(observed, rates, generator=generator).mask
    hidden, middle = hide_features(features, mask, names), len(test) // 2
    return tuple(
        Half({name: x[part] for name, x in hidden.items()}, mask[part], problem.targets[test[part]])
        for part in (slice(0, middle), slice(middle, None))
    )


def pooled_sets(predict: Any, calibration: Half, test: Half) -> Tensor:
    """Return the sets of split conformal prediction with one quantile for all patterns."""
    probabilities = predict(calibration.features, calibration.mask).double()
    own = probabilities.gather(1, calibration.targets[:, None])[:, 0]
    quantile = conformal_quantile(np.sort(1 - own.numpy()), COVERAGE)
    return 1 - predict(test.features, test.mask).double() <= quantile


def counted(sets: Tensor, test: Half, problem: Problem) -> dict[str, list[float]]:
    """Return number of hidden modalities -> test rows, covered rows and total size of sets.

    Modalities that no test row has do not count as hidden.
    """
    present = mask_from_features(problem.features, tuple(problem.features))
    available = present[problem.split(0)[2]].any(dim=0)
    num_hidden = (~test.mask & available).sum(dim=1)
    covered = sets.gather(1, test.targets[:, None])[:, 0]
    return {
        str(count): [
            int(chosen.sum()),
            int(covered[chosen].sum()),
            int(sets[chosen].sum()),
        ]
        for count in num_hidden.unique().tolist()
        for chosen in [num_hidden == count]
    }


def calibration_table(lines: Iterable[Mapping[str, Any]]) -> str:
    """Format coverage and size of sets by rule and number of hidden modalities."""
    lines = list(lines)
    rules = list(dict.fromkeys(line["rule"] for line in lines))
    counts = sorted({int(count) for line in lines for count in line["hidden"]})
    names = ["complete" if count == 0 else f"{count} hidden" for count in counts]
    rows = [
        f"| rule | measure | {' | '.join(names)} |",
        f"|{' --- |' * (2 + len(counts))}",
    ]
    for rule in rules:
        for measure, position in (("coverage", 1), ("mean size", 2)):
            cells = []
            for count in counts:
                shares = [
                    line["hidden"][str(count)][position] / line["hidden"][str(count)][0]
                    for line in lines
                    if line["rule"] == rule and str(count) in line["hidden"]
                ]
                cells.append(pair((float(np.mean(shares)), half_width(shares))))
            rows.append(f"| {rule} | {measure} | {' | '.join(cells)} |")
    note = (
        f"Sets of classes for a coverage of {COVERAGE:.0%}, of the method environments; "
        f"{MISSING_RATE:.0%} of the cells are hidden at random in the calibration half and in the "
        "measured half of the test rows. Means over splits ± half of a 95% t interval."
    )
    return "\n".join([*rows, "", note]) + "\n"
