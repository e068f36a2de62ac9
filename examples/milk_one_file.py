"""MILK in one file: recommend new items, some of whose modalities are missing.

    python examples/milk_one_file.py  # ten seconds on one core

MILK is Bai et al., "Multimodality Invariant Learning for Multimedia-Based New Item Recommendation",
SIGIR 2024; comments give the numbers of its equations. A new item has no clicks yet, so it is
recommended by its features: here text, image and audio. Half of the new items lack one of them,
although no training item does. MILK trains vectors of users and items that rank equally well
however the modalities are weighted. Its parts are calls of `invmod`; the rest is plain PyTorch.
`milk_recsys` has more options, checkpoints and compiled loops; a test checks that its losses and
NDCG@20 equal those of this file. Shapes: N items, M modalities, D dimensions, E environments,
B training triples, U users and C candidates.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import invmod
from milk_recsys.catalogue.synthetic import embedded_dataset

Features = Mapping[str, Tensor]  # modality -> rows

# --- Options ---
SEED = 0  # Seed of the split, the missing modalities, the initial weights and the training.
DTYPE = torch.float64  # torch.float32 also works.
COLD_SHARE = 0.2  # Share of the items that are new: half are for validation, half for the test.
MISSING_RATE = 0.5  # Share of the validation and of the test items that lose one modality each.
EMBEDDING_DIM = 64  # D, width of the users' and items' vectors.
USER_INIT_STD = 0.1  # Standard deviation of the initial user vectors.
ALPHA = 1.0  # Concentration of the Dirichlet distribution of Eq. 9; small is near one-hot.
PENALTY_WEIGHT = 1.0  # Beta, weight of the variance of the risks in Eq. 14.
ALIGNMENT_WEIGHT = 0.05  # Lambda, weight of the alignment in Eq. 16.
REGULARISER_WEIGHT = 1e-4  # Weight of the squared norms in Eq. 16.
LEARNING_RATE = 1e-2  # 1e-3 takes three times as many epochs; the test NDCG@20 is then 0.491.
BATCH_SIZE = 2048  # B, training triples in a step.
MAX_EPOCHS = 1000  # Maximum number of epochs.
EVAL_EVERY = 5  # Validate after epochs 0, 5, 10, ... and after the last one.
PATIENCE = 3  # Stop at this many validations in a row without a gain.
TOP_K = 20  # K of NDCG@K, the length of the ranked lists.


# --- Data ---
class Data(NamedTuple):
    """The data set and its split."""

    features: Features  # modality -> (N, d), rows of unit length
    natural_mask: Tensor  # (N, M) bool, the modalities that an item has
    mask: Tensor  # (N, M) bool, the modalities that may be used
    liked: Tensor  # (U, N) bool, whether a user has an item
    warm: Tensor  # ids of the training items; all three sets of ids are in increasing order
    validation: Tensor
    test: Tensor


def load_data() -> Data:
    """Load the embedded data set, choose the new items, and hide modalities from half of them."""
    dataset = embedded_dataset()
    features = {name: torch.from_numpy(x).to(DTYPE) for name, x in dataset.features.items()}
    # Scale rows to unit length, so that no modality outweighs another because of its units.
    features = {name: F.normalize(x, dim=1) for name, x in features.items()}
    natural_mask = invmod.mask_from_features(features, dataset.modalities)
    liked = torch.zeros(dataset.num_users, dataset.num_items, dtype=torch.bool)
    liked[tuple(dataset.interactions.T)] = True
    # The split and the mask have separate streams, so that MISSING_RATE does not change the split.
    split_stream, mask_stream = np.random.SeedSequence(SEED).spawn(2)
    items = np.random.default_rng(split_stream).permutation(np.unique(dataset.interactions[:, 1]))
    num_cold = int(COLD_SHARE * len(items) + 0.5)
    parts = np.split(items, [num_cold // 2, num_cold])
    validation, test, warm = (torch.from_numpy(np.sort(part)) for part in parts)
    mask, generator = natural_mask, make_generator(mask_stream)
    for rows in (test, validation):
        mask, _ = invmod.simulate_missing(mask, MISSING_RATE, rows=rows, generator=generator)
    return Data(features, natural_mask, mask, liked, warm, validation, test)


def make_generator(stream: np.random.SeedSequence) -> torch.Generator:
    """Seed a torch generator from a NumPy seed sequence; the shift keeps the seed below 2^63."""
    return torch.Generator().manual_seed(int(stream.generate_state(1, np.uint64)[0] >> 1))


def select(features: Features, rows: Tensor) -> Features:
    """Select rows of every modality."""
    return {name: x[rows] for name, x in features.items()}


# --- Model ---
class Model(NamedTuple):
    """The parameters, and the means of the training items that replace missing features."""

    users: nn.Embedding
    encoders: invmod.ModalityEncoders
    imputer: invmod.MeanImputer


def build_model(data: Data) -> Model:
    """Initialise users and encoders from SEED, and fit the imputer on the training items alone."""
    torch.manual_seed(SEED)
    users = nn.Embedding(len(data.liked), EMBEDDING_DIM)
    nn.init.normal_(users.weight, std=USER_INIT_STD)
    # Eq. 5: c = W x + b, with a W and a b per modality, maps all modalities to one space.
    dims = {name: x.shape[1] for name, x in data.features.items()}
    encoders = invmod.ModalityEncoders.linear(dims, EMBEDDING_DIM)
    # Eq. 18 imputes means. They are those of observed training rows; new items are unknown.
    imputer = invmod.MeanImputer(list(dims)).fit(data.features, data.mask, rows=data.warm)
    return Model(users.to(DTYPE), encoders.to(DTYPE), imputer)


# --- Objective ---
def milk_loss(model: Model, features: Features, mask: Tensor, batch: Sequence[Tensor]) -> Tensor:
    """Return the loss of Eq. 16.

    Arguments:
        features: imputed features of the training items; mask: (N, M) bool, observed modalities.
        batch: (B,) users, (B,) an item that each has, (B,) an item that each does not have, and
            (E, M) the fusion weights of the environments, of which the first is uniform.
    """
    users, positives, negatives, weights = batch
    # An item occurs in many triples. It is encoded once; `better` and `worse` are its row in z.
    items, rows = torch.unique(torch.cat([positives, negatives]), return_inverse=True)
    better, worse = rows.chunk(2)
    z = model.encoders(select(features, items))  # (n, M, D), Eq. 5
    u = model.users(users)  # (B, D)
    # Eq. 7, 8 and 12 fuse an item's modalities, and Eq. 13 scores the fused vector by its inner
    # product with the user's. Both are linear, so the modalities' scores may be fused instead of
    # their vectors: the numbers are the same, and E environments cost hardly more than one.
    margins = invmod.fuse((u[:, None, :] * (z[better] - z[worse])).sum(dim=2), weights)  # (E, B)
    # Eq. 15: in every environment, the item that a user has should score higher than the other one.
    risks = F.softplus(-margins).mean(dim=1)  # (E,), because softplus(-x) = -ln sigmoid(x)
    # Eq. 14: the variance is 0 if the model ranks equally well however modalities are weighted.
    penalty = invmod.vrex_penalty(risks)
    loss = invmod.invariant_objective(risks, penalty=penalty, penalty_weight=PENALTY_WEIGHT)
    # Eq. 6: pull an item's modalities together, so that one can replace a missing one. Only
    # observed modalities are aligned, because imputed ones are the same for all items.
    aligned = torch.unique(better)
    mask = mask[items[aligned]]
    alignment = invmod.pairwise_alignment_loss(z[aligned], mask, reduction="element_mean")
    # Eq. 16: the regulariser keeps vectors short. As in the authors' code, it is the mean over the
    # triples of the squared norms of their three vectors, in the uniform environment.
    h = invmod.fuse(z, weights[:1])[0]  # (n, D)
    squares = u.square().sum() + h[better].square().sum() + h[worse].square().sum()
    return loss + ALIGNMENT_WEIGHT * alignment + REGULARISER_WEIGHT * squares / len(users)


# --- Training ---
def train(data: Data) -> tuple[Model, list[float]]:
    """Minimise the loss (Eq. 17) with early stopping; return the best model and epoch losses."""
    model = build_model(data)
    optimiser = torch.optim.Adam(nn.ModuleList(model).parameters(), lr=LEARNING_RATE)
    best, best_score, stale = model, -1.0, 0
    losses: list[float] = []
    while stale < PATIENCE and len(losses) < MAX_EPOCHS:
        epoch = len(losses)
        losses.append(train_epoch(model, optimiser, data, epoch))
        if epoch % EVAL_EVERY == 0 or epoch == MAX_EPOCHS - 1:
            score = rank_new_items(model, data, data.validation).mean().item()
            print(f"epoch {epoch:3d}: loss {losses[-1]:.3f}, validation NDCG@20 {score:.3f}")
            stale += 1
            if score > best_score:
                best, best_score, stale = copy.deepcopy(model), score, 0
    return best, losses


def train_epoch(model: Model, optimiser: torch.optim.Optimizer, data: Data, epoch: int) -> float:
    """Visit every pair of a user and a training item once; return the mean loss over the pairs."""
    # Only warm items are used here. They are numbered by their position in `data.warm`.
    mask, liked = data.mask[data.warm], data.liked[:, data.warm]
    features, _ = model.imputer(select(data.features, data.warm), mask)
    # Every epoch has its own stream: the order, then the negatives, then the environments.
    generator = make_generator(np.random.SeedSequence([SEED, epoch]))
    pairs = liked.nonzero()
    users, positives = pairs[torch.randperm(len(pairs), generator=generator)].unbind(1)
    # A negative is an item that the user does not have. The sort puts those (False) first in a row.
    absent, num_absent = liked.int().argsort(dim=1, stable=True), (~liked).sum(dim=1)
    uniform = torch.rand(len(users), generator=generator, dtype=torch.float64)
    negatives = absent[users, (uniform * num_absent[users]).long()]
    batches = [torch.split(x, BATCH_SIZE) for x in (users, positives, negatives)]
    # Eq. 9 to 11: row 0 of a batch's environments is uniform, row 1 is a Dirichlet draw, the others
    # are its cyclic shifts. Every modality thus has the largest weight in one environment.
    envs = invmod.CyclicMixupEnvs(len(features), alpha=ALPHA)
    weights = envs.sample((len(batches[0]),), generator=generator, dtype=DTYPE)  # (steps, E, M)
    total = 0.0
    for batch in zip(*batches, weights, strict=True):
        loss = milk_loss(model, features, mask, batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        total += loss.item() * len(batch[0])
    return total / len(pairs)


# --- Ranking ---
@torch.no_grad()
def user_ndcg(model: Model, features: Features, mask: Tensor, liked: Tensor) -> Tensor:
    """Return NDCG@20 of the users with any positive in `liked` (U, C); the mask is (C, M)."""
    # Eq. 18: impute, encode, and fuse with equal weights, imputed modalities included.
    filled, _ = model.imputer(features, mask)
    uniform = torch.full((1, mask.shape[1]), 1 / mask.shape[1], dtype=DTYPE)
    h = invmod.fuse(model.encoders(filled), uniform)[0]  # (C, D)
    has_any = liked.any(dim=1)
    scores, liked = model.users.weight[has_any] @ h.T, liked[has_any]  # Eq. 13
    discounts = 1 / torch.log2(torch.arange(TOP_K, dtype=torch.float64) + 2)
    top = scores.argsort(dim=1, descending=True, stable=True)[:, :TOP_K]
    gains = (liked.gather(1, top) * discounts).sum(dim=1)
    # The ideal list begins with the user's items, of which the first 20 count.
    return gains / discounts.cumsum(0)[liked.sum(dim=1).clamp(max=TOP_K) - 1]


def rank_new_items(model: Model, data: Data, items: Tensor) -> Tensor:
    """Return the users' NDCG@20 on new items (C,), with the modalities that may be used."""
    return user_ndcg(model, select(data.features, items), data.mask[items], data.liked[:, items])


# --- Report ---
def report_robustness(model: Model, data: Data) -> invmod.RobustnessReport:
    """Hide each modality in turn from all test items; measure NDCG@20, with users as units."""
    liked = data.liked[:, data.test]

    def ndcg_at_20(values: Tensor, _users: Tensor) -> float:
        return values.mean().item()

    return invmod.robustness_report(
        {"MILK": lambda features, mask: user_ndcg(model, features, mask, liked)},
        select(data.features, data.test),
        liked.any(dim=1).nonzero(),  # The users, one for each value of `user_ndcg`.
        ndcg_at_20,
        mask=data.natural_mask[data.test],
        patterns="one_missing",
        rates=(),
        per_unit=lambda values, _users: values,  # Resamples users without ranking again.
        generator=torch.Generator().manual_seed(SEED),
    )


def main() -> None:
    """Train, rank the new items, and print NDCG@20 with each modality hidden in turn."""
    data = load_data()
    model, losses = train(data)
    values = rank_new_items(model, data, data.test)
    print(f"test NDCG@20 {values.mean():.3f} over {len(values)} users, {len(losses)} epochs\n")
    print(report_robustness(model, data))


if __name__ == "__main__":
    main()
