"""A target in two parts, each with a process of its own, against the whole one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from openai import OpenAI
from transformers import AutoConfig

from eagle.checkpoints.flat import save_head
from eagle.decode import DecodeOptions, Session, autoregressive
from eagle.engine.masks import ancestor_matrix
from eagle.engine.target import Target
from eagle.loading import load_target
from eagle.parallel.launch import check_plan, follows
from eagle.sampling import Sampling, seeded
from tests import tiny_text
from tests.parallel.texts import IDS, LONGER, OPTIONS, SEED, drafter
from tests.serving.test_packaged import address
from tests.tiny import SIZES, tiny_head, tiny_target, tokens_of

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent


LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
SERVE = "import sys; from eagle.cli.serve import main; main(sys.argv[1:])"


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}


def in_two(*words: str) -> subprocess.CompletedProcess[str]:
    """A script and its arguments on two CPU processes with one thread each."""
    return subprocess.run([*LAUNCH, *words], env=environment(), capture_output=True, text=True, timeout=300)


def stored(target: Target, directory: Path) -> str:
    target.model.save_pretrained(directory)
    tiny_text.tokenizer().save_pretrained(directory)
    return str(directory)


@pytest.fixture(scope="module", params=["llama", "qwen3"])
def both(request, tmp_path_factory):
    """The whole target, and what two processes found of the same weights. One start for all: it takes seconds."""
    whole, directory = tiny_target(request.param), tmp_path_factory.mktemp(request.param)
    done = in_two(str(HERE / "in_parts.py"), stored(whole, directory / "target"), str(directory / "found.json"))
    assert done.returncode == 0, done.stderr[-3000:]
    return whole, json.loads((directory / "found.json").read_text())


@pytest.mark.parametrize("name", OPTIONS)
def test_two_processes_write_the_text_of_one(both, name):
    """Greedy and drawn, from two sessions in turns, in a second turn that goes on behind the first, and without a head.

    Sums over two parts differ from whole ones in the last bits, which no choice among these laws is as close as.
    """
    whole, found = both
    options = OPTIONS[name]
    session, other = (Session(whole, drafter(name, whole)) for _ in range(2))
    steps = list(session.decode(IDS, options, seeded(SEED)))
    assert name != "lookup" or sum(step.num_accepted for step in steps) > 0
    expected = [
        tokens_of(steps),
        tokens_of(other.decode(LONGER[:5], options, seeded(SEED))),
        tokens_of(session.decode(LONGER, options, seeded(SEED))),
        tokens_of(autoregressive(whole, IDS, options, seeded(SEED))),
    ]
    assert found["texts"][name] == expected


def test_features_and_logits_are_those_of_the_whole(both):
    """To 1e-4 of numbers of size 1 to 10 in float32: nine layers of sums in another order."""
    whole, found = both
    cache, ids = whole.new_cache(), torch.tensor([IDS, LONGER[: len(IDS)]])
    read = whole.prefill(torch.tensor(IDS), cache)
    scored = whole.forward_tree(torch.tensor([5, 6, 7, 8]), ancestor_matrix([-1, 0, 0, 2]), cache)
    features, states = whole.read_states(ids)
    logits = whole.read(ids, logits_to_keep=3).logits
    expected = (read.features, read.logits, scored.features, scored.logits, features, states, logits, whole.embed(ids))
    for got, wanted in zip(found["outputs"], expected, strict=True):
        torch.testing.assert_close(torch.tensor(got), wanted.double(), rtol=1e-4, atol=1e-4, check_dtype=False)
    assert "the output layer" in found["why"]  # nothing was wrong in any layer


def test_what_only_one_process_would_do_is_refused(both):
    """The others would not come, and all would wait for ever."""
    assert all("outside of a pass that all take part in" in told for told in both[1]["alone"])


def test_a_command_runs_once_and_ends_all_processes(tmp_path):
    """One process prints; the drafted text is the plain one, drawn with the same seed."""
    target = Target(tiny_text.target())
    source, head = stored(target, tmp_path / "target"), save_head(tiny_head(target), tmp_path / "head")
    flags = ("Hello", "--target", source, "--head", str(head), "--max-new-tokens", "12", "--tree", "eagle:num_nodes=6")
    done = in_two(str(ROOT / "scripts" / "demo.py"), *flags, "--check", "--temperature", "1", "--tp", "2")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("equal: 12 tokens") == 1 and done.stdout.count("plain decoding with the same seed") == 1


def test_a_server_has_one_port_and_answers(tmp_path):
    """Requests come to one process; the others do not open a port, and end with it."""
    target = Target(tiny_text.target(), tiny_text.tokenizer())
    source, head = stored(target, tmp_path / "target"), save_head(tiny_head(target), tmp_path / "head")
    flags = ["--target", source, "--head", str(head), "--tree", "eagle:num_nodes=6", "--port", "0", "--tp", "2"]
    command = [*LAUNCH, "--no-python", sys.executable, "-c", SERVE, *flags]
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen(command, env=environment(), stdout=file, stderr=file)
    try:
        client = OpenAI(base_url=f"{address(log, process)}/v1", api_key="none", timeout=60)
        model = client.models.list().data[0].id
        answer = client.completions.create(model=model, prompt="Hello", max_tokens=10, seed=3, temperature=1.0)
    finally:
        process.terminate()
        process.wait(60)
    ids = target.tokenizer("Hello")["input_ids"]
    plain = tokens_of(autoregressive(target, ids, DecodeOptions(Sampling(1.0), 10, "coupled", seed=3)))
    assert answer.choices[0].text == target.tokenizer.decode(plain)
    assert log.read_text().count("listens on") == 1


def test_a_mistake_is_one_line_and_ends_all_processes(tmp_path):
    target = Target(tiny_text.target())
    source = stored(target, tmp_path / "target")
    done = in_two(
        str(ROOT / "scripts" / "demo.py"), "Hello", "--target", source, "--head", "nowhere/at all", "--tp", "2"
    )
    told = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode != 0 and len(told) == 1 and "no draft head at 'nowhere/at all'" in told[0], done.stderr


def test_without_torchrun_it_says_how_to_start(tmp_path, monkeypatch):
    with pytest.raises(
        ValueError, match=r"tp is 2, and 1 process runs: start .*torchrun --nproc_per_node 2 --no-python"
    ):
        load_target(tmp_path, tp=2)
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ValueError, match="tp is 2, and 4 processes run: "):
        load_target(tmp_path, tp=2)


@pytest.mark.parametrize(
    "other", [{"device_map": "auto"}, {"compile": "on"}, {"quantization": "cpu-int8"}, {"quantization": "cpu-int4"}]
)
def test_what_does_not_go_with_parts_is_refused(tmp_path, other):
    with pytest.raises(ValueError, match=rf"tp is 2, and {next(iter(other))} is '.*': leave one of them out"):
        load_target(tmp_path, tp=2, **other)


def test_a_device_of_its_own_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr("eagle.loading.choose_device", lambda: torch.device("cuda"))
    with pytest.raises(ValueError, match="tp is 2, and device is 'cpu': every process has one of its own"):
        load_target(tmp_path, device="cpu", tp=2)


def test_heads_that_so_many_do_not_divide_and_models_without_a_plan_are_refused():
    with pytest.raises(ValueError, match="tp is 3, and tiny has 4 attention heads: take a number that divides 4"):
        check_plan(3, AutoConfig.for_model("llama", **SIZES), "tiny")
    with pytest.raises(ValueError, match="tp is 4, and tiny has 2 key/value heads: take a number that divides 2"):
        check_plan(4, AutoConfig.for_model("llama", **SIZES), "tiny")
    with pytest.raises(ValueError, match=r"no tensor parallel plan for tiny \(gpt2\): spread its layers"):
        check_plan(2, AutoConfig.for_model("gpt2"), "tiny")


def test_only_the_first_process_leads(monkeypatch):
    for rank, tp, follower in (("0", 2, False), ("1", 2, True), ("1", 1, False)):
        monkeypatch.setenv("RANK", rank)
        assert follows(tp) == follower
