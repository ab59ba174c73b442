"""Weights by content, manifests, the family tree: what git is to code. Needs no torch."""

from stockpot.registry.adding import Added, add
from stockpot.registry.checking import verify
from stockpot.registry.checkout import checkout
from stockpot.registry.collecting import gc
from stockpot.registry.difference import diff
from stockpot.registry.landing import Landed, land
from stockpot.registry.manifest import Link, Manifest
from stockpot.registry.registry import Registry, init_registry
from stockpot.registry.repairing import Repaired, repair

__all__ = [
    "Added",
    "Landed",
    "Link",
    "Manifest",
    "Registry",
    "Repaired",
    "add",
    "checkout",
    "diff",
    "gc",
    "init_registry",
    "land",
    "repair",
    "verify",
]
