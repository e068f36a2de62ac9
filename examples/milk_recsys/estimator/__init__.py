"""The estimator `Recommender`: from frames to lists, new customers, explanations and updates."""
