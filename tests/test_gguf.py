"""GGUF files: converted once, and again where the conversion is damaged."""

import pytest

from eagle import gguf
from eagle.gguf import convert_gguf
from eagle.packages import SMOLLM2
from tests import tiny_text
from tests.files import limited_to, read_only


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A file whose conversion is a tiny model, and an empty cache."""
    monkeypatch.setenv("EAGLE_HSD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(gguf, "_read", lambda path: (tiny_text.target(), tiny_text.tokenizer()))
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    return tmp_path / "model.gguf"


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def garble(path):
    path.write_bytes(b"\xff" * path.stat().st_size)


def remove(path):
    path.unlink()


FILES = ("model.safetensors", "config.json", "tokenizer.json")
DAMAGE = [
    (name, damage, is_listed)
    for name in FILES
    for damage in (cut, empty, garble, remove)
    for is_listed in (True, False)  # older versions wrote no list
]


@pytest.mark.parametrize(
    ("name", "damage", "is_listed"),
    [*DAMAGE, ("tokenizer_config.json", remove, True), ("files.json", cut, True)],  # only the list tells of these
)
def test_a_damaged_conversion_is_made_again(source, name, damage, is_listed):
    """A cache entry that a full disk had cut failed every start, until the user found and removed it."""
    directory = convert_gguf(source)
    before = {path.name: path.stat().st_size for path in directory.iterdir()}
    damage(directory / name)
    if not is_listed:
        (directory / "files.json").unlink()
    with pytest.warns(UserWarning, match=rf"{directory.name} is damaged \(.*\): converting again"):
        assert convert_gguf(source) == directory
    assert {path.name: path.stat().st_size for path in directory.iterdir()} == before
    assert [path.name for path in directory.parent.iterdir()] == [directory.name]


def test_a_whole_conversion_is_left_alone(source, monkeypatch, recwarn):
    directory = convert_gguf(source)
    monkeypatch.setattr(gguf, "_save_converted", lambda *_: pytest.fail("converted again"))
    (directory / "files.json").unlink()  # as an older version left it
    assert convert_gguf(source) == directory and not recwarn.list


def test_what_killed_conversions_left_is_removed(source):
    place = source.parent / "cache" / "models"
    (place / ".model-0.4194304.tmp").mkdir(parents=True)  # a number that no process has
    (place / ".model-0.4194304.tmp" / "model.safetensors").touch()
    convert_gguf(source)
    assert len(list(place.iterdir())) == 1


@pytest.mark.parametrize("size", [0, 1000, 50_000])
def test_a_full_cache_is_told_with_the_remedy(source, size):
    with (
        pytest.raises(OSError, match=r"the cache cannot be written .*cache.*: set EAGLE_HSD_CACHE to"),
        limited_to(size),
    ):
        convert_gguf(source)
    assert list((source.parent / "cache" / "models").iterdir()) == []
    assert convert_gguf(source).is_dir()


def test_a_cache_that_cannot_be_made_is_told_with_the_remedy(source, monkeypatch):
    monkeypatch.setenv("EAGLE_HSD_CACHE", str(source))
    with pytest.raises(OSError, match=r"the cache cannot be written .*model\.gguf.*: set EAGLE_HSD_CACHE to"):
        convert_gguf(source)


def test_a_read_only_cache_is_told_with_the_remedy(source, monkeypatch):
    read_only(source.parent / "cache", monkeypatch)
    with pytest.raises(OSError, match=r"the cache cannot be written .*: set EAGLE_HSD_CACHE to"):
        convert_gguf(source)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGML" * 20, b"GGUF" + bytes(1000), None])
def test_a_damaged_file_is_named(tmp_path, monkeypatch, content):
    """struct, numpy and gguf each had a traceback of their own for a download that was cut."""
    monkeypatch.setenv("EAGLE_HSD_CACHE", str(tmp_path / "cache"))
    if content is None:
        with SMOLLM2.path().open("rb") as file:
            content = file.read(5_000_000)
    (tmp_path / "cut.gguf").write_bytes(content)
    with pytest.raises(ValueError, match=r"cut\.gguf.*(is no GGUF file|fetch cut\.gguf again)") as raised:
        convert_gguf(tmp_path / "cut.gguf")
    assert "\n" not in str(raised.value) and list((tmp_path / "cache" / "models").iterdir()) == []


def test_a_missing_package_is_named(source, monkeypatch):
    def missing(module):
        raise ValueError("package gguf is not installed: pip install 'eagle-hsd[chat]'")

    monkeypatch.setattr(gguf, "need", missing)
    with pytest.raises(ValueError, match="package gguf is not installed"):
        convert_gguf(source)


def test_the_default_is_converted_once(smollm2, monkeypatch):
    monkeypatch.setattr(gguf, "_save_converted", lambda *_: pytest.fail("converted again"))
    assert convert_gguf(SMOLLM2.path()).is_dir()
    assert (smollm2.vocab_size, smollm2.hidden_size, len(smollm2.layers)) == (49152, 576, 30)
    assert smollm2.end_token_ids == {2}


def test_an_interrupted_conversion_leaves_nothing(tmp_path, monkeypatch):
    """A conversion killed half-way must not be mistaken for a model by the next run."""
    source = tmp_path / "model.gguf"
    source.write_bytes(b"GGUF")
    monkeypatch.setenv("EAGLE_HSD_CACHE", str(tmp_path / "cache"))

    def die_half_way(_path, directory):
        (directory / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(gguf, "_save_converted", die_half_way)
    with pytest.raises(KeyboardInterrupt):
        convert_gguf(source)
    assert list((tmp_path / "cache" / "models").iterdir()) == []


def test_another_file_of_the_same_name_is_converted_again(tmp_path, monkeypatch):
    monkeypatch.setenv("EAGLE_HSD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(gguf, "_save_converted", lambda path, directory: None)
    source = tmp_path / "model.gguf"
    source.write_bytes(b"one")
    first = convert_gguf(source)
    source.write_bytes(b"other")
    assert convert_gguf(source) != first
