"""Images of every kind, and what becomes of them on the way to a backbone."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from transformers import CLIPImageProcessorPil

from support import toy_encoder
from vlprompt.data import open_image
from vlprompt.data.images import load_images, readable
from vlprompt.data.transforms import EvalTransform, TrainTransform, image_stats, random_box, resized
from vlprompt.dataset import Item
from vlprompt.errors import UserError
from vlprompt.methods import get_method
from vlprompt.training.inputs import make_image_set


@pytest.fixture(autouse=True)
def no_cache(monkeypatch):
    monkeypatch.setenv("VLPROMPT_CACHE", "off")


@pytest.fixture
def save(tmp_path):
    """Write a PIL image and give its path."""

    def write(image, name, **options):
        image.save(tmp_path / name, **options)
        return tmp_path / name

    return write


def pixels(source):
    image = open_image(source)
    assert image.mode == "RGB"
    return np.asarray(image)


def grey16():
    return np.array([[0, 257, 65535], [128 * 257, 65535, 0]], dtype=np.uint16)


def test_cmyk(save):
    path = save(Image.new("CMYK", (20, 10), (0, 255, 255, 0)), "red.jpg", quality=95)
    assert np.abs(pixels(path).astype(int) - [255, 0, 0]).max() <= 6


def test_16_bits_of_grey(save):
    for name in ("grey.png", "grey.tif"):
        image = pixels(save(Image.fromarray(grey16()), name))
        assert image[..., 0].tolist() == [[0, 1, 255], [128, 255, 0]]


def test_dark_16_bits_stay_dark(save):
    path = save(Image.fromarray(np.full((4, 4), 200, dtype=np.uint16)), "dark.png")
    assert pixels(path).max() == 1


def test_32_bits_and_floats(save):
    wide = Image.fromarray(grey16().astype(np.int32))
    assert pixels(save(wide, "wide.tif"))[..., 0].tolist() == [[0, 1, 255], [128, 255, 0]]
    assert pixels(Image.fromarray(np.full((2, 2), 200, dtype=np.int32))).max() == 200
    assert pixels(Image.fromarray(np.full((2, 2), 0.2, dtype=np.float32))).max() == 51
    assert pixels(Image.fromarray(np.full((2, 2), 51.0, dtype=np.float32))).max() == 51


def test_palette_and_black_and_white(save):
    palette = Image.new("RGB", (6, 6), "orange").convert("P", palette=Image.Palette.ADAPTIVE)
    assert pixels(save(palette, "p.png"))[0, 0].tolist() == [255, 165, 0]
    assert pixels(save(Image.new("1", (6, 6), 1), "1.png")).min() == 255


def test_transparency_lies_on_white(save):
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert pixels(save(clear, "clear.png")).min() == 255
    half = Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    assert pixels(save(half, "half.webp", lossless=True)).max() == 127
    assert pixels(save(Image.new("LA", (4, 4), (0, 0)), "grey.png")).min() == 255
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([255, 0, 0] * 256)
    assert pixels(save(palette, "palette.png", transparency=0)).min() == 255
    assert pixels(save(palette, "palette.gif", transparency=0)).min() == 255


def test_the_first_frame_of_an_animation(save):
    frames = [Image.new("RGB", (5, 5), colour) for colour in ("red", "lime", "blue")]
    for name in ("moving.gif", "moving.png", "moving.webp", "moving.tif"):
        path = save(frames[0], name, save_all=True, append_images=frames[1:])
        assert pixels(path)[2, 2].tolist() == pytest.approx([255, 0, 0], abs=3)


def test_rotated_by_its_camera(save):
    image = Image.new("RGB", (30, 10), "black")
    image.paste("white", (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    upright = pixels(save(image, "turned.jpg", exif=exif, quality=95))
    assert upright.shape == (30, 10, 3)
    assert upright[2].min() > 240 and upright[25].max() < 15


def test_arrays():
    grey = np.array([[0, 100]], dtype=np.uint8)
    assert pixels(grey).tolist() == [[[0] * 3, [100] * 3]]
    assert pixels(grey[..., None]).tolist() == pixels(grey).tolist()
    assert pixels(np.array([[True, False]]))[..., 0].tolist() == [[255, 0]]
    assert pixels(grey16())[..., 0].tolist() == [[0, 1, 255], [128, 255, 0]]
    assert pixels(np.full((2, 2, 3), 0.5)).max() == 128
    assert pixels(np.zeros((2, 2, 4), np.uint8)).min() == 255
    for wrong in (
        np.zeros((2, 2, 2), np.uint8), np.zeros((0, 2), np.uint8), np.zeros(4, np.uint8),
        np.full((2, 2), 1.5), np.full((2, 2), np.nan), np.zeros((2, 2), np.int64),
    ):  # fmt: skip
        with pytest.raises(UserError, match="an array of"):
            open_image(wrong)


def test_what_is_no_image(tmp_path):
    for wrong in (None, 3, b"bytes", [[1]]):
        with pytest.raises(UserError, match="is not an image: give a path"):
            open_image(wrong)
    with pytest.raises(UserError, match="cannot be read"):
        open_image(tmp_path)
    with pytest.raises(UserError, match=r"gone\.jpg' does not exist: check the path"):
        open_image(str(tmp_path / "gone.jpg"))


@pytest.mark.parametrize(
    ("suffix", "kept"), [("jpg", 700), ("png", 300), ("gif", 300), ("webp", 60), ("tif", 900)]
)
def test_cut_off_empty_and_foreign_files(suffix, kept, save, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    path = save(Image.fromarray(noise), f"whole.{suffix}")
    for name, content, reason in (
        ("cut", path.read_bytes()[:kept], ""),
        ("empty", b"", "the file is empty"),
        ("text", b"hello", "it is no image"),
    ):
        broken = tmp_path / f"{name}.{suffix}"
        broken.write_bytes(content)
        with pytest.raises(UserError) as error:
            open_image(broken)
        assert f"'{broken}'" in str(error.value) and reason in str(error.value)
        assert "replace or remove it" in str(error.value) and "\n" not in str(error.value)
    assert readable([path, tmp_path / f"cut.{suffix}", tmp_path / f"text.{suffix}"]) == [path]


def test_an_image_that_would_fill_the_memory(tmp_path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")))
    with pytest.raises(UserError, match=r"cannot be read .*more than 178 megapixels"):
        open_image(tmp_path / "bomb.png")


def test_a_pil_image_that_is_cut_off():
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(file, "PNG")
    with pytest.raises(UserError, match="a PIL image of mode RGB cannot be read"):
        open_image(Image.open(io.BytesIO(file.getvalue()[:300])))


def test_load_images_reduces_the_shorter_side_only_where_it_is_longer(save):
    wide, small = save(Image.new("RGB", (100, 50), "red"), "w.png"), Image.new("L", (10, 20), 7)
    loaded = load_images([wide, small, np.zeros((500, 40), np.uint8)], 20)
    assert [tuple(image.shape) for image in loaded] == [(3, 20, 40), (3, 20, 10), (3, 250, 20)]
    assert all(image.dtype == torch.uint8 for image in loaded)
    assert loaded[0].flatten(1).float().mean(1).tolist() == [255, 0, 0]


def test_load_images_of_nothing():
    assert load_images([], 20) == []


def test_eval_transform_is_the_processors_own_work():
    rng = np.random.default_rng(0)
    images = [
        Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for h, w in ((70, 90), (64, 40))
    ]
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    expected = processor(images=images, return_tensors="pt")["pixel_values"]
    assert torch.equal(EvalTransform(processor)(images), expected)
    stats = image_stats(processor)
    assert stats.size == 32 and stats.mean == tuple(processor.image_mean)


def test_train_transform_crops_flips_and_normalises():
    torch.manual_seed(0)
    ramp = torch.arange(64, dtype=torch.uint8).expand(3, 48, 64)
    images = [ramp, torch.full((3, 40, 40), 255, dtype=torch.uint8)] * 20
    out = TrainTransform(16, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))(images)
    assert out.shape == (40, 3, 16, 16)
    torch.testing.assert_close(out[1::2], torch.full((20, 3, 16, 16), 2.0))
    rising = out[::2, 0, 8, -1] > out[::2, 0, 8, 0]
    assert 3 < rising.sum() < 17
    never = TrainTransform(16, (0.5,) * 3, (0.25,) * 3, augment="crop")(images)[::2]
    assert (never[:, 0, 8, -1] > never[:, 0, 8, 0]).all()


def test_gentle_augmentation_keeps_the_whole_picture():
    torch.manual_seed(0)
    picture = torch.zeros(3, 32, 32, dtype=torch.uint8)
    picture[:, 8:24, 8:24] = 255
    out = TrainTransform(32, (0.0,) * 3, (1.0,) * 3, augment="gentle")([picture] * 20)
    assert not torch.equal(out[0], out[1])
    assert (out[:, 0, 12:20, 12:20] > 0.9).all()
    torch.testing.assert_close(out.mean((1, 2, 3)), torch.full((20,), 0.25), atol=0.06, rtol=0)


# The crop of the releases.


def test_boxes_follow_the_law_of_the_releases():
    torch.manual_seed(0)
    boxes = np.array([random_box(400, 300) for _ in range(4000)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert boxes.min() >= 0 and boxes[:, 2].max() <= 400 and boxes[:, 3].max() <= 300
    assert ((width / height > 0.72) & (width / height < 1.38)).all()
    share = np.sort(width * height / 120000)
    assert share[0] > 0.075 and share[-1] <= 1
    fits = share[share < 0.6]  # all of these fit at once whatever their ratio, so nothing is drawn again
    gaps = np.abs(np.linspace(0.08, 0.6, len(fits)) - fits)
    assert gaps.max() < 0.03  # uniform
    left = boxes[:, 0] / np.maximum(400 - width, 1)
    assert abs(left[width < 300].mean() - 0.5) < 0.03


def test_a_method_may_have_larger_crops():
    """MMRL's are half of the area and more; seen in how much of a ramp is left of the picture."""
    ramp = np.repeat(np.linspace(0, 255, 64, dtype=np.uint8)[None, :, None], 64, 0).repeat(3, 2)
    assert [get_method(name).smallest_crop for name in ("coop", "mmrl")] == [0.08, 0.5]
    shares = {}
    for smallest in (0.08, 0.5):
        torch.manual_seed(0)
        split = make_image_set(toy_encoder(), [Item(ramp, 0)], "crop", smallest=smallest)
        drawn = torch.cat([split.images(torch.tensor([0])) for _ in range(60)])[:, 0]
        shares[smallest] = (drawn.amax((1, 2)) - drawn.amin((1, 2))).min()
    assert shares[0.5] > 2 * shares[0.08]


@pytest.mark.parametrize(("size", "box"), [((1000, 10), (493, 0, 506, 10)), ((10, 1000), (0, 493, 10, 506))])
def test_a_strip_gives_its_centre(size, box):
    torch.manual_seed(0)
    assert {random_box(*size) for _ in range(5)} == {box}


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_crop_is_resized_as_pillow_does(mirrored):
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    crop = Image.fromarray(noise[20:80, 10:100]).resize((32, 32), Image.Resampling.BICUBIC)
    expected = np.array(ImageOps.mirror(crop) if mirrored else crop)
    ours = resized(torch.from_numpy(noise).permute(2, 0, 1), (10, 20, 100, 80), mirrored, 32)
    assert np.array_equal(ours, expected)


@pytest.mark.parametrize("augment", ["crop+flip", "crop", "gentle"])
def test_a_part_of_a_batch_is_drawn_as_the_whole_would_be(augment):
    transform = TrainTransform(16, (0.5,) * 3, (0.5,) * 3, augment)
    images = [torch.randint(256, (3, 24, 30), dtype=torch.uint8) for _ in range(5)]
    drawn = []
    for part in (slice(None), slice(2, 4)):
        torch.manual_seed(1)
        drawn.append((transform(images, part=part), torch.rand(1)))
    (whole, after), (some, after_some) = drawn
    assert torch.equal(whole[2:4], some) and torch.equal(after, after_some)


def test_a_seed_draws_the_same_views_whatever_the_threads():
    images = [torch.randint(256, (3, 40 + i, 50), dtype=torch.uint8) for i in range(20)]
    transform, drawn = TrainTransform(16, (0.5,) * 3, (0.5,) * 3), []
    for _ in range(2):
        torch.manual_seed(3)
        drawn.append(transform(images))
    assert torch.equal(*drawn) and not torch.equal(drawn[0], transform(images))
