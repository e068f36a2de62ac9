"""The result of a test of missingness completely at random."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModalityTest:
    """The permutation test of one modality's values.

    Attributes:
        modality: name of the modality.
        num_rows: number of rows that the test uses.
        num_patterns: number of patterns of the other modalities among these rows.
        p_value: uncorrected p-value.
        adjusted_p_value: p-value after Holm's correction for the number of tested modalities.

    Example:
        >>> ModalityTest("text", 80, 2, 0.01, 0.02).adjusted_p_value
        0.02
    """

    modality: str
    num_rows: int
    num_patterns: int
    p_value: float
    adjusted_p_value: float


@dataclass(frozen=True)
class McarTest:
    """The result of `mcar_test`. ``print(result)`` states it in a sentence.

    Attributes:
        method: ``"little"`` or ``"permutation"``.
        p_value: None if the test could not be computed.
        reason: why it could not be computed, or None.
        statistic, degrees_of_freedom: of Little's test, else None.
        num_permutations: of the permutation test, else 0.
        num_rows: number of rows with at least one tested value.
        tested: names of the modalities whose values are tested.
        left_out: names of the modalities whose values are not tested, because they are not numbers
            or do not vary enough.
        modalities: one `ModalityTest` per tested modality; empty for Little's test.

    Example:
        >>> print(str(McarTest("little", 0.2, None, 3.2, 2, 0, 90, ("a", "b"), (), ()))[:62])
        Little's test: chi square 3.20, 2 degrees of freedom, p = 0.2.
    """

    method: str
    p_value: float | None
    reason: str | None
    statistic: float | None
    degrees_of_freedom: int | None
    num_permutations: int
    num_rows: int
    tested: tuple[str, ...]
    left_out: tuple[str, ...]
    modalities: tuple[ModalityTest, ...]

    def __str__(self) -> str:
        name = "Little's test" if self.method == "little" else "Permutation test"
        if self.p_value is None:
            return f"{name} of MCAR: not computed, because {self.reason}"
        figures = (
            f"chi square {self.statistic:.2f}, "
            f"{counted(self.degrees_of_freedom or 0, 'degree of freedom', 'degrees of freedom')}"
            if self.method == "little"
            else f"{counted(self.num_permutations, 'permutation')}, "
            f"{counted(len(self.modalities), 'modality', 'modalities')}"
        )
        verdict = (
            "The data contradict MCAR at the 5% level."
            if self.p_value < 0.05
            else "The data do not contradict MCAR, which is no proof of it."
        )
        return f"{name}: {figures}, p {shown_p(self.p_value, self.smallest_p)}. {verdict}"

    @property
    def smallest_p(self) -> float:
        """Smallest p-value that the number of permutations allows; 0 for Little's test."""
        return len(self.modalities) / (1 + self.num_permutations) if self.modalities else 0.0


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """Return a number and its noun, in the singular for 1.

    Example:
        >>> counted(1, "row"), counted(0, "row"), counted(2, "modality", "modalities")
        ('1 row', '0 rows', '2 modalities')
    """
    return f"{count} {noun if count == 1 else plural or f'{noun}s'}"


def shown_p(p: float, smallest: float = 0.0) -> str:
    """Return "= p", or "<= smallest" if p is the smallest value that the test can give.

    Example:
        >>> shown_p(0.0312), shown_p(0.001, 0.001), shown_p(1e-9)
        ('= 0.0312', '<= 0.001', '= 1e-09')
    """
    return f"<= {smallest:.2g}" if 0 < p <= smallest * (1 + 1e-9) else f"= {p:.3g}"
