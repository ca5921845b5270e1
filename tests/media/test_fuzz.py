from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzzing.mutants import make_mutant
from tests.fuzzing.seeds import Seed, make_seeds
from tests.fuzzing.trial import Tally, fault_of, kind_of, try_all
from vllava_cli.nouns import DecodeLimits

ROOT = Path(__file__).parents[2]
LIMITS = DecodeLimits(timeout_s=10, memory_bytes=1 << 30)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Seed, ...]:
    return make_seeds(tmp_path_factory.mktemp("seeds"))


def test_three_hundred_mutants_give_frames_or_one_sentence(seeds: tuple[Seed, ...], tmp_path: Path) -> None:
    tally = Tally()
    for verdict in try_all((make_mutant(number, seeds) for number in range(300)), tmp_path, LIMITS):
        tally.add(verdict)
    assert [f"mutant {failure.mutant.number}: {failure.what}" for failure in tally.failures] == []
    assert tally.tried == 300
    assert {outcome for outcome, _ in tally.counts} == {"frames", "sentence"}


def test_a_seed_is_the_same_whenever_it_is_made(seeds: tuple[Seed, ...], tmp_path: Path) -> None:
    assert make_seeds(tmp_path) == seeds


def test_a_mutant_is_known_by_its_number(seeds: tuple[Seed, ...]) -> None:
    mutants = [make_mutant(number, seeds) for number in range(50)]
    assert [make_mutant(number, seeds) for number in range(50)] == mutants
    assert [make_mutant(number, seeds, seed=1) for number in range(50)] != mutants
    originals = {seed.data for seed in seeds}
    assert sum(mutant.data in originals for mutant in mutants) < 3


def test_what_counts_as_a_sentence() -> None:
    path = Path("a.mp4")
    assert fault_of("'a.mp4' is odd.", path) is None
    for text in ("'a.mp4' is odd", "'b.mp4' is odd.", "'a.mp4' is odd.\nVery odd."):
        assert fault_of(text, path) == f"not a sentence: {text!r}"


def test_sentences_are_counted_without_names_and_numbers() -> None:
    sentence = "'7-a.mp4' is 16x9 pixels after 1.50 s. Convert it to mp4 (H.264)."
    assert kind_of(sentence, Path("7-a.mp4")) == "… is Nx9 pixels after N s. Convert it to mp4 (H.264)."


def test_the_script_prints_a_table_and_keeps_a_mutant(seeds: tuple[Seed, ...], tmp_path: Path) -> None:
    words = [str(ROOT / "scripts/fuzz"), "--only", "3", "--keep", str(tmp_path / "kept"), "--jobs", "2"]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    mutant = make_mutant(3, seeds)
    assert (tmp_path / "kept").read_bytes() == mutant.data
    lines = done.stdout.splitlines()
    assert lines[0].split()[0] == "1"
    assert lines[1].split()[:2] == ["1", "mutants"]
    assert lines[-1].endswith(f"mutant 3 ({mutant.recipe}).")
