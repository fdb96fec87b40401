"""Decoding needs torch, transformers, safetensors and pyyaml; who uses more is told which extra brings it."""

import pytest

from eagle.packages import EXTRAS
from tests.cli.console import PROJECT, ROOT, Ended, assert_one_clear_line, run
from tests.training.runs import save_target

BLOCKED = f"import sys; sys.modules.update(dict.fromkeys({sorted(EXTRAS)}))\n"  # importing one raises, as if missing
DECODE = """
import torch
from eagle import Chat, DecodeOptions, EagleDrafter, EagleTree, Session, load_head, load_target
from eagle.checkpoints.flat import save_head
from tests.tiny import tiny_head

target = load_target(sys.argv[1], torch.float32, "cpu")
save_head(tiny_head(target), sys.argv[2])
head = load_head(sys.argv[2], target)
options = DecodeOptions(max_new_tokens=5)
session = Session(target, EagleDrafter(head, target.embed, EagleTree(6, 3, 2)))
steps = session.decode([1, 2, 3], options, torch.Generator().manual_seed(0))
tokens = [token for step in steps for token in step.tokens]
assert len(tokens) == 5, tokens
target.tokenizer.chat_template = "{{ messages[-1]['content'] }}"
chat = Chat(target, head, EagleTree(6, 3, 2), options)
chat.ask("a b")
try:
    chat.template = "vicuna_v1.1"
    chat.ask("a")
except ValueError as error:
    print(error)
print("extras loaded:", [name for name in %r if sys.modules.get(name)])
"""


def python(code: str, *words: str) -> Ended:
    return run("-c", BLOCKED + code, *words)


def test_models_on_disk_are_loaded_and_decoded_without_any_extra(tmp_path):
    save_target(tmp_path / "target")
    result = python(DECODE % sorted(EXTRAS), str(tmp_path / "target"), str(tmp_path / "head"))
    assert result.returncode == 0, result.stderr
    assert "package fschat is not installed: pip install 'eagle-hsd[chat]'" in result.stdout
    assert "extras loaded: []" in result.stdout


def test_the_embedded_gguf_says_what_it_needs(tmp_path):
    code = f"import os; os.environ['EAGLE_HSD_CACHE'] = {str(tmp_path)!r}\nimport eagle; eagle.load_target()"
    assert "ValueError: package gguf is not installed: pip install 'eagle-hsd[chat]'" in python(code).stderr


@pytest.mark.parametrize(
    ("entry", "package"),
    [
        ("eagle.cli.demo:main", "rich"),
        ("eagle.cli.train:main", "accelerate"),
        ("evaluation.evaluate:main", "rich"),
        ("eagle.cli.web_chat:main", "rich"),
        ("eagle.cli.fastchat_worker:main", "rich"),
    ],
)
def test_a_command_names_the_extra_it_lacks(entry, package):
    result = python(f"from eagle.cli.dispatch import run_command; run_command({entry!r}, [])")
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert result.stderr.startswith(f"error: package {package} is not installed: pip install 'eagle-hsd[")


@pytest.mark.parametrize(
    ("entry", "module", "told"),
    [
        ("eagle.cli.web_chat:main", "gradio", "gradio is not installed: pip install 'eagle-hsd[web]'"),
        (
            "eagle.cli.fastchat_worker:main",
            "fastchat",
            "package fschat is not installed: pip install 'eagle-hsd[chat]'",
        ),
    ],
)
def test_a_page_says_what_it_lacks_before_it_loads_a_model(entry, module, told):
    """Loading would take a minute for some models, and `--target` names none here."""
    words = ["--target", "no/such/place", "--port", "0"]
    code = f"import sys; sys.modules[{module!r}] = None\nfrom eagle.cli.dispatch import run_command\n"
    result = run("-c", code + f"run_command({entry!r}, {words!r})")
    assert_one_clear_line(result.returncode, result.stderr, told)


def test_every_extra_that_is_named_brings_its_package():
    for package, extra in EXTRAS.values():
        assert any(line.startswith(f"{package}>=") for line in PROJECT["optional-dependencies"][extra])


def test_the_facade_has_every_name_it_lists():
    import eagle

    assert all(getattr(eagle, name) is not None for name in eagle.__all__)
    with pytest.raises(AttributeError, match="no attribute 'oak'"):
        eagle.oak  # noqa: B018


def test_packages_carry_their_types():
    assert all((ROOT / name / "py.typed").is_file() for name in ("eagle", "hsd_verify", "evaluation"))
