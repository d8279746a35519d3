"""Decoded images on disk: the same pixels, not decoded twice, never in the way."""

import multiprocessing
import os
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from vlprompt.data.cache import DecodedCache, cache_folder
from vlprompt.data.images import load_images
from vlprompt.errors import UserError

SIDE = 300


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VLPROMPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "decoded"


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    paths = []
    for k, (width, height) in enumerate([(400, 310), (310, 400), (900, 600)]):
        paths.append(tmp_path / f"photo {k}.png")
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(paths[-1])
    return paths


def entries(cache):
    return sorted(p for p in cache.rglob("*") if p.is_file())


def replace_unseen(path, content=b"no image"):
    """Other content under the same size and time of change: only a decoder would notice."""
    stat = path.stat()
    path.write_bytes(content.ljust(stat.st_size, b"\0"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def same(first, second):
    return len(first) == len(second) and all(map(torch.equal, first, second))


def test_the_second_load_is_the_same_and_decodes_nothing(photos, cache, monkeypatch):
    monkeypatch.setenv("VLPROMPT_CACHE", "off")
    plain = load_images(photos, SIDE)
    assert not cache.exists()
    assert [tuple(p.shape) for p in plain] == [(3, 300, 387), (3, 387, 300), (3, 300, 450)]
    monkeypatch.setenv("VLPROMPT_CACHE", str(cache.parent))
    first = load_images(photos, SIDE)
    assert len(entries(cache)) == 3
    for photo in photos:
        replace_unseen(photo)
    second = load_images([str(p) for p in photos], SIDE)
    assert same(plain, first) and same(plain, second)
    assert all(p.dtype == torch.uint8 for p in second)


def test_a_changed_image_is_decoded_again(photos, cache):
    load_images(photos, SIDE)
    Image.new("RGB", (400, 310), "red").save(photos[0])
    assert load_images(photos, SIDE)[0].float().mean((1, 2)).tolist() == [255, 0, 0]
    replace_unseen(photos[1])
    os.utime(photos[1])
    with pytest.raises(UserError, match=r"photo 1\.png\' cannot be read"):
        load_images(photos, SIDE)


def test_another_side_is_another_entry(photos, cache):
    load_images(photos, SIDE)
    assert load_images(photos, 280)[0].shape == (3, 280, 361)
    assert len(entries(cache)) == 6


def test_writing_on_the_pixels_does_not_change_the_cache(photos):
    first = load_images(photos, SIDE)
    kept = [p.clone() for p in first]
    for pixels in load_images(photos, SIDE):
        pixels.zero_()
    assert same(load_images(photos, SIDE), kept)


@pytest.mark.parametrize("damage", ["empty", "cut", "one bit", "header", "longer", "huge"])
def test_a_damaged_entry_is_decoded_and_written_again(damage, photos, cache):
    first = load_images(photos, SIDE)
    kept = [p.clone() for p in first]
    del first
    for entry in entries(cache):
        content = bytearray(entry.read_bytes())
        whole = bytes(content)
        if damage == "empty":
            content = bytearray()
        elif damage == "cut":
            del content[len(content) // 2 :]
        elif damage == "one bit":
            content[5000] ^= 1
        elif damage == "header":
            content = bytearray(b"\1\2\3")
        elif damage == "longer":
            content += b"\0\0\0"
        else:
            content[:8] = b"\xff" * 8
        entry.unlink()
        entry.write_bytes(content)
        assert whole != content
    assert same(load_images(photos, SIDE), kept)
    for photo in photos:
        replace_unseen(photo)
    assert same(load_images(photos, SIDE), kept)


def test_the_limit_removes_what_was_not_used_for_longest(photos, cache):
    one = 300 * 450 * 3
    small = DecodedCache(cache, limit=4 * one)
    pixels = np.zeros((300, 450, 3), np.uint8)
    names = [small.entry(photos[0], side) for side in (1, 2, 3)]
    for age, entry in enumerate(names):
        small.put(entry, pixels)
        os.utime(entry, (1000 + age, 1000 + age))
    small.get(names[0])
    later = DecodedCache(cache, limit=2 * one + 100)
    newest = later.entry(photos[0], 4)
    later.put(newest, pixels)
    later.trim()
    there = entries(cache)
    assert newest in there and names[0] in there and len(there) == 2
    assert sum(p.stat().st_size for p in there) <= 2 * one + 100


def test_one_run_never_writes_more_than_the_limit(photos, cache):
    pixels = np.zeros((300, 300, 3), np.uint8)
    small = DecodedCache(cache, limit=2 * pixels.nbytes)
    for side in range(5):
        small.put(small.entry(photos[0], side), pixels)
    assert len(entries(cache)) <= 2
    small.trim()
    assert sum(p.stat().st_size for p in entries(cache)) <= 2 * pixels.nbytes


def test_small_images_and_images_in_memory_are_not_kept(tmp_path, cache):
    Image.new("RGB", (64, 64), "blue").save(tmp_path / "small.png")
    array = np.zeros((400, 400, 3), np.uint8)
    sources = [tmp_path / "small.png", array, Image.fromarray(array)]
    assert [p.shape[-1] for p in load_images(sources, SIDE)] == [64, 300, 300]
    assert not entries(cache)


def test_a_cache_that_cannot_be_written_is_no_hindrance(photos, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("VLPROMPT_CACHE", str(tmp_path / "file"))
    assert same(load_images(photos, SIDE), load_images(photos, SIDE))


def test_an_image_that_is_missing_or_damaged_is_named(photos, tmp_path, cache):
    with pytest.raises(UserError, match=r"gone\.png\' does not exist"):
        load_images([*photos, tmp_path / "gone.png"], SIDE)
    (tmp_path / "broken.png").write_bytes(photos[0].read_bytes()[:5000])
    with pytest.raises(UserError, match=r"broken\.png\' cannot be read"):
        load_images([tmp_path / "broken.png"], SIDE)


def load_often(photos, results):
    torch.set_num_threads(1)  # the parent's threads are not there after a fork: waiting for them would hang
    results.put([[int(p.sum()) for p in load_images(photos, SIDE)] for _ in range(5)])


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork: starting Python anew takes seconds")
def test_several_processes_write_at_once(photos, cache):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    running = [context.Process(target=load_often, args=(photos, results), daemon=True) for _ in range(4)]
    for process in running:
        process.start()
    sums = [row for _ in running for row in results.get(timeout=60)]
    for process in running:
        process.join(30)
    assert [process.exitcode for process in running] == [0] * 4
    assert sums == [[int(p.sum()) for p in load_images(photos, SIDE)]] * 20
    assert len(entries(cache)) == 3


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("VLPROMPT_CACHE", "~/pictures")
    assert cache_folder() == tmp_path.home() / "pictures" / "decoded"
    monkeypatch.setenv("VLPROMPT_CACHE", "OFF")
    assert cache_folder() is None
    monkeypatch.delenv("VLPROMPT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "vlprompt" / "decoded"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == tmp_path.home() / ".cache" / "vlprompt" / "decoded"


def test_a_full_cache_is_read_faster_than_images_are_decoded(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1500, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.png")
    sources = [tmp_path / "large.png"] * 4

    def seconds():
        start = time.perf_counter()
        load_images(sources, SIDE)
        return time.perf_counter() - start

    assert seconds() > 2 * min(seconds() for _ in range(3))
