"""The built-in backbones before training: sizes, tokenizer, and the folder that they are written to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from vlprompt.toy.drawing import SIDE

PAD, UNUSED, START, END = SPECIAL = ("<pad>", "<unused>", "<start>", "<end>")
POSITIONS = 77
VOCABULARY = 640
MEAN = STD = (0.5, 0.5, 0.5)
PATCH, HEAD, JOINT = 4, 32, 96
"""Pixels of a patch's side, width of an attention head, width of the joint space."""


@dataclass(frozen=True)
class Size:
    """What tells the built-in backbones apart.

    Args:
        layers: of each branch.
        text_width, vision_width: of the hidden states, multiples of :data:`HEAD`.
        epochs: passes over the pictures in training.
        precision: of the training's matrix products; what is committed is float16.
        teacher: the built-in backbone whose features it learns as well; None for the captions alone.
    """

    layers: int
    text_width: int
    vision_width: int
    epochs: int
    precision: Literal["float32", "bfloat16"]
    teacher: str | None = None


SIZES = {
    "toy": Size(4, 128, 160, epochs=3, precision="float32"),
    "toy-deep": Size(12, 64, 96, epochs=3, precision="bfloat16", teacher="toy"),
}
HERE = Path(__file__).parent
ALONE = "-vision"
"""Ends the name of a built-in backbone's image branch alone."""
BUILT_IN = {
    "toy": HERE / "backbone",
    f"toy{ALONE}": HERE / "backbone",
    "toy-deep": HERE / "backbone-deep",
    f"toy-deep{ALONE}": HERE / "backbone-deep",
    "toy-text": HERE / "backbone-text",
}
"""Folder of each committed one."""


def make_tokenizer(captions: Sequence[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of the captions: it encodes any text, with start and end token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sorted(set(captions)), trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in (START, END)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=START,
        eos_token=END,
        pad_token=PAD,
        model_max_length=POSITIONS,
    )


def make_config(size: Size, tokenizer: PreTrainedTokenizerFast) -> CLIPConfig:
    """The CLIP of a size."""
    return CLIPConfig(
        text_config={
            "vocab_size": len(tokenizer),
            **_branch(size.layers, size.text_width),
            "max_position_embeddings": POSITIONS,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            **_branch(size.layers, size.vision_width),
            "image_size": SIDE,
            "patch_size": PATCH,
        },
        projection_dim=JOINT,
    )


def _branch(layers: int, width: int) -> dict[str, object]:
    return {
        "hidden_size": width,
        "hidden_act": "gelu",
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // HEAD,
    }


def write(folder: Path, model: CLIPModel, tokenizer: PreTrainedTokenizerFast, card: str) -> None:
    """Write the files of ``transformers``, in float16, and the card into a folder."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    model.cpu().eval().half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size=SIDE, image_mean=MEAN, image_std=STD
    ).save_pretrained(folder)
    (folder / "README.md").write_text(card, encoding="utf-8")
