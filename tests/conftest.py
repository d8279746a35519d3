"""What tests share: the tiny golden CLIP, sequences, and the plain way of computing."""

import os
import sys
import tempfile
from pathlib import Path

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"  # read when the hub's library is imported
os.environ["VLPROMPT_CACHE"] = tempfile.mkdtemp(prefix="vlprompt-tests-")  # not the user's own
HERE = Path(__file__).parent
GOLDEN = HERE / "golden"
sys.path += [str(HERE), str(HERE.parent / "benchmarks")]

from transformers import CLIPConfig, CLIPModel  # noqa: E402

from support import write_photos  # noqa: E402
from vlprompt.engine.backbones.clip import CLIPBackbone  # noqa: E402
from vlprompt.engine.encoder import Encoder  # noqa: E402


@pytest.fixture
def tiny() -> CLIPModel:
    """The golden CLIP in float64."""
    return CLIPModel.from_pretrained(GOLDEN / "tiny-clip").double().eval().requires_grad_(False)


@pytest.fixture
def encoder() -> Encoder:
    """An encoder of the golden CLIP in float64, with no tokenizer."""
    model = CLIPModel.from_pretrained(GOLDEN / "tiny-clip").double()
    return Encoder(CLIPBackbone(model, None))


@pytest.fixture
def other_clip() -> CLIPModel:
    """A CLIP of another shape: several heads, more layers in vision than in text, longer vocabulary."""
    torch.manual_seed(3)
    config = CLIPConfig(
        text_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "vocab_size": 50,
            "bos_token_id": 48,
            "eos_token_id": 49,
        },
        vision_config={
            "hidden_size": 48,
            "intermediate_size": 96,
            "num_hidden_layers": 4,
            "num_attention_heads": 3,
            "image_size": 24,
            "patch_size": 8,
        },
        projection_dim=20,
    )
    return CLIPModel(config).double().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """A folder of pictures, one folder a class."""
    return write_photos(tmp_path_factory.mktemp("photos"))


def pad(rows: list[tuple[int, ...]], length: int = 77) -> torch.Tensor:
    """Sequences -> padded token ids (K, length); context slots become id 1, to be overwritten."""
    return torch.tensor([[max(i, 1) for i in row] + [0] * (length - len(row)) for row in rows])
