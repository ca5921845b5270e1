"""The demo's tokenizer: byte-pair encoding with byte fallback, learnt from the questions that training asks.

Words keep the space before them ("▁red"), punctuation stands alone, and ids 0 to 5 are SPECIAL.
"""

import json
import string
from collections.abc import Iterator
from random import Random

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from training.asking import Medium
from training.questions import items, worded
from training.refusals import refusal
from training.world import sample_scene, sample_still

SPECIAL = ["<unk>", "<s>", "</s>", "<pad>", "<image>", "<video>"]
START, END, PAD, IMAGE, VIDEO = 1, 2, 3, 4, 5
VOCABULARY = 1024
CONTEXT = 4096
BYTES = [f"<0x{value:02X}>" for value in range(256)]
LETTERS = sorted({*string.ascii_letters, *string.digits, *string.punctuation, "▁"})


def make(seed: int = 0, scenes: int = 6000) -> PreTrainedTokenizerFast:
    """Learns the merges from questions about random scenes; the same seed gives the same ids."""
    backend = _with_bytes(_learnt(corpus(Random(seed), scenes)))
    backend.pre_tokenizer = _pre_tokenizer()
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(SPECIAL)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", START)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens=["<image>", "<video>"],
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def corpus(random: Random, scenes: int) -> Iterator[str]:
    """Every turn of every question about random scenes, with the words of the prompt around it."""
    for _ in range(scenes):
        scene = sample_scene(random) if random.random() < 0.8 else sample_still(random)
        medium: Medium = "image" if scene.kind == "still" else "video"
        for asked in [*items(scene, random, medium), refusal(random)]:
            for position, (question, answer) in enumerate(worded(asked, random).turns):
                user = "USER: " if position else "USER: \n"
                yield f"{user}{question} ASSISTANT: {answer}"


def _learnt(lines: Iterator[str]) -> Tokenizer:
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = _pre_tokenizer()
    size = VOCABULARY - len(SPECIAL) - len(BYTES)
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=LETTERS, show_progress=False)
    backend.train_from_iterator(lines, trainer)
    return backend


def _with_bytes(learnt: Tokenizer) -> Tokenizer:
    """The same merges behind the special tokens and all 256 bytes; a line break is always the byte."""
    model = json.loads(learnt.to_str())["model"]
    words = [word for word in sorted(model["vocab"], key=model["vocab"].__getitem__) if word != "\n"]
    vocabulary = {word: position for position, word in enumerate([*SPECIAL, *BYTES, *words])}
    merges = [tuple(merge) for merge in model["merges"]]
    return Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))


def _pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first"),
            pre_tokenizers.Split(Regex(r"[\n?.!,:;+*]"), "isolated"),
        ]
    )
