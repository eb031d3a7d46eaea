"""Labelled sets: texts with classes, in a training and a test split, from a name, files, the hub or the grammar."""

from probes.sets.labelled import LabelledSet, Split
from probes.sets.loading import load_set
from probes.sets.options import SetOptions
from probes.sets.overlaps import find_overlaps
from probes.sets.registry import REGISTRY, RegisteredSet

__all__ = ["REGISTRY", "LabelledSet", "RegisteredSet", "SetOptions", "Split", "find_overlaps", "load_set"]
