"""A synthetic data set, drawn from a latent-factor process, that needs no download.

Users u and items i share a semantic space of K dimensions. Preferences depend on it, and every
modality reveals a part of it:

    a_u ~ N(0, I_K)                                  taste of user u
    v_i ~ N(0, I_K)                                  semantics of item i, shared by its modalities
    p_im ~ N(0, I_Q)                                 private part of modality m, unrelated to taste
    x_im = (s_m A_m v_i + B_m p_im) + sigma e_im     features of item i; e_im ~ N(0, I)

    s = 1, 0.6, 0.3 for text, image, audio           signal strength of each modality
    A_m ~ N(0, 1 / K), B_m ~ N(0, 1 / Q)             fixed mixing matrices, (d_m, K) and (d_m, Q)

    r_i, a random permutation of 1, 2, ...           popularity rank of item i
    y_ui = beta a_u . v_i / sqrt(K) - gamma log r_i  preference: taste and long-tailed popularity
    n_u = round(exp(N(log 20, 0.6^2))), in [5, 120]  number of items of user u, long-tailed
    user u has the n_u items with the largest y_ui + g_ui, g_ui ~ Gumbel(0, 1)

The last line is the Gumbel top-k method: it samples n_u items without replacement, each time with
probabilities proportional to exp(y_ui) among the remaining items. The constants were chosen before
any model was trained on the set and have not been changed since, so they do not favour a model. No
modality is naturally missing; the setting decides which ones are removed.
"""

import dataclasses

import numpy as np
import numpy.typing as npt

from milk_recsys.catalogue.dataset import Dataset

__all__ = ["embedded_dataset", "tiny_dataset"]

NUM_USERS = 800
NUM_ITEMS = 600
SHARED_DIM = 12  # K
PRIVATE_DIM = 12  # Q
DIMS = {"text": 96, "image": 64, "audio": 32}  # d_m
SIGNAL = {"text": 1.0, "image": 0.6, "audio": 0.3}  # s_m
NOISE_STD = 0.5  # sigma
TASTE = 2.0  # beta
POPULARITY = 0.8  # gamma
ACTIVITY = (np.log(20.0), 0.6)  # mean and standard deviation of log n_u
ACTIVITY_LIMITS = (5, 120)


def embedded_dataset(seed: int = 0) -> Dataset:
    """Return the data set defined by the module's equations; equal seeds give equal data.

    Arguments:
        seed: seed of numpy's generator. Runs of the example use 0, whatever their own seeds are.

    Returns:
        800 users, 600 items, three modalities (text 96, image 64, audio 32 wide, float32) and about
        19,000 pairs.

    Example:
        >>> data = embedded_dataset()
        >>> data.modalities, data.num_users, data.num_items, bool(data.natural_mask.all())
        (('text', 'image', 'audio'), 800, 600, True)
    """
    rng = np.random.default_rng(seed)
    taste = rng.standard_normal((NUM_USERS, SHARED_DIM))
    semantics = rng.standard_normal((NUM_ITEMS, SHARED_DIM))
    return Dataset(
        name="embedded",
        num_users=NUM_USERS,
        num_items=NUM_ITEMS,
        interactions=_interactions(taste, semantics, rng),
        features={name: _features(name, semantics, rng) for name in DIMS},
        natural_mask=np.ones((NUM_ITEMS, len(DIMS)), dtype=np.bool_),
        description="Synthetic users, items and three modalities from a latent-factor process.",
        source=f"milk_recsys.catalogue.synthetic.embedded_dataset(seed={seed})",
    )


def _interactions(
    taste: npt.NDArray[np.float64],
    semantics: npt.NDArray[np.float64],
    rng: np.random.Generator,
) -> npt.NDArray[np.int64]:
    """Return sorted pairs (P, 2): each user's items with the largest perturbed preferences."""
    ranks = 1 + rng.permutation(NUM_ITEMS)
    preference = TASTE * (taste @ semantics.T) / np.sqrt(SHARED_DIM) - POPULARITY * np.log(ranks)
    activity = np.exp(rng.normal(*ACTIVITY, size=NUM_USERS))
    counts = np.clip(np.rint(activity), *ACTIVITY_LIMITS).astype(np.int64)
    order = np.argsort(-(preference + rng.gumbel(size=preference.shape)), axis=1)
    # Mark the first n_u entries of each user's order; argwhere then lists the pairs sorted by user.
    chosen = np.zeros(preference.shape, dtype=np.bool_)
    np.put_along_axis(chosen, order, np.arange(NUM_ITEMS) < counts[:, None], axis=1)
    return np.argwhere(chosen).astype(np.int64, copy=False)


def _features(
    name: str, semantics: npt.NDArray[np.float64], rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Return the features x_im (num_items, d_m) of a modality: shared part, private part, noise."""
    dim = DIMS[name]
    shared_map = rng.normal(scale=SHARED_DIM**-0.5, size=(dim, SHARED_DIM))
    private_map = rng.normal(scale=PRIVATE_DIM**-0.5, size=(dim, PRIVATE_DIM))
    private = rng.standard_normal((len(semantics), PRIVATE_DIM))
    noise = rng.normal(scale=NOISE_STD, size=(len(semantics), dim))
    return (SIGNAL[name] * (semantics @ shared_map.T) + private @ private_map.T + noise).astype(
        np.float32
    )


def tiny_dataset(seed: int = 0) -> Dataset:
    """Return a part of the embedded set for quick checks: 80 users, 300 items and their pairs."""
    whole = embedded_dataset(seed)
    pairs = whole.interactions[(whole.interactions < [80, 300]).all(axis=1)]
    return dataclasses.replace(
        whole,
        name="tiny",
        num_users=80,
        num_items=300,
        interactions=pairs,
        features={name: x[:300] for name, x in whole.features.items()},
        natural_mask=whole.natural_mask[:300],
    )
