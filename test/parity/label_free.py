"""Scores without labels, in numpy and float64."""

import numpy as np


def scores(request):
    """Mean normalized entropy and soft neighborhood density of rows of probabilities [pixels, classes]."""
    p = np.array(request["rows"])
    logs = np.log(p, where=p > 0, out=np.zeros_like(p))
    unit = p / np.linalg.norm(p, axis=1, keepdims=True)
    similarity = unit @ unit.T / 0.05
    np.fill_diagonal(similarity, -np.inf)
    weights = np.exp(similarity - similarity.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    entropies = -np.sum(weights * np.log(weights, where=weights > 0, out=np.zeros_like(weights)), axis=1)
    return {"entropy": float(-(p * logs).sum(axis=1).mean() / np.log(p.shape[1])), "density": float(entropies.mean())}
