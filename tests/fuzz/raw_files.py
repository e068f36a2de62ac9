"""Small raw files for `prepare`, one folder for each kind, with the options that read it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import polars as pl

PAIRS = [(f"u{user}", f"00{item}", 1_600_000_000 + 86_400 * (user + item), 1 + (user * item) % 5)
         for user in range(8) for item in range(12) if (user * 7 + item * 3) % 4]  # fmt: skip
ITEMS = [(f"00{item}", f"title {item} of {'ab'[item % 2]}", item % 3, item / 7, -item)
         for item in range(12)]  # fmt: skip


def write_raw(root: Path) -> dict[str, list[str]]:
    """Write a folder for each kind; return its name -> options, with {} for the folder."""
    for name in OPTIONS:
        (root / name).mkdir(parents=True)
    _tables(root / "csv")
    _json(root / "json")
    _parquet(root / "parquet")
    _atomic(root / "recbole")
    _movielens(root / "movielens")
    _hm(root / "hm")
    _amazon(root / "amazon")
    _mmrec(root / "mmrec")
    _arrays(root / "npz")
    return OPTIONS


OPTIONS: dict[str, list[str]] = {
    "csv": [
        "table", "--pairs", "{}/pairs.csv", "--features", "n={}/items.csv", "--feature-columns",
        "n=a,b", "--text", "t={}/items.csv:title", "--categories", "k={}/items.csv:kind",
    ],
    "json": ["table", "--pairs", "{}/pairs.jsonl", "--features", "v={}/items.json"],
    "parquet": ["table", "--pairs", "{}/pairs.parquet", "--features", "v={}/items.parquet"],
    "npz": ["table", "--pairs", "{}/pairs.csv", "--features", "v={}/items.npz"],
    "recbole": ["recbole", "--folder", "{}"],
    "movielens": ["movielens", "--folder", "{}"],
    "hm": ["hm", "--folder", "{}"],
    "amazon": ["amazon", "--reviews", "{}/reviews.jsonl.gz", "--metadata", "{}/meta.jsonl.gz"],
    "mmrec": ["mmrec", "--folder", "{}"],
}  # fmt: skip


def _tables(folder: Path) -> None:
    rows = [f'{user},{item},{time},"{rating}"' for user, item, time, rating in PAIRS]
    (folder / "pairs.csv").write_text("\n".join(["user,item,time,rating", *rows]) + "\n")
    rows = [f"{item};{title};{kind};{a:.2f};{b}" for item, title, kind, a, b in ITEMS]
    (folder / "items.csv").write_text("\n".join(["item;title;kind;a;b", *rows]) + "\n")


def _json(folder: Path) -> None:
    lines = [json.dumps({"user": user, "item": item}) for user, item, *_ in PAIRS]
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    items = [{"item": item, "vector": [kind, a, b]} for item, _, kind, a, b in ITEMS]
    (folder / "items.json").write_text(json.dumps(items))


def _parquet(folder: Path) -> None:
    users, items, times, _ = zip(*PAIRS, strict=True)
    pl.DataFrame({"user": users, "item": items, "time": times}).write_parquet(
        folder / "pairs.parquet"
    )
    vectors = [[float(kind), a, b] if kind else None for _, _, kind, a, b in ITEMS]
    pl.DataFrame({"item": [row[0] for row in ITEMS], "v": vectors}).write_parquet(
        folder / "items.parquet"
    )


def _arrays(folder: Path) -> None:
    _tables(folder)
    (folder / "items.csv").unlink()
    vectors = np.array([[kind, a, b] for _, _, kind, a, b in ITEMS], dtype=np.float32)
    np.savez(folder / "items.npz", ids=np.array([row[0] for row in ITEMS]), vectors=vectors)


def _atomic(folder: Path) -> None:
    rows = [f"{user}\t{item}\t{time}.0" for user, item, time, _ in PAIRS]
    header = "user_id:token\titem_id:token\ttimestamp:float"
    (folder / "set.inter").write_text("\n".join([header, *rows]) + "\n")
    rows = [f"{item}\t{title}\t{a:.2f} {b} {kind}" for item, title, kind, a, b in ITEMS]
    header = "item_id:token\ttitle:token_seq\tvector:float_seq"
    (folder / "set.item").write_text("\n".join([header, *rows]) + "\n")


def _movielens(folder: Path) -> None:
    rows = [f"{user[1:]}\t{int(item) + 1}\t{rating}\t{time}" for user, item, time, rating in PAIRS]
    (folder / "u.data").write_text("\n".join(rows) + "\n")
    genres = ["unknown", *(f"g{k}" for k in range(18))]
    (folder / "u.genre").write_text("".join(f"{name}|{k}\n" for k, name in enumerate(genres)))
    films = []
    for number, row in enumerate(ITEMS):
        flags = "|".join(str(int(k in (1 + row[2], 5))) for k in range(19))
        films.append(f"{number + 1}|Film {row[1]} (1995)|01-Jan-1995||http://x|{flags}")
    (folder / "u.item").write_text("\n".join(films) + "\n", encoding="latin-1")


def _hm(folder: Path) -> None:
    rows = [f"2020-0{1 + k % 9}-01,{user},{item:>010},0.01,2"
            for k, (user, item, *_) in enumerate(PAIRS)]  # fmt: skip
    header = "t_dat,customer_id,article_id,price,sales_channel_id"
    (folder / "transactions_train.csv").write_text("\n".join([header, *rows]) + "\n")
    rows = [f'{item:>010},"{title}",g{kind},"a ""{b}"" text"' for item, title, kind, _, b in ITEMS]
    header = "article_id,prod_name,product_group_name,detail_desc"
    (folder / "articles.csv").write_text("\n".join([header, *rows]) + "\n")


def _amazon(folder: Path) -> None:
    reviews = [
        {"user_id": user, "parent_asin": f"B{item}", "asin": "x", "rating": rating,
         "timestamp": time * 1000}
        for user, item, time, rating in PAIRS
    ]  # fmt: skip
    metadata = [
        {"parent_asin": f"B{item}", "title": title, "description": [title] * kind,
         "features": [], "store": "s", "price": None, "categories": ["c", f"k{kind}"]}
        for item, title, kind, *_ in ITEMS
    ]  # fmt: skip
    for name, lines in (("reviews", reviews), ("meta", metadata)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress(text.encode(), mtime=0))


def _mmrec(folder: Path) -> None:
    rows = [f"{user[1:]}\t{int(item)}\t{rating}.0\t{time}\t{k % 3}"
            for k, (user, item, time, rating) in enumerate(PAIRS)]  # fmt: skip
    header = "userID\titemID\trating\ttimestamp\tx_label"
    (folder / "set.inter").write_text("\n".join([header, *rows]) + "\n")
    vectors = np.array([[kind, a, b] for _, _, kind, a, b in ITEMS])
    np.save(folder / "image_feat.npy", vectors)
    np.save(folder / "text_feat.npy", vectors[:, ::-1].astype(np.float32))
