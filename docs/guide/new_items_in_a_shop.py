r"""
New items in a shop
===================

A shop has orders, and new products that nobody has bought yet. Each has a title, and some have a
picture. This guide fits a recommender in memory, lists new products for customers, explains a
suggestion, and serves a customer who has just arrived.

The shop is generated, so that the guide needs no files. :doc:`/prepare` begins with a shop's files.
"""

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
# How good are these lists? The pairs that were held back, of customers with new products, say so.
# A random order would reach about 0.15.

later = {
    "user": [f"customer {u}" for u in range(300) for i in bought[u] if i >= 100],
    "item": [f"product {i}" for u in range(300) for i in bought[u] if i >= 100],
}
print(rec.evaluate(later, new)["new_only"])

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
