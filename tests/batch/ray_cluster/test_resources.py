"""How the CPUs and GPUs of a cluster are shared out."""

import pytest

from vllava_cli.batch.ray_cluster.resources import Node, Sizes, Wanted, sizes
from vllava_cli.errors import WishError

PAIR = Node(cpus=2)
WORKSTATION = Node(cpus=16, gpus=1)
SERVER = Node(cpus=64, gpus=8)


def shared(actors: int, cpus: int, gpus: float, decoders: int, clips: int) -> Sizes:
    return Sizes(actors=actors, cpus_per_actor=cpus, gpus_per_actor=gpus, decoders=decoders, clips=clips)


@pytest.mark.parametrize(
    ("nodes", "wanted", "found"),
    [
        ((Node(cpus=3),), Wanted(), shared(1, 1, 0, 1, 4)),
        ((Node(cpus=8),), Wanted(), shared(1, 3, 0, 4, 4)),
        ((PAIR, PAIR, PAIR), Wanted(), shared(3, 1, 0, 2, 4)),
        ((PAIR, PAIR, PAIR), Wanted(actors=4), shared(4, 1, 0, 1, 4)),
        ((PAIR, PAIR, PAIR), Wanted(actors=2, decoders=1, clips=7), shared(2, 1, 0, 1, 7)),
        ((WORKSTATION,), Wanted(), shared(1, 1, 1, 14, 16)),
        ((WORKSTATION,), Wanted(is_cpu=True), shared(1, 7, 0, 8, 4)),
        ((WORKSTATION,), Wanted(gpus_per_actor=0.5), shared(2, 1, 0.5, 13, 16)),
        ((SERVER, SERVER), Wanted(), shared(16, 1, 1, 111, 16)),
        ((SERVER, SERVER), Wanted(gpus_per_actor=0.4), shared(32, 1, 0.4, 95, 16)),
        ((SERVER, SERVER), Wanted(gpus_per_actor=3), shared(4, 1, 3, 123, 16)),
        ((Node(cpus=4), SERVER), Wanted(), shared(8, 1, 1, 59, 16)),
        ((Node(cpus=64), PAIR), Wanted(is_cpu=True), shared(2, 1, 0, 63, 4)),
    ],
)
def test_shares(nodes: tuple[Node, ...], wanted: Wanted, found: Sizes) -> None:
    assert sizes(nodes, wanted) == found


@pytest.mark.parametrize(
    ("nodes", "wanted", "said"),
    [
        (
            (PAIR,),
            Wanted(),
            "Ray has 2 CPUs here, and 3 are needed: one for the model, one to decode, one to read the list of clips. "
            "Leave --ray out, or use a larger cluster.",
        ),
        (
            (PAIR, PAIR),
            Wanted(actors=3),
            "--actors 3 is more than the 2 that the cluster has room for, with 4 CPUs, of which 2 stay free.",
        ),
        (
            (SERVER,),
            Wanted(actors=9),
            "--actors 9 is more than the 8 that the cluster has room for, with 1 GPU each.",
        ),
        (
            (SERVER,),
            Wanted(gpus_per_actor=9),
            "No machine of the cluster has 9 GPUs for an actor. Give fewer with --gpus-per-actor.",
        ),
        (
            (Node(cpus=8),),
            Wanted(gpus_per_actor=1),
            "No machine of the cluster has 1 GPU for an actor. Give fewer with --gpus-per-actor.",
        ),
    ],
)
def test_what_there_is_no_room_for_is_refused(nodes: tuple[Node, ...], wanted: Wanted, said: str) -> None:
    with pytest.raises(WishError) as caught:
        sizes(nodes, wanted)
    assert str(caught.value) == said
