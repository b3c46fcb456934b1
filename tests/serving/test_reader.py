"""An encoder that answers questions, behind the container's contract."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.compression.question_answering import distill_reader, evaluate_reader
from tasks.compression.synthetic_questions import make_questions, write_encoder
from tasks.reader_contracts import Question
from tasks.serving.payload import BadRequest, Interrupted
from tasks.serving.reader import Reader
from tasks.serving.reader_payload import Pair, QuestionRequest, parse_questions, reads_questions
from tests.serving.test_container import running

QUESTIONS = make_questions(40, seed=9, facts=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained for a moment: it need not be right, but it is sure of something."""
    home = tmp_path_factory.mktemp("reader")
    write_encoder(home / "raw", blocks=2, width=32)
    numbers: dict[str, Any] = {"epochs": 1, "batch_windows": 16, "learning_rate": 3e-3, "temperature": 1.0, "seed": 0}
    examples = make_questions(320, seed=1, facts=1)
    list(distill_reader(home / "raw", None, home / "model", examples, hard_share=1.0, length=96, stride=16, **numbers))
    return home / "model"


def body(inputs: Any, **parameters: Any) -> bytes:
    return json.dumps({"inputs": inputs, "parameters": parameters}).encode()


def asked(question: Question) -> dict[str, str]:
    return {"question": question.question, "context": question.context}


def test_it_answers_as_the_evaluation_measures_it(folder: Path) -> None:
    pairs = tuple(Pair(each.question, each.context) for each in QUESTIONS)
    answers = Reader(folder).generate(QuestionRequest(pairs, max_answer_len=30), lambda: False)
    measured = evaluate_reader(folder, QUESTIONS, length=96, stride=16)
    assert [answer["answer"] for answer in answers] == list(measured.answers)
    for answer, question in zip(answers, QUESTIONS, strict=True):
        assert question.context[answer["start"] : answer["end"]] == answer["answer"]
        assert 0 < answer["score"] <= 1


def test_scores_are_products_of_probabilities_over_the_context(folder: Path) -> None:
    reader, question = Reader(folder), QUESTIONS[0]
    (answer,) = reader.generate(QuestionRequest((Pair(question.question, question.context),)), lambda: False)
    coded = reader._coder.encode(question.question, question.context)
    inside = torch.tensor([number == 1 for number in coded.sequence_ids])
    with torch.inference_mode():
        output = reader.model(input_ids=torch.tensor([coded.ids]), token_type_ids=torch.tensor([coded.type_ids]))
    starts, ends = (logits[0][inside].softmax(-1) for logits in (output.start_logits, output.end_logits))
    products = [starts[i] * ends[j] for i in range(len(starts)) for j in range(i, min(i + 15, len(ends)))]
    assert answer["score"] == pytest.approx(float(max(products)), rel=1e-5)


def test_an_answer_is_found_in_any_window_of_a_long_context(folder: Path) -> None:
    reader = Reader(folder)
    fill = " ".join(question.context for question in make_questions(60, seed=3, facts=1))
    target = QUESTIONS[1]
    long = f"{fill} {target.context} {fill}"
    assert len(reader._windows(Pair(target.question, long), 16)) > 3
    request = QuestionRequest((Pair(target.question, long),), doc_stride=16)
    (answer,) = reader.generate(request, lambda: False)
    assert long[answer["start"] : answer["end"]] == answer["answer"]
    each = [reader._best([window], 15)[0] for window in reader._windows(Pair(target.question, long), 16)]
    assert answer["score"] == pytest.approx(max(score for score, _, _ in each), rel=1e-4)
    with pytest.raises(Interrupted):
        reader.generate(request, lambda: True)


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"inputs": "text"}, "inputs"),
        ({"inputs": []}, "inputs"),
        ({"inputs": {"question": "Where?"}}, "inputs.context"),
        ({"inputs": {"question": " ", "context": "Here."}}, "inputs.question"),
        ({"inputs": {"question": "Where?", "context": "Here.", "top": 1}}, "inputs.top"),
        ({"inputs": [{"question": "Where?", "context": 3}]}, "inputs[0].context"),
        ({"inputs": {"question": "Where?", "context": "\ud800"}}, "inputs.context"),
        ({"inputs": {"question": "Where?", "context": "Here."}, "parameters": {"top_k": 2}}, "parameters.top_k"),
        (
            {"inputs": {"question": "Where?", "context": "Here."}, "parameters": {"max_answer_len": 0}},
            "parameters.max_answer_len",
        ),
    ],
)
def test_a_bad_request_is_answered_by_its_field(document: Any, field: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_questions(json.dumps(document).encode(), "application/json")
    assert refused.value.field == field and refused.value.status == 400


def test_a_question_longer_than_a_window_is_refused(folder: Path) -> None:
    with pytest.raises(BadRequest, match=r"inputs\.question"):
        Reader(folder).generate(QuestionRequest((Pair("Where " * 90, "Here."),)), lambda: False)


def test_a_damaged_reader_does_not_load(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors["qa_outputs.weight"].fill_(float("nan"))
    save_file(tensors, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="finite"):
        Reader(tmp_path / "model").check()
    del tensors["qa_outputs.weight"]
    save_file(tensors, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="qa_outputs"):
        Reader(tmp_path / "model")


def test_the_container_serves_it_under_the_same_contract(folder: Path, tmp_path: Path) -> None:
    assert reads_questions(folder) and not reads_questions(tmp_path)
    with running(folder, tmp_path / "log") as container:
        assert set(container.wait_ready()) <= {200, 503}
        status, answer = container.ask("POST", "/invocations", body(asked(QUESTIONS[0])))
        assert status == 200 and set(answer) == {"answer", "score", "start", "end"}
        assert QUESTIONS[0].context[answer["start"] : answer["end"]] == answer["answer"]
        status, answers = container.ask("POST", "/invocations", body([asked(each) for each in QUESTIONS[:3]]))
        assert status == 200 and answers[0] == answer and len(answers) == 3
        status, refused = container.ask("POST", "/invocations", body("Once upon a time"))
        assert status == 400 and refused["error"]["field"] == "inputs"
