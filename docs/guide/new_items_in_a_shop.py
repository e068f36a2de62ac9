r"""
New items in a shop
===================

A shop has orders, and new products that nobody has bought yet. Each has a title, and some have a
picture. This guide fits a recommender in memory, lists new products for customers, explains a
suggestion, and serves a customer who has just arrived.

The shop is generated, so that the guide needs no files. :doc:`/prepare` begins with a shop's files.
"""

import matplotlib.pyplot as plt
import numpy as np

import milk_recsys

rng = np.random.default_rng(0)
taste = rng.standard_normal((300, 3))  # of 300 customers
style = rng.standard_normal((140, 3))  # of 140 products, of which the last 40 are new
liking = taste @ style.T + 0.7 * rng.gumbel(size=(300, 140))
bought = np.argsort(-liking, axis=1)[:, :14]
orders = {
    "user": [f"customer {u}" for u in range(300) for i in bought[u] if i < 100],
    "item": [f"product {i}" for u in range(300) for i in bought[u] if i < 100],
}
title = style @ rng.standard_normal((3, 16)) + 0.5 * rng.standard_normal((140, 16))
picture = style @ rng.standard_normal((3, 12)) + 0.8 * rng.standard_normal((140, 12))
picture[rng.random(140) < 0.4] = np.nan  # no picture
ids = [f"product {i}" for i in range(140)]


def products(rows):
    return {"title": (ids[rows], title[rows]), "picture": (ids[rows], picture[rows])}


# %%
# KEEP is fitted in closed form, in a second:

rec = milk_recsys.Recommender("keep", device="cpu").fit(orders, products(slice(100)))
new = products(slice(100, 140))
print(rec.recommend(new, k=3, users=["customer 0", "customer 1"]))

# %%
# How good are these lists? The orders of new products, which the model has not seen, say so.
# NDCG\@10 is 1 if the ten places of each list begin with the products that the customer ordered.
# The chart shows it for titles alone and for titles with the pictures that exist, next to a random
# order:

later = {
    "user": [f"customer {u}" for u in range(300) for i in bought[u] if i >= 100],
    "item": [f"product {i}" for u in range(300) for i in bought[u] if i >= 100],
}
ordered = {u: set(bought[u]) - set(range(100)) for u in range(300)}
discounts = 1 / np.log2(np.arange(2, 12))
# Every place of a random list has the same expected gain: the share of the 40 products.
random = np.mean(
    [
        len(wanted) / 40 * discounts.sum() / discounts[: len(wanted)].sum()
        for wanted in ordered.values()
        if wanted
    ]
)
ndcg = {"random order": random}
ndcg["titles"] = rec.evaluate(later, {"title": new["title"]})["new_only"]["ndcg@10"]
ndcg["titles and pictures"] = rec.evaluate(later, new)["new_only"]["ndcg@10"]

figure, axes = plt.subplots(figsize=(6, 2), layout="constrained")
bars = axes.barh(list(ndcg), list(ndcg.values()), color="#4477aa")
axes.bar_label(bars, fmt="%.2f", padding=3)
axes.set(xlabel="NDCG@10 of new products", xlim=(0, 1))
plt.show()

# %%
# Why this product? The score is a sum over the modalities, and over the products that the customer
# bought before:

best = rec.recommend(new, k=1, users=["customer 0"])["item"][0]
print(rec.explain("customer 0", best, new))

# %%
# A customer who bought two products a minute ago gets a list of new and known products, of those
# in stock:

visitor = rec.fold_in(["product 3", "product 8"])
in_stock = ids[:20] + ids[100:120]
print(rec.recommend(new, k=5, users=visitor, include_warm=True, where=in_stock))

# %%
# **Where to go from here.** :doc:`/recommender` has all of the estimator: audiences of a product,
# updates with today's orders, saved folders. :doc:`/serve` starts a server and exports vectors.
