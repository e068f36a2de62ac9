"""Environments: rows of fusion weights on the simplex over modalities, or subsets of the modalities as masks.

A generator of environments has ``num_envs``, ``num_modalities`` and ``sample``, as in `torch.distributions`; there is
no environment class. Its rows go to `invmod.fuse`. Those that are subsets have ``sample_masks`` as well, for any model.
"""

from invmod.environments.diagnostics import Dominance, dominance
from invmod.environments.dirichlet import CyclicMixupEnvs, DirichletEnvs
from invmod.environments.given import FixedEnvs, GivenEnvs, UniformEnvs, UnionEnvs
from invmod.environments.inferred import infer_environments
from invmod.environments.subsets import (
    KOfAvailableEnvs,
    LeaveOneOutEnvs,
    OneHotEnvs,
    RandomSubsetEnvs,
)

__all__ = [
    "CyclicMixupEnvs",
    "DirichletEnvs",
    "Dominance",
    "FixedEnvs",
    "GivenEnvs",
    "KOfAvailableEnvs",
    "LeaveOneOutEnvs",
    "OneHotEnvs",
    "RandomSubsetEnvs",
    "UniformEnvs",
    "UnionEnvs",
    "dominance",
    "infer_environments",
]
