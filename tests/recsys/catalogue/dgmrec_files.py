"""A small folder in the format of DGMRec's task, with counts that can be checked by hand."""

import numpy as np

# User, item and label of all pairs. Items 4 and 5 are new: their training pairs are removed.
FULL = (
    (0, 0, 0),
    (0, 1, 0),
    (0, 4, 0),
    (0, 2, 1),
    (0, 6, 2),
    (1, 1, 0),
    (1, 5, 0),
    (1, 3, 2),
    (2, 4, 0),
    (2, 0, 2),
    (3, 2, 0),
    (3, 3, 0),
    (3, 7, 1),
    (3, 5, 2),
)
REMOVED = {(0, 4, 0), (1, 5, 0), (2, 4, 0)}
MISSING = {"t": [0], "v": [4], "ta": [1, 5], "all": [7]}
COUNTS = {
    "pairs": 14,
    "users": 4,
    "items": 8,
    "training pairs before": 8,
    "validation pairs": 2,
    "test pairs before": 4,
    "removed pairs": 3,
    "training pairs": 5,
    "training items": 4,
    "new items": 2,
    "validation pairs on items without a training pair": 1,
    # User 2 has no training pair left: (2, 4) and (2, 0) are no test pairs.
    "test pairs": 5,
    "test users": 3,
    "test pairs on items without a training pair": 4,
    "test pairs on new items": 3,
    "test users with a new item": 3,
    "items that lack a modality": 5,
    "items that lack text": 4,
    "items that lack visual": 2,
    "items that lack acoustic": 3,
    "new items with visual and acoustic": 0,
    "new items with visual alone": 1,
    "new items with acoustic alone": 1,
    "new items with neither": 0,
    "training items with visual and acoustic": 3,
    "training items with visual alone": 1,
    "training items with acoustic alone": 0,
    "training items with neither": 0,
}


def write_inter(path, rows):
    lines = ["userID\titemID\tx_label", *("\t".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")


def write_missing(path, missing):
    arrays = {key: np.array(ids, dtype=np.int64) for key, ids in missing.items()}
    np.save(path, np.array(arrays, dtype=object), allow_pickle=True)


def write_task(folder, full=FULL, removed=REMOVED, missing=MISSING, name="tiktok"):
    """Write the three files; the second lists its rows by label, as the repository does."""
    folder.mkdir(exist_ok=True)
    write_inter(folder / f"{name}.inter", full)
    kept = sorted((row for row in full if row not in removed), key=lambda row: row[2])
    write_inter(folder / f"{name}_del.inter", kept)
    write_missing(folder / "missing_items_0.6.npy", missing)
    return folder
