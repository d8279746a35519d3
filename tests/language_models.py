"""Small language models with random weights, as ``transformers`` writes them; what tests of them share."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2Model,
)

from vision_models import shake

POSITIONS = 64
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": POSITIONS,
}
STOCK = {"gpt2": GPT2Model, "llama": LlamaModel, "qwen2": Qwen2Model, "bert": BertModel}
AROUND = {"gpt2": (), "llama": ("<s>",), "qwen2": (), "bert": ("<s>", "</s>")}
"""Tokens that a family's tokenizer puts before a text and, if a second, behind it."""


def tokenizer(around: tuple[str, ...]) -> PreTrainedTokenizerFast:
    """A token for every byte."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<s>": 0, "</s>": 1} | {letter: i + 2 for i, letter in enumerate(letters)}
    made = Tokenizer(models.BPE(vocabulary, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if around:
        single = " ".join([around[0], "$A", *around[1:]])
        special = [(token, vocabulary[token]) for token in around]
        made.post_processor = processors.TemplateProcessing(single, special_tokens=special)
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")


def write(family: str, folder: Path) -> Path:
    """A folder of a family, most with the head for its next words, as on the hub."""
    torch.manual_seed(8)
    words = tokenizer(AROUND[family])
    sizes = SIZES | {"vocab_size": len(words), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None}
    grouped = sizes | {"num_key_value_heads": 2}
    gpt2 = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": POSITIONS, "n_inner": 48}
    gpt2 |= {"vocab_size": len(words), "bos_token_id": 0, "eos_token_id": 1}
    model = {
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**gpt2)),
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**grouped, attention_bias=True)),
        "qwen2": lambda: Qwen2Model(Qwen2Config(**grouped)),
        "bert": lambda: BertForMaskedLM(BertConfig(**sizes | {"pad_token_id": 0})),
    }[family]()
    shake(model)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


class ExactNorm(nn.Module):
    """A Llama's norm in the precision of what it gets; the stock one computes in float32."""

    def __init__(self, stock: nn.Module):
        super().__init__()
        self.weight, self.eps = stock.weight, stock.variance_epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt()


def in_float64(model: nn.Module) -> nn.Module:
    """A model whose norms do not leave float64."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if hasattr(child, "variance_epsilon"):
                setattr(module, name, ExactNorm(child))
    return model
