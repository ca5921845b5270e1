"""How a cluster's CPUs and GPUs are shared out: engines, what decodes, how many clips are answered together. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vllava_cli.errors import WishError
from vllava_cli.nouns import counted

LEAST_CPUS = 3
"""One for an engine, one to decode, one to read the manifest: with fewer these wait for each other for ever."""
SPARE_CPUS = 2
CLIPS_ON_GPU, CLIPS_ON_CPU = 16, 4
"""Clips that an engine is given at once, where --batch-size doesn't say."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """What Ray may use of one machine."""

    cpus: int
    gpus: int = 0


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What was asked for; None decides by what the cluster has."""

    actors: int | None = None
    gpus_per_actor: float | None = None
    decoders: int | None = None
    clips: int | None = None
    is_cpu: bool = False
    """--device cpu."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How many of what; each actor holds one engine."""

    actors: int
    cpus_per_actor: int
    gpus_per_actor: float
    decoders: int
    """Most clips that are decoded at once, a CPU each."""
    clips: int
    """Given to an engine at once."""


def sizes(nodes: tuple[Node, ...], wanted: Wanted) -> Sizes:
    """Errors: WishError where the cluster is too small for what was asked for."""
    cpus = sum(node.cpus for node in nodes)
    if cpus < LEAST_CPUS:
        raise WishError(
            f"Ray has {counted(cpus, 'CPU')} here, and {LEAST_CPUS} are needed: one for the model, one to decode, one "
            "to read the list of clips. Leave --ray out, or use a larger cluster."
        )
    gpus = _gpus_per_actor(nodes, wanted)
    most = min(_most_on_gpus(nodes, gpus), cpus - SPARE_CPUS)
    if most < 1:
        raise WishError(
            f"No machine of the cluster has {counted(gpus, 'GPU')} for an actor. Give fewer with --gpus-per-actor."
        )
    actors = wanted.actors or (most if gpus else min(most, len(nodes)))
    if actors > most:
        what = (
            f"{counted(gpus, 'GPU')} each"
            if gpus and most < cpus - SPARE_CPUS
            else f"{cpus} CPUs, of which 2 stay free"
        )
        raise WishError(f"--actors {actors} is more than the {most} that the cluster has room for, with {what}.")
    cpus_per_actor = 1 if gpus else _share(nodes, actors)
    return Sizes(
        actors=actors,
        cpus_per_actor=cpus_per_actor,
        gpus_per_actor=gpus,
        decoders=min(wanted.decoders or cpus, max(1, cpus - actors * cpus_per_actor - 1)),
        clips=wanted.clips or (CLIPS_ON_GPU if gpus else CLIPS_ON_CPU),
    )


def _gpus_per_actor(nodes: tuple[Node, ...], wanted: Wanted) -> float:
    if wanted.gpus_per_actor is not None:
        return wanted.gpus_per_actor
    return 1.0 if not wanted.is_cpu and any(node.gpus for node in nodes) else 0.0


def _most_on_gpus(nodes: tuple[Node, ...], gpus: float) -> int:
    """How many actors the GPUs have room for; as good as endless where none needs one."""
    if not gpus:
        return sum(node.cpus for node in nodes)
    # A part of a GPU is never put together from two: 0.4 goes twice into each.
    per_node = [math.floor(1 / gpus) * node.gpus if gpus < 1 else math.floor(node.gpus / gpus) for node in nodes]
    return sum(per_node)


def _share(nodes: tuple[Node, ...], actors: int) -> int:
    """CPUs of an engine without a GPU: half of them decode, and no engine has more than a machine can give."""
    cpus = sum(node.cpus for node in nodes)
    return max(1, min((cpus - SPARE_CPUS) // (2 * actors), min(node.cpus for node in nodes) - 1))
