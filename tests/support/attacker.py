"""The stranger of the attack tool, for tests."""

from tools.attack.stranger import (
    MULTISTREAM,
    NOISE,
    Attacker,
    Forger,
    attacking,
    data,
    frame,
    propose,
    syn,
)

__all__ = [
    "MULTISTREAM",
    "NOISE",
    "Attacker",
    "Forger",
    "attacking",
    "data",
    "frame",
    "propose",
    "syn",
]
