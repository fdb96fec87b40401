"""The check of other engines, without one: what it counts, what it hands over, what it says when they fail."""

import sys

import pytest
import torch

from eagle.sampling import Sampling
from evaluation.selfcheck.engines.asked import (
    Answered,
    Asked,
    EngineSetup,
    read_answers,
    read_batches,
    write_answers,
    write_batches,
)
from evaluation.selfcheck.engines.engine_processes import run_logged, server
from evaluation.selfcheck.engines.findings import Finding, Findings, as_table
from evaluation.selfcheck.engines.path_law import PathLaw, count
from evaluation.selfcheck.engines.vllm_check import Material
from evaluation.selfcheck.engines.vllm_setups import Models, setups

VOCAB, DEPTH, NUM_TEXTS = 50, 3, 800
FALSE_ALARM = 1e-4  # of the seed below, were it not fixed


def path_law() -> PathLaw:
    logits = 2 * torch.randn(DEPTH, VOCAB, generator=torch.Generator().manual_seed(1))
    return PathLaw((1, 2), tuple(logits.argmax(-1).tolist()), logits)


def drawn(law: PathLaw, sampling: Sampling) -> list[tuple[int, ...]]:
    """Texts of an engine whose law after each depth is the path's, whatever stands before."""
    generator = torch.Generator().manual_seed(0)
    rows = sampling.law(law.logits)
    columns = [torch.multinomial(row, NUM_TEXTS, True, generator=generator).tolist() for row in rows]
    return list(zip(*columns, strict=True))


@pytest.mark.parametrize("sampling", [Sampling(1.0), Sampling(0.8, top_k=5, top_p=0.9)], ids=["whole", "cut"])
def test_texts_of_the_law_pass_and_others_do_not(sampling):
    law = path_law()
    assert count(law, sampling, drawn(law, sampling)).p_value > FALSE_ALARM
    assert count(law, sampling, drawn(law, Sampling(1.5))).p_value < 1e-12


def test_a_token_that_cannot_be_drawn_is_found():
    """Five texts of 800 with a token beyond top-k, which no cell expects."""
    law, sampling = path_law(), Sampling(1.0, top_k=5)
    texts = drawn(law, sampling)
    worst = int(law.logits[0].argmin())
    right = count(law, sampling, texts)
    wrong = count(law, sampling, [(worst, *text[1:]) if n < 5 else text for n, text in enumerate(texts)])
    assert wrong.statistic > right.statistic


def test_only_texts_on_the_path_are_counted_deeper():
    """All leave it at once: one depth, and its cells less one degrees of freedom."""
    law = path_law()
    other = (law.path[0] + 1) % VOCAB
    assert count(law, Sampling(1.0), [(other, 0, 0)] * NUM_TEXTS).degrees < VOCAB


def test_requests_and_answers_survive_the_way_to_another_process(tmp_path):
    setup = EngineSetup("one", {"model": "here"}, {})
    batches = [[Asked((1, 2), 3), Asked((4,), 5, 0.8, 20, 0.9, 7)], []]
    write_batches(tmp_path / "asked.json", setup, batches)
    options, read = read_batches(tmp_path / "asked.json")
    assert options == setup.options and [list(map(_listed, batch)) for batch in batches] == read
    answers = [Answered(((1, 2), ()), 0.5, 4, 6)]
    write_answers(tmp_path / "answers.json", answers)
    assert read_answers(tmp_path / "answers.json") == answers
    assert answers[0].tau == 1.5


def _listed(asked: Asked) -> Asked:
    return Asked(list(asked.prompt), *list(asked.__dict__.values())[1:])  # type: ignore[arg-type]


def test_a_process_that_fails_shows_its_log(tmp_path):
    command = [sys.executable, "-c", "import sys; print('what went wrong'); sys.exit(3)"]
    with pytest.raises(ValueError, match=r"(?s)failed with status 3:\nwhat went wrong"):
        run_logged(command, tmp_path / "log", {})


def test_a_server_that_ends_shows_its_log(tmp_path, monkeypatch):
    program = tmp_path / "python"
    monkeypatch.setattr(sys, "executable", str(program))
    program.write_text("#!/bin/sh\necho no such model; exit 1\n")
    program.chmod(0o755)
    with (
        pytest.raises(ValueError, match=r"(?s)did not come up.*no such model"),
        server(EngineSetup("one", {"model": "here", "enforce_eager": True}, {}), tmp_path),
    ):
        pass


def test_no_two_draws_of_one_law_share_a_seed():
    """The same seed twice is the same text twice, and no second draw: chi-squares came out too large."""
    batches = Material([], [], path_law()).law_batches(is_cut=True)
    asked = [request for batch in batches for request in batch if request.seed is not None]
    assert len({(request.temperature, request.seed) for request in asked}) == len(asked) > 100
    assert any(request.temperature == 0 for request in batches[1])


def test_findings_are_told_kept_and_counted(tmp_path, capsys):
    findings = Findings(tmp_path / "findings.json")
    findings.add("texts", True, "18 of 18")
    findings.add("law", False, "far off")
    findings.add("speed", None, "7 tokens/s")
    assert findings.failed == ["law"]
    assert capsys.readouterr().out.splitlines()[1].split() == ["FAILED", "law", "far", "off"]
    assert as_table([Finding("speed", None, "7 tokens/s")]).endswith("| speed | told | 7 tokens/s |")


def test_setups_name_the_verifier_they_are_about(tmp_path):
    found = setups(Models("target", "flat", "nested"), tmp_path)
    assert {name: one.environment["EAGLE_HSD_VLLM_VERIFIER"] for name, one in found.items() if "hsd" in name} == {
        "hsd-drawn": "hsd",
        "hsd-placed": "hsd",
    }
    assert found["hsd-drawn"].options["speculative_config"]["draft_sample_method"] == "probabilistic"
    assert found["head-alone"].options["model"] == "nested"
