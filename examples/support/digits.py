"""The 1,797 handwritten digits that scikit-learn ships, and a small network that learns them."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

Arrays = list[np.ndarray]
"""Parameters: weight and bias of the first layer and of the second, float32."""
CLASSES, PIXELS, HIDDEN, TEST = 10, 64, 48, 597


@cache
def load() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images (1200, 64) of floats from 0 to 1 and labels (1200,) to learn, and 597 to test with.

    Read without importing scikit-learn, which takes a second in each process.
    """
    spec = find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise SystemExit("this example needs scikit-learn: pip install 'lattica-stack[examples]'")
    table = np.loadtxt(
        Path(spec.origin).parent / "datasets/data/digits.csv.gz", delimiter=",", dtype=np.float32
    )
    table = np.random.default_rng(0).permutation(table)
    images, labels = table[:, :PIXELS] / 16, table[:, PIXELS].astype(np.int64)
    return images[TEST:], labels[TEST:], images[:TEST], labels[:TEST]


def shards(labels: np.ndarray, count: int, *, alpha: float = 2.0) -> list[np.ndarray]:
    """Which examples each of several peers has: of each class different shares (Dirichlet)."""
    rng = np.random.default_rng(1)
    parts: list[list[np.ndarray]] = [[] for _ in range(count)]
    for label in range(CLASSES):
        of_class = rng.permutation(np.flatnonzero(labels == label))
        ends = np.cumsum(rng.dirichlet([alpha] * count))[:-1] * len(of_class)
        for part, piece in zip(parts, np.split(of_class, ends.astype(int)), strict=True):
            part.append(piece)
    return [np.concatenate(part) for part in parts]


def initial(seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    shapes = [(PIXELS, HIDDEN), (HIDDEN,), (HIDDEN, CLASSES), (CLASSES,)]
    return [
        (rng.normal(0, (2 / shape[0]) ** 0.5, shape) * (len(shape) > 1)).astype(np.float32)
        for shape in shapes
    ]


def probabilities(parameters: Arrays, images: np.ndarray) -> np.ndarray:
    """Of each class, (n, 10)."""
    w1, b1, w2, b2 = parameters
    scores = np.maximum(images @ w1 + b1, 0) @ w2 + b2
    e = np.exp(scores - scores.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def gradients(
    parameters: Arrays, images: np.ndarray, labels: np.ndarray, decay: float = 1e-4
) -> Arrays:
    """Of the cross-entropy and half the squared parameters times `decay`."""
    w1, b1, w2, _ = parameters
    hidden = np.maximum(images @ w1 + b1, 0)
    error = probabilities(parameters, images)
    error[np.arange(len(labels)), labels] -= 1
    error /= len(labels)
    back = (error @ w2.T) * (hidden > 0)
    found = [images.T @ back, back.sum(0), hidden.T @ error, error.sum(0)]
    return [g + decay * p for g, p in zip(found, parameters, strict=True)]


def loss(parameters: Arrays, images: np.ndarray, labels: np.ndarray, decay: float = 1e-4) -> float:
    """What :func:`gradients` go down."""
    right = probabilities(parameters, images)[np.arange(len(labels)), labels]
    squares = sum(float((p * p).sum()) for p in parameters)
    return float(-np.log(right + 1e-9).mean()) + decay / 2 * squares


def train(
    parameters: Arrays,
    images: np.ndarray,
    labels: np.ndarray,
    steps: int,
    rng: np.random.Generator,
    *,
    rate: float = 0.3,
    batch: int = 32,
) -> Arrays:
    """After some steps of gradient descent; the given ones are not changed."""
    for _ in range(steps):
        some = rng.integers(len(labels), size=batch)
        found = gradients(parameters, images[some], labels[some])
        parameters = [p - np.float32(rate) * g for p, g in zip(parameters, found, strict=True)]
    return parameters


def accuracy(parameters: Arrays, images: np.ndarray, labels: np.ndarray) -> float:
    """Percent that are right."""
    return 100 * float((probabilities(parameters, images).argmax(1) == labels).mean())


def mean(models: list[Arrays]) -> Arrays:
    return [np.mean(layer, axis=0, dtype=np.float32) for layer in zip(*models, strict=True)]


def nbytes(parameters: Arrays) -> int:
    return sum(p.nbytes for p in parameters)
