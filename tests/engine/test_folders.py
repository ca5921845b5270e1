"""Folders as users have them: what must be answered is, and what can't be is refused with a remedy that helps.

What other versions of transformers write was seen with 5.5.4, 5.17.0, 5.23.0 and 5.24.0, each of which saved the
imitation of the published checkpoint whole, in shards, and both into one folder; every folder was then loaded on each
of them. Only one kind was refused: what 5.17 and newer save of a model that wasn't loaded from the published files has
names of towers that 5.5 doesn't know.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import VideoLlavaForConditionalGeneration

from tests.checkpoints import edit_json
from tests.clips import picture
from tests.engine.engines import EXACT, conversation_about, engine_of, generated, new_ids
from tests.folders import INDEX, LACKING, tensors_of
from tests.published import ROWS, modern_name
from tests.reference import Reference, read_reference
from vllava_cli.answers import Conversation
from vllava_cli.commands import doctor
from vllava_cli.engine import hub
from vllava_cli.engine.checkpoint import describe
from vllava_cli.engine.load import load
from vllava_cli.engine.scoring import blank_frames
from vllava_cli.engine.tokens import read_tokens
from vllava_cli.errors import CheckpointError
from vllava_cli.nouns import Source, Wishes

SHARD = "100KB"


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    """The published files, to be changed."""
    return shutil.copytree(published, tmp_path / "model")


@pytest.fixture(scope="module")
def reference(published: Path) -> Reference:
    return read_reference(published)


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    """What should be refused at once but hangs ends after a while."""
    signal.alarm(120)
    yield
    signal.alarm(0)


def ids_of(reference: Reference, folder: Path, clip: Path) -> tuple[list[int], list[int]]:
    """Our answer's ids from a folder, and generate's."""
    engine, asked = engine_of(folder), "What is in this clip?"
    return new_ids(engine, conversation_about(clip), asked), generated(engine, reference, asked, clip)


def renamed(folder: Path, name_of: Callable[[str], str]) -> None:
    tensors = {name_of(name): tensor for name, tensor in tensors_of(folder).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def saved(folder: Path, **settings: Any) -> None:
    """As the installed transformers saves what it has loaded."""
    model = VideoLlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16)
    tensors_of(folder)
    model.save_pretrained(folder, **settings)


def saved_in_shards_then_whole(folder: Path) -> None:
    saved(folder, max_shard_size=SHARD)
    VideoLlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    assert (folder / INDEX).exists()
    assert hub.weights_bytes(Source(model=str(folder), folder=folder)) == (folder / "model.safetensors").stat().st_size
    stale = json.loads((folder / INDEX).read_text())["weight_map"].values()
    assert not [name for name in stale if (folder / name).exists()]


def with_buffers(folder: Path) -> None:
    """As checkpoints of older versions have them."""
    tensors = tensors_of(folder)
    tensors["language_model.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    for tower in ("video_tower", "image_tower"):
        tensors[f"{tower}.vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def with_marks(folder: Path) -> None:
    """Byte order marks, as some editors of Windows write them."""
    for path in folder.glob("*.json"):
        if path.name not in (INDEX, "tokenizer.json"):
            path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


def of_a_processor(folder: Path) -> None:
    """VideoLlavaProcessor.save_pretrained of 5.17 and newer writes one file (made without it: it needs torchvision)."""
    content = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    parts = {
        "image_processor": content,
        "video_processor": content | {"video_processor_type": "VideoLlavaVideoProcessor"},
    }
    (folder / "processor_config.json").write_text(json.dumps(parts | {"processor_class": "VideoLlavaProcessor"}))


ANSWERED: dict[str, Callable[[Path], object]] = {
    "saved whole": saved,
    "saved in shards": lambda folder: saved(folder, max_shard_size=SHARD),
    "saved in shards, then whole": saved_in_shards_then_whole,
    "names of 5.5": lambda folder: renamed(
        folder, lambda name: name if "lm_head" in name or "projector" in name else f"model.{name}"
    ),
    "names of 5.17 and newer": lambda folder: renamed(folder, lambda name: name.replace(".vision_model.", ".")),
    "names of a state dict": lambda folder: renamed(folder, modern_name),
    "buffers of older versions": with_buffers,
    "byte order marks": with_marks,
    "a processor's file": of_a_processor,
    "a setting of tomorrow": lambda folder: config(text={"setting_of_tomorrow": 1})(folder),
}


@pytest.mark.parametrize("name", ANSWERED)
def test_answers_are_those_of_the_published_files(name: str, folder: Path, reference: Reference, clip: Path) -> None:
    ANSWERED[name](folder)
    ours, theirs = ids_of(reference, folder, clip)
    assert ours == theirs
    assert len(ours) > 3


def test_a_picture_is_looked_at_with_a_processors_file(folder: Path, published: Path, tmp_path: Path) -> None:
    Image.fromarray(picture(9, 80, 60)).save(tmp_path / "photo.png")
    of_a_processor(folder)
    ours, theirs = (
        new_ids(engine_of(each), conversation_about(tmp_path / "photo.png"), "What is it?")
        for each in (folder, published)
    )
    assert ours == theirs


def test_added_tokens_with_resized_embeddings_are_read(folder: Path, clip: Path) -> None:
    model = VideoLlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens([f"<word{number}>" for number in range(70)])
    tokenizer.save(str(folder / "tokenizer.json"))
    model.resize_token_embeddings(ROWS + 9)
    tensors_of(folder)
    model.save_pretrained(folder)
    ours, theirs = ids_of(read_reference(folder), folder, clip)
    assert ours == theirs


def message_of(folder: Path) -> str:
    """Why a folder is refused, before a weight is read; the doctor says the same."""
    source = Source(model=str(folder), folder=folder)
    with pytest.raises(CheckpointError) as caught:
        tokens = read_tokens(describe(source))
        hub.fetch_weights(source)
        load(EXACT, tokens, {"video"}).tokens.prompt_ids(
            Conversation(attached=(blank_frames("video", tokens),)), "What?"
        )
    assert doctor.examine(Wishes(model=str(folder), device="cpu", precision="fp32")).fault == str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", LACKING)
def test_what_is_missing_is_named_with_where_to_have_it_from(name: str, folder: Path) -> None:
    change, message = LACKING[name]
    change(folder)
    assert message_of(folder) == message.replace("FOLDER", str(folder))


QUANTISED: dict[str, dict[str, Any]] = {
    "bitsandbytes": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    "torchao": {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8WeightOnlyConfig", "_data": {}}}},
    "awq": {"quant_method": "awq", "bits": 4, "zero_point": True},
}


@pytest.mark.parametrize("method", QUANTISED)
@pytest.mark.parametrize("place", ["the model", "the language model"])
def test_what_is_quantised_already_is_refused_with_both_remedies(place: str, method: str, folder: Path) -> None:
    if place == "the model":
        edit_json(folder / "config.json", quantization_config=QUANTISED[method])
    else:
        text = json.loads((folder / "config.json").read_text())["text_config"]
        edit_json(folder / "config.json", text_config=text | {"quantization_config": QUANTISED[method]})
    assert message_of(folder) == (
        f"The checkpoint {folder} is already quantised ({method}): give the original, with --precision 4bit or 8bit, "
        "or dequantise it (model.dequantize() in transformers) and save that."
    )


def test_what_bitsandbytes_saved_is_seen_to_be_quantised(folder: Path) -> None:
    from transformers import BitsAndBytesConfig

    pytest.importorskip("bitsandbytes")
    model = VideoLlavaForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, quantization_config=BitsAndBytesConfig(load_in_4bit=True)
    )
    tensors_of(folder)
    model.save_pretrained(folder)
    assert f"The checkpoint {folder} is already quantised (bitsandbytes): " in message_of(folder)


def config(**parts: dict[str, Any]) -> Callable[[Path], object]:
    """Sets fields of a config's parts; those of the config itself stand under "top"."""

    def change(folder: Path) -> None:
        path = folder / "config.json"
        whole = json.loads(path.read_text())
        for part, fields in parts.items():
            (whole if part == "top" else whole[f"{part}_config"]).update(fields)
        path.write_text(json.dumps(whole))

    return change


def rotation(**fields: Any) -> Callable[[Path], object]:
    return config(text={"rope_scaling": fields})


def preprocessor(**fields: Any) -> Callable[[Path], object]:
    return lambda folder: edit_json(folder / "preprocessor_config.json", **fields)


def content(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(data)


def fifo(name: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return change


def device(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("/dev/zero")


def tokenizer_settings(folder: Path) -> None:
    edit_json(folder / "tokenizer_config.json", added_tokens_decoder={"x": 5})


def sparse(name: str, size: int) -> Callable[[Path], object]:
    return lambda folder: os.truncate(folder / name, size)


def template(folder: Path) -> None:
    processor = json.loads((folder / "tokenizer.json").read_text())["post_processor"]
    edit_json(folder / "tokenizer.json", post_processor=processor | {"special_tokens": {}})


def shards(*names: Any) -> Callable[[Path], object]:
    return lambda folder: edit_json(folder / INDEX, weight_map={str(name): name for name in names})


SECOND = "model-00002-of-00003.safetensors"


def cut(folder: Path) -> None:
    os.truncate(folder / SECOND, (folder / SECOND).stat().st_size - 1)


DEEP = b"[" * 100_000
HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "patch size 0": (config(vision={"patch_size": 0}), "patch_size is 0 and must be a whole number from 1 to 4096"),
    "patches larger than frames": (config(vision={"patch_size": 300}), "patch_size is 300 and image_size 224"),
    "a tower for other frames": (config(vision={"image_size": 336}), "frames are made 224 pixels wide and image_size"),
    "a patch for each pixel": (config(vision={"patch_size": 1}), "make a video 401416 tokens long"),
    "a vocabulary of 10^12": (config(text={"vocab_size": 10**12}), "vocab_size is 1000000000000 and must be"),
    "a width in words": (config(text={"hidden_size": "wide"}), "text_config.hidden_size is wide and must be a whole"),
    "a switch in words": (config(text={"mlp_bias": "x"}), "config.json can't be used: Field 'mlp_bias' expected bool"),
    "a tower without heads": (config(vision={"num_attention_heads": 0}), "vision_config.num_attention_heads is 0 and"),
    "heads that share no keys": (config(text={"num_key_value_heads": 8}), "num_attention_heads is 4 and num_key_value"),
    "heads of half a number": (config(text={"num_attention_heads": 3}), "can't be used: The hidden size \\(64\\) is"),
    "an unknown function": (config(text={"hidden_act": "nope"}), "text_config.hidden_act is nope, which transformers"),
    "of the projector": (config(top={"projector_hidden_act": "nope"}), "projector_hidden_act is nope, which transform"),
    "an angle in words": (config(text={"rope_theta": "abc"}), "rope_theta is abc and must be a number above 0"),
    "an unknown rotation": (rotation(type="nope", factor=2), "rope_type is nope, which transformers doesn't know"),
    "a factor in words": (rotation(type="linear", factor="x"), "factor is x and must be a number above 0"),
    "padding elsewhere": (config(text={"pad_token_id": 999}), "config.json can't be used: Padding_idx must be within"),
    "a placeholder elsewhere": (config(top={"video_token_index": 9}), "made 0 video and 0 image tokens where 136 and"),
    "weights of other widths": (config(text={"intermediate_size": 96}), "don't match its config: 6 of another size,"),
    "a width that is no number": (config(text={"hidden_size": float("nan")}), "not a JSON object \\(NaN is not JSON"),
    "a layer that isn't there": (config(top={"vision_feature_layer": -99}), "vision_feature_layer is -99 of 3 layers"),
    "another strategy": (config(top={"vision_feature_select_strategy": "x"}), "vision_feature_select_strategy"),
    "another model": (config(top={"model_type": "llava"}), "is of type llava \\+ llama \\+ clip_vision_model: "),
    "another language model": (config(text={"model_type": "mistral"}), "is of type video_llava \\+ mistral \\+ clip"),
    "no vision": (config(top={"vision_config": None}), "is of type video_llava \\+ llama: "),
    "a part that is none": (config(top={"text_config": [1]}), "is of type video_llava \\+ clip_vision_model"),
    "nothing": (content("config.json", b""), "it is not a JSON object \\(Expecting value: line 1 column 1"),
    "no text": (content("config.json", b"\xff\xfe"), "it is not a JSON object \\('utf-8' codec can't decode"),
    "100,000 lists": (content("config.json", DEEP), "it is not a JSON object \\(it is nested"),
    "100,000 lists elsewhere": (content("preprocessor_config.json", DEEP), "preprocessor_config.json can't be used:"),
    "a pipe": (fifo("config.json"), "config.json can't be used: it is not a regular file"),
    "a pipe for a tokenizer": (fifo("tokenizer.json"), "tokenizer.json can't be used: it is not a regular file"),
    "a pipe for settings": (fifo("generation_config.json"), "generation_config.json can't be used: it is not a"),
    "a pipe for frames": (fifo("preprocessor_config.json"), "preprocessor_config.json can't be used: it is not a"),
    "a pipe for a shard": (fifo(SECOND), f"{SECOND} can't be used: it is not a regular file"),
    "a shard that is cut": (cut, f"{SECOND} can't be used: it is not a safetensors file, or it is damaged \\("),
    "settings in a list": (content("generation_config.json", b"[]"), "generation_config.json can't be used: "),
    "settings that name no number": (tokenizer_settings, "tokenizer_config.json can't be used"),
    "a device": (device, "config.json can't be used: it is not a regular file"),
    "a tokenizer of 95 MB": (sparse("tokenizer.json", 95_000_000), "it has 95.0 MB, and at most 67 MB are read"),
    "settings of 95 MB": (sparse("tokenizer_config.json", 95_000_000), "it has 95.0 MB, and at most 4 MB are read"),
    "a tokenizer that is none": (content("tokenizer.json", b"{}"), "tokenizer.json can't be used: Model missing"),
    "a tokenizer that is nested": (content("tokenizer.json", b'{"a":' + DEEP), "tokenizer.json can't be used: "),
    "a template without its tokens": (template, "tokenizer.json can't be used: "),
    "frames of 10^12 pixels": (preprocessor(size={"shortest_edge": 10**12}), "sets size to .* but it must be"),
    "a mean of 10^400": (preprocessor(image_mean=[10**400, 0, 0]), "sets image_mean to .* but it must be three"),
    "no numbers": (preprocessor(image_std=[{}, [], "x"]), "sets image_std to .* but it must be three numbers"),
    "a shard elsewhere": (shards("../other.safetensors"), "it doesn't say in which files of its folder the weights"),
    "a shard with a long name": (shards("x" * 10_000 + ".safetensors"), "it doesn't say in which files of its folder"),
    "a shard that is no name": (shards({"a": 1}, 7), "it doesn't say in which files of its folder"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_one_sentence(name: str, folder: Path) -> None:
    change, message = HOSTILE[name]
    change(folder)
    found = message_of(folder)
    assert re.search(message, found), found
    assert "\n" not in found and len(found) < 700
