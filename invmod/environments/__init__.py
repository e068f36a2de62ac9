"""Environments: rows of fusion weights on the simplex over modalities.

A generator of environments has ``num_envs``, ``num_modalities`` and ``sample``, as in `torch.distributions`; there is
no environment class. Its rows go to `invmod.fuse`.
"""

from invmod.environments.dirichlet import CyclicMixupEnvs

__all__ = ["CyclicMixupEnvs"]
