"""A small shop on disk: 240 products with names, of which 24 are test items, and 150 customers."""

import itertools
import json
from pathlib import Path

import numpy as np

__all__ = ["write_shop"]

COLOURS = ("Blue", "Red", "Green", "Grey", "White")
MATERIALS = ("linen", "cotton", "wool", "denim", "silk", "leather")
KINDS = ("shirt", "jacket", "skirt", "scarf", "bag", "hat", "belt", "dress")
DIMS = {"description": 12, "picture": 8, "supplier": 5}


def write_shop(folder: Path, *, customers: int = 150, seed: int = 0) -> Path:
    """Write the shop and return its folder.

    Customers like kinds and materials. The description is close to what they like, the picture less
    so, and the supplier is unrelated noise. Every sixth product has no picture.
    """
    rng = np.random.default_rng(seed)
    products = list(itertools.product(range(5), range(6), range(8)))
    material, kind = rng.standard_normal((6, 4)), 1.5 * rng.standard_normal((8, 4))
    taste = rng.standard_normal((customers, 4))
    content = np.array([material[m] + kind[k] for _, m, k in products])
    score = taste @ content.T + rng.gumbel(size=(customers, len(products)))
    bought = np.argsort(-score, axis=1)[:, :25]
    x = {
        "description": content @ rng.standard_normal((4, 12)),
        "picture": content @ rng.standard_normal((4, 8)),
        "supplier": rng.standard_normal((len(products), 5)),
    }
    x["description"] += 0.3 * rng.standard_normal(x["description"].shape)
    x["picture"] += 4.0 * rng.standard_normal(x["picture"].shape)
    x["picture"][::6] = np.nan
    (folder / "features").mkdir(parents=True)
    for name, values in x.items():
        np.save(folder / f"features/{name}.npy", values.astype(np.float32))
    modalities = {name: {"file": f"features/{name}.npy", "dim": dim} for name, dim in DIMS.items()}
    sizes = {"num_users": customers, "num_items": len(products)}
    manifest = {"name": "shop", **sizes, "modalities": modalities}
    (folder / "dataset.json").write_text(json.dumps(manifest), encoding="utf-8")
    pairs = [f"{u}\t{i}" for u in range(customers) for i in sorted(bought[u])]
    names = [f"{COLOURS[c]} {MATERIALS[m]} {KINDS[k]}" for c, m, k in products]
    for file, lines in {
        "interactions.tsv": ["user\titem", *pairs],
        "users.tsv": ["user\tname", *(f"{u}\tC-{1000 + u}" for u in range(customers))],
        "items.tsv": ["item\tname", *(f"{i}\t{name}" for i, name in enumerate(names))],
    }.items():
        (folder / file).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
