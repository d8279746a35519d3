"""Exported classifiers against the classifier itself."""

import contextlib
import io
import json
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
import tyro
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, CLIPConfig, CLIPModel

from vlprompt import PromptClassifier, UserError
from vlprompt.cli.export import export
from vlprompt.data.transforms import EvalTransform
from vlprompt.engine.backbones.load import BUILT_IN
from vlprompt.export.onnx import export_onnx
from vlprompt.export.stock_clip import export_transformers

NAMES = ("red circle", "Tom's {blue} square", "café")
SETTINGS = {
    "zeroshot": {},
    "coop": {"n_ctx": 2},
    "dpl": {"text_lengths": (2, 1), "vision_lengths": (2, 0)},
    "maple": {"depth": 2},
    "cocoop": {},
    "clip_adapter": {},
    "taskres": {},
    "tcp": {},
    "clip_lora": {},
    "mma": {"start": 2},
    "mmrl": {"width": 16},
    "coprompt": {"depth": 2},
    "atprompt": {},
    "promptkd": {"depth": 2},
}
TWO_LAYERS = ("dpl", "maple", "tcp", "mma", "mmrl", "coprompt", "promptkd")
"""Those with something in deeper layers."""


def pictures(count: int = 6) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 40, 52, 3), dtype=np.uint8)


def make_clip(folder: Path, layers: int) -> str:
    """A small CLIP with the toy's tokenizer; its processor crops more than it resizes."""
    torch.manual_seed(0)
    both = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": layers, "num_attention_heads": 2}
    text = both | {"vocab_size": 574, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    vision = both | {"image_size": 32, "patch_size": 16}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(BUILT_IN["toy"]).save_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(BUILT_IN["toy"], backend="pil")
    processor.size = {"shortest_edge": 36}
    processor.image_mean, processor.image_std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
    processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def small_clip(tmp_path_factory) -> str:
    return make_clip(tmp_path_factory.mktemp("clip"), 1)


@pytest.fixture(scope="module")
def two_layers(tmp_path_factory) -> str:
    """For methods with prompts in deeper layers."""
    return make_clip(tmp_path_factory.mktemp("clip"), 2)


def fit(method: str, model: str, names: tuple[str, ...] = NAMES) -> PromptClassifier:
    settings = SETTINGS.get(method, {})
    settings = settings if method in ("zeroshot", "tip", "linear") else settings | {"epochs": 1}
    with TemporaryDirectory() as folder:  # what it learned from is not needed any more
        if method == "promptkd":
            settings = settings | {"teacher": f"{folder}/teacher"}
            fit("zeroshot", model, names).save(f"{folder}/teacher")
        classifier = PromptClassifier(method, model, settings).fit(pictures(), list(names) * 2)
    with torch.no_grad():  # as after a long training
        for parameter in classifier.method_.parameters():
            if parameter.is_floating_point() and parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return classifier


# ONNX.


@pytest.fixture(scope="module", params=SETTINGS)
def exported(request, small_clip, two_layers, tmp_path_factory) -> tuple[PromptClassifier, Path]:
    """A classifier of each method, and its ONNX file."""
    pytest.importorskip("onnxscript")
    classifier = fit(request.param, two_layers if request.param in TWO_LAYERS else small_clip)
    path = tmp_path_factory.mktemp("onnx") / "new" / "model.onnx"
    export_onnx(classifier, path)
    return classifier, path


def test_onnx_gives_the_probabilities(exported):
    runtime = pytest.importorskip("onnxruntime")
    classifier, path = exported
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    pixels = EvalTransform(classifier.method_.encoder.backbone.processor)(list(pictures())).numpy()
    expected = classifier.predict_proba(pictures())
    for batch in (1, 2, 5):
        (found,) = session.run(["probabilities"], {"pixel_values": pixels[:batch]})
        np.testing.assert_allclose(found, expected[:batch], atol=1e-4)
    names = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
    assert tuple(names) == classifier.classnames_


def test_onnx_holds_what_it_needs(exported):
    onnx = pytest.importorskip("onnx")
    classifier, path = exported
    model = onnx.load(path)
    size = sum(onnx.numpy_helper.to_array(tensor).nbytes for tensor in model.graph.initializer)
    backbone = classifier.method_.encoder.backbone.model
    vision, text = (
        4 * sum(p.numel() for p in branch.parameters())
        for branch in (backbone.vision_model, backbone.text_model)
    )
    if classifier.method == "cocoop":  # reads its words anew for every image
        assert vision + 0.3 * text < size < vision + 1.1 * text
    else:
        assert vision < size < vision + 0.2 * text
    assert str(Path(torch.__file__).parent).encode() not in path.read_bytes(), "it tells of this machine"
    assert {p.name for p in path.parent.iterdir()} == {"model.onnx", "model.json"}


def test_preparation_beside_the_model(exported):
    """Pixel values by the JSON file alone are those of the backbone's processor."""
    classifier, path = exported
    how = json.loads(path.with_suffix(".json").read_text())
    assert how["class_names"] == list(classifier.classnames_)
    image = Image.fromarray(pictures()[0])
    edge = how["resize"]["shortest_edge"]
    width, height = (int(side * edge / min(image.size)) for side in image.size)
    image = image.resize((width, height), Image.Resampling[how["resample"].upper()])
    assert how["center_crop"]
    left, top = (width - how["size"]) // 2, (height - how["size"]) // 2
    image = image.crop((left, top, left + how["size"], top + how["size"]))
    values = (np.asarray(image) * how["rescale_factor"] - how["mean"]) / how["std"]
    expected = EvalTransform(classifier.method_.encoder.backbone.processor)([pictures()[0]])[0]
    np.testing.assert_allclose(values.transpose(2, 0, 1), expected, atol=1e-5)


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_missing_package(package, small_clip, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"'{package}': pip install 'vlprompt\[onnx\]'"):
        export_onnx(fit("zeroshot", small_clip), tmp_path / "model.onnx")


def test_name_of_the_file(small_clip, tmp_path):
    with pytest.raises(UserError, match=r"is no name of an ONNX file: give one that ends in \.onnx"):
        export_onnx(fit("zeroshot", small_clip), tmp_path / "model")


# Stock transformers.


@pytest.mark.parametrize("method", ["zeroshot", "coop"])
def test_stock_clip_gives_the_probabilities(method, small_clip, tmp_path):
    """By the example in the folder's README.md, word for word."""
    classifier = fit(method, small_clip)
    folder, photo = tmp_path / "stock", tmp_path / "photo.png"
    export_transformers(classifier, folder)
    Image.fromarray(pictures()[3]).save(photo)
    readme = (folder / "README.md").read_text()
    code = re.search(r"```python\n(.*?)```", readme, re.DOTALL).group(1)
    code = code.replace("this-folder", str(folder)).replace("photo.jpg", str(photo))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        scope: dict = {}
        exec(code, scope)
    assert type(scope["classify"].model) is CLIPModel
    assert scope["classes"] == list(classifier.classnames_)
    found = {row["label"]: row["score"] for row in eval(printed.getvalue())}
    expected = classifier.predict_proba([photo])[0]
    np.testing.assert_allclose([found[name] for name in scope["classes"]], expected, atol=1e-5)
    with pytest.raises(Exception, match="Missing"):  # any other text is an error, not a wrong answer
        scope["classify"](str(photo), candidate_labels=["zebra"], hypothesis_template="{}")


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("vpt", "has visual prompts"),
        ("maple", "has visual prompts"),
        ("cocoop", "has forward of its own"),
        ("tip", "has logits of its own"),
    ],
)
def test_what_a_stock_clip_cannot_compute(method, reason, small_clip, tmp_path):
    with pytest.raises(UserError, match=f"method '{method}' {reason}.*: export it to ONNX"):
        export_transformers(fit(method, small_clip), tmp_path / "stock")
    assert not list(tmp_path.iterdir())


def test_equal_names(small_clip, tmp_path):
    classifier = fit("zeroshot", small_clip)
    classifier.set_classes(["crane", "dog", "crane"])
    with pytest.raises(UserError, match="class name 'crane' stands for two classes"):
        export_transformers(classifier, tmp_path / "stock")


def test_command(small_clip, tmp_path, capsys):
    fit("zeroshot", small_clip).save(tmp_path / "saved")
    saved, out = str(tmp_path / "saved"), str(tmp_path / "stock")
    tyro.cli(export, args=[saved, out, "--format", "transformers"])
    assert capsys.readouterr().out == f"written to {out}\n"
    assert type(CLIPModel.from_pretrained(out)) is CLIPModel
    with pytest.raises(UserError, match=r"is no name of an ONNX file"):
        tyro.cli(export, args=[saved, out])
