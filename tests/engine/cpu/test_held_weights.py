"""A model that a CPU holds in 16, 8 or 4 bits answers as in fp32, says what it does, and reads again what it kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.adapters import merged, write_adapter
from tests.checkpoints import write_checkpoint
from tests.engine.batches import QUESTIONS, crossed, portions, run, said, streamed
from tests.engine.engines import EXACT, FREE, PATHS, ask, available, conversation_about, tokens_of
from vllava_cli import demo
from vllava_cli.answers import Sampling
from vllava_cli.engine import load as loading
from vllava_cli.engine.adapter import described
from vllava_cli.engine.checkpoint import describe
from vllava_cli.engine.cpu.linear import CpuLinear, Workspace
from vllava_cli.engine.cpu.products import CompiledProducts, Products, TorchProducts
from vllava_cli.engine.generate import Engine
from vllava_cli.engine.kv_cache import Prompt
from vllava_cli.engine.load import load
from vllava_cli.engine.tokens import read_tokens
from vllava_cli.engine.weight_cache import WeightCache
from vllava_cli.nouns import (
    Frames,
    LoadPlan,
    Log,
    Quantisation,
    Source,
)

pytestmark = pytest.mark.usefixtures("one_thread")
HELD = replace(EXACT, dtype="float16", is_held=True)
PLANS: dict[str, tuple[LoadPlan, float]] = {
    "fp16": (HELD, 0.005),
    "bf16": (replace(HELD, dtype="bfloat16"), 0.03),
    "8bit": (replace(HELD, quantisation="8bit"), 0.03),
    "4bit": (replace(HELD, quantisation="4bit"), 0.3),
    "4bit, products in bf16": (replace(HELD, quantisation="4bit", wide_dtype="bfloat16"), 0.3),
}
"""Plans, and the most that the logits behind a prompt may differ from fp32's, relative to their spread."""


@contextmanager
def computed_by(products: Products) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "Workspace", partial(Workspace, products=products))
        yield


@pytest.fixture(scope="module", params=[CompiledProducts, TorchProducts])
def products(request: pytest.FixtureRequest) -> Products:
    return available(request.param)


@pytest.fixture(scope="module", params=PLANS)
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def engine(form: str, products: Products) -> Engine:
    with computed_by(products):
        return load(PLANS[form][0], tokens_of(demo.CHECKPOINT), {"video", "image"})


def logits(engine: Engine, path: Path) -> torch.Tensor:
    conversation = conversation_about(path)
    ids = tuple(engine.tokens.prompt_ids(conversation, "What happens in this video?"))
    engine.prompt_cache = None
    found = engine.read(Prompt(ids=ids, media=conversation.media, fit="crop"))
    assert found is not None
    return found.float()


@pytest.mark.parametrize("name", ["red-circle-moves-left.mp4", "three-shapes.mp4"])
def test_logits_are_near_those_of_fp32(name: str, form: str, engine: Engine, demo_engine: Engine) -> None:
    found, wanted = logits(engine, PATHS[name]), logits(demo_engine, PATHS[name])
    assert 0 < float((found - wanted).norm() / (wanted - wanted.mean()).norm()) < PLANS[form][1]


def test_the_shipped_questions_are_answered_rightly(engine: Engine) -> None:
    for name, question, answer in demo.QUESTIONS:
        assert ask(engine, conversation_about(PATHS[name]), question).text == answer


def test_a_batch_says_what_a_stream_says(engine: Engine, media: Sequence[Frames]) -> None:
    jobs, sampling = crossed(media[:4], QUESTIONS[:5]), Sampling(max_new_tokens=12)
    wanted = said(streamed(engine, jobs, sampling))
    assert run(engine, sampling, portions([jobs]), most_rows=7).said == wanted


def test_matrices_are_held_and_the_rest_is_in_the_dtype_of_products(form: str, engine: Engine) -> None:
    plan, _ = PLANS[form]
    model: Any = engine.model.model
    held = [each for each in model.language_model.layers.modules() if isinstance(each, CpuLinear)]
    assert {each.matrix.form for each in held} == {
        {"8bit": "int8", "4bit": "int4", None: form}[plan.quantisation]  # the checkpoint has 16 bits
    }
    assert len(held) == 4 * 7
    wide = getattr(torch, plan.wide_dtype)
    assert {each.dtype for each in model.video_tower.parameters()} == {wide}
    assert {each.dtype for each in model.language_model.layers.parameters()} == {torch.float32}
    has_halves = isinstance(engine.llama._workspace.products, CompiledProducts)  # type: ignore[union-attr]
    logits(engine, PATHS["three-shapes.mp4"])
    assert engine.prompt_cache
    keys = engine.prompt_cache.cache.layers[0].keys
    assert keys.dtype == (torch.float16 if has_halves else torch.float32)


@pytest.mark.parametrize("name", ["4bit", "4bit, products in bf16"])
def test_matrices_of_an_odd_width_stay_in_fp32(name: str, clip: Path, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "model", text={"intermediate_size": 40})
    plain = load(EXACT, tokens_of(checkpoint), {"video"})
    wanted, texts = logits(plain, clip), []
    cache = WeightCache(folder=tmp_path / "kept", log=Log(notice=texts.append, detail=texts.append), least_bytes=0)
    for start in ("kept", "read"):
        engine = load(PLANS[name][0], tokens_of(checkpoint), {"video"}, cache=cache)
        torch.testing.assert_close(logits(engine, clip), wanted, rtol=0, atol=float(wanted.std()))
        assert start in texts[-1]
        assert ask(engine, conversation_about(clip), "What?").stats.new_tokens > 0


class Told:
    """What a load says while it works."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.log = Log(notice=self.texts.append, detail=self.texts.append, progress=self._progress)

    @contextmanager
    def _progress(self, parts: Callable[[], Sequence[str]]) -> Iterator[None]:
        yield
        self.texts += parts()


@pytest.mark.parametrize(
    ("quantisation", "text"),
    [(None, "loading the model"), ("4bit", "quantising to 4 bits, once: 4 of 4 layers")],
)
def test_it_says_what_is_done(quantisation: Quantisation | None, text: str) -> None:
    told = Told()
    load(replace(HELD, quantisation=quantisation), tokens_of(demo.CHECKPOINT), {"video"}, log=told.log)
    assert told.texts == [text]


def test_an_answer_says_what_is_done_before_its_first_word(demo_engine: Engine) -> None:
    demo_engine.prompt_cache = None
    texts: list[str] = []
    demo_engine.llama.on_layer = lambda share: (
        demo_engine.activity.advance(share),
        texts.append(demo_engine.activity.text),
    )
    demo_engine.vision.forget()
    try:
        stream = demo_engine.stream(conversation_about(PATHS["three-shapes.mp4"]), "What?", FREE)
        next(stream)
        stream.close()
    finally:
        demo_engine.llama.on_layer = demo_engine.activity.advance
    total = texts[1].split()[3]
    assert texts[:4] == ["reading", *(f"reading: {round(int(total) * n / 4)} of {total} tokens" for n in (1, 2, 3))]


def test_weights_of_another_layout_are_not_read(tmp_path: Path) -> None:
    available(CompiledProducts)
    told = Told()
    cache = WeightCache(folder=tmp_path, log=told.log, least_bytes=0)
    plan = replace(HELD, quantisation="4bit")
    for products in (CompiledProducts(), TorchProducts()):
        told.texts.clear()
        with computed_by(products):
            engine = load(plan, tokens_of(demo.CHECKPOINT), {"video"}, cache=cache)
        assert [text.split(" (")[0] for text in told.texts] == ["vllava: kept the 4bit weights"]
        name, question, answer = demo.QUESTIONS[0]
        assert ask(engine, conversation_about(PATHS[name]), question).text == answer


def test_a_set_that_lacks_a_matrix_or_has_one_of_another_size_is_not_used(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from vllava_cli.engine.weight_cache import LABEL

    told = Told()
    cache = WeightCache(folder=tmp_path, log=told.log, least_bytes=0)
    plan, tokens = replace(HELD, quantisation="8bit"), tokens_of(demo.CHECKPOINT)
    fresh = logits(load(plan, tokens, {"video"}, cache=cache), PATHS["three-shapes.mp4"])
    folder = next(path for path in tmp_path.iterdir() if path.is_dir())
    path, label = folder / "layer-1.safetensors", json.loads((folder / LABEL).read_text())
    whole = load_file(path)
    name = next(key for key in whole if key.endswith(".values"))
    short = [{each: whole[each][:3].clone()} for each in (name, name.replace("values", "scales"))]
    for spoiled in ({k: v for k, v in whole.items() if k != name}, *(whole | each for each in short)):
        save_file(spoiled, path)
        label["sizes"][path.name] = path.stat().st_size
        (folder / LABEL).write_text(json.dumps(label))
        told.texts.clear()
        found = logits(load(plan, tokens, {"video"}, cache=cache), PATHS["three-shapes.mp4"])
        assert torch.equal(found, fresh)
        assert [text.partition("used: ")[0] for text in told.texts[:1]] == [
            f"weights: the cached set in {folder} stays there un"
        ]


@pytest.mark.parametrize(("quantisation", "most"), [(None, 0.002), ("8bit", 0.02), ("4bit", 0.04)])
def test_an_adapter_is_merged_before_weights_are_held(
    quantisation: Quantisation | None, most: float, published: Path, clip: Path, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    adapter = write_adapter(tmp_path / "adapter", published, target_modules=["q_proj", "lm_head", "fc1", "linear_2"])
    folder = shutil.copytree(published, tmp_path / "merged", ignore=shutil.ignore_patterns("*.safetensors*"))
    merged(published, adapter).half().save_pretrained(folder)
    told = Told()
    cache = WeightCache(folder=tmp_path / "cache", log=told.log, least_bytes=0)
    plan = replace(HELD, quantisation=quantisation, dtype="float32" if quantisation else "float16")

    def found(base: Path, adapter: Path | None) -> torch.Tensor:
        told.texts.clear()
        given = described(Source(model=str(adapter), folder=adapter)) if adapter else None
        tokens = read_tokens(describe(Source(model=str(base), folder=base, adapter=given)))
        return logits(load(plan, tokens, {"video"}, cache=cache), clip)

    wanted, plain = found(folder, None), found(published, None)
    for is_kept in (False, True):
        made = found(published, adapter)
        torch.testing.assert_close(made, wanted, rtol=0, atol=most * float(wanted.abs().max()))
        assert not torch.allclose(made, plain, rtol=0, atol=0.05 * float(wanted.abs().max()))
        assert any("read from" in text for text in told.texts) == (is_kept and quantisation is not None)
