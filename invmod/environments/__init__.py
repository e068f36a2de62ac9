"""Environments: rows of fusion weights on the simplex over modalities, or masks.

An environment is a condition under which the model is trained: a row of fusion weights, for models
that fuse linearly, or a mask, for any model.

A generator of environments has ``num_envs``, ``num_modalities`` and ``sample``, as in
`torch.distributions`; there is no class for a single environment. Pass the sampled rows to
`invmod.fuse`. Generators whose environments are subsets of the modalities also have
``sample_masks``, for models that do not fuse linearly.
"""

from invmod.environments.available import KOfAvailableEnvs
from invmod.environments.diagnostics import Dominance, dominance
from invmod.environments.dirichlet import CyclicMixupEnvs, DirichletEnvs
from invmod.environments.given import FixedEnvs, GivenEnvs, UniformEnvs
from invmod.environments.inferred import infer_environments
from invmod.environments.protocol import Environments
from invmod.environments.subsets import LeaveOneOutEnvs, OneHotEnvs, RandomSubsetEnvs
from invmod.environments.union import UnionEnvs

__all__ = [
    "CyclicMixupEnvs",
    "DirichletEnvs",
    "Dominance",
    "Environments",
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
