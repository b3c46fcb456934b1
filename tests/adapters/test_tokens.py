"""Token blocks: splits that share no document, exact sizes, and refusals that say what is missing."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Replace
from tokenizers.pre_tokenizers import Whitespace

from tasks.adapters.chats import chat_renderer
from tasks.adapters.dealing import Dealing
from tasks.adapters.documents import words_of
from tasks.adapters.labels import masks
from tasks.adapters.store import Store
from tasks.adapters.texts import Text, read_text
from tasks.adapters.tiny_model import byte_tokenizer
from tasks.adapters.tiny_model import write as write_tiny
from tasks.adapters.tokens import TokenSplits, cut_blocks, read_dataset, write_dataset
from tasks.errors import ArtifactDamaged, RefusedData, RefusedModel

END, OFFSET, VOCABULARY = 0, 4, 260


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    byte_tokenizer().save(str(path))
    return path


def _documents(count: int, characters: int) -> list[str]:
    """Each document repeats its own number, so a token block shows where it came from."""
    return [(f"<{index:03d}>" * characters)[:characters] for index in range(count)]


def _cut(documents: list[str], tokenizer: Path, **changes: Any) -> TokenSplits:
    asked: dict[str, Any] = {
        "block_tokens": 32,
        "calibration": 3,
        "training": 4,
        "evaluation": 2,
        "seed": 0,
        "vocabulary": VOCABULARY,
    }
    return cut_blocks(documents, tokenizer, **(asked | changes))


def _found(tokens: np.ndarray, documents: list[str]) -> set[str]:
    pieces = bytes(0 if token == END else token - OFFSET for token in tokens.reshape(-1)).split(b"\0")
    return {document for piece in pieces if len(piece) > 5 for document in documents if piece.decode() in document}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), calibration=st.integers(1, 4), training=st.integers(1, 4), length=st.integers(20, 90))
def test_splits_have_the_asked_sizes_and_share_no_document(
    tokenizer: Path, seed: int, calibration: int, training: int, length: int
) -> None:
    documents = _documents(60, length)
    splits = _cut(documents, tokenizer, seed=seed, calibration=calibration, training=training)
    arrays = (splits.calibration, splits.training, splits.evaluation)
    assert [array.shape for array in arrays] == [(calibration, 32), (training, 32), (2, 32)]
    assert all(array.dtype == np.int32 for array in arrays)
    origins = [_found(array, documents) for array in arrays]
    assert all(origins)
    assert not (origins[0] & origins[1] or origins[0] & origins[2] or origins[1] & origins[2])


def test_documents_are_packed_with_the_end_of_text_between_them(tokenizer: Path) -> None:
    splits = _cut(_documents(60, 15), tokenizer, evaluation=4)
    stream = splits.evaluation.reshape(-1)
    assert list(np.flatnonzero(stream == END)) == [15, 31, 47, 63, 79, 95, 111, 127]


def test_more_training_does_not_change_what_is_measured_on(tokenizer: Path) -> None:
    documents = _documents(60, 50)
    few, many = _cut(documents, tokenizer, training=1), _cut(documents, tokenizer, training=9)
    np.testing.assert_array_equal(few.evaluation, many.evaluation)
    np.testing.assert_array_equal(few.calibration, many.calibration)
    assert few.prompts == many.prompts


def test_the_seed_decides_the_order(tokenizer: Path) -> None:
    documents = _documents(60, 50)
    np.testing.assert_array_equal(_cut(documents, tokenizer).training, _cut(documents, tokenizer).training)
    assert not np.array_equal(_cut(documents, tokenizer).training, _cut(documents, tokenizer, seed=1).training)


def test_too_little_text_says_what_there_is_and_what_is_needed(tokenizer: Path) -> None:
    with pytest.raises(RefusedData) as caught:
        _cut(_documents(4, 30), tokenizer)
    assert caught.value.limit == "288 tokens (9 blocks of 32), and no document in two splits"
    assert str(caught.value.observed).endswith("calibration split")


def test_one_long_document_cannot_fill_three_splits(tokenizer: Path) -> None:
    with pytest.raises(RefusedData, match="no document in two splits"):
        _cut(["x" * 100_000], tokenizer)


def test_ids_beyond_the_model_are_refused(tokenizer: Path) -> None:
    with pytest.raises(RefusedData, match="does not belong to this model"):
        _cut(_documents(60, 50), tokenizer, vocabulary=60)


def test_a_tokenizer_without_an_end_is_refused_and_a_declared_one_is_used(tmp_path: Path) -> None:
    text = byte_tokenizer().to_str().replace("<|endoftext|>", "<stop>")
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(RefusedModel, match="no end-of-text token"):
        _cut(_documents(60, 15), tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "<stop>"}}')
    assert _cut(_documents(60, 15), tmp_path / "tokenizer.json").evaluation[0, 15] == END


@pytest.mark.parametrize("documents", [_documents(60, 70), [f"{index} " * 400 for index in range(3)]])
def test_prompts_come_from_evaluation_documents(tokenizer: Path, documents: list[str]) -> None:
    splits = _cut(documents, tokenizer)
    assert splits.prompts
    origins = [document for document in documents if any(prompt in document for prompt in splits.prompts)]
    trained = _found(np.concatenate((splits.training, splits.calibration)), documents)
    assert origins
    assert not trained & set(origins)
    assert all(len(prompt.split()) <= 12 for prompt in splits.prompts)


def test_real_text_gives_enough_prompts(tokenizer: Path, tmp_path: Path) -> None:
    documents = list(read_text("python-docs", tmp_path).documents)
    splits = _cut(documents, tokenizer, block_tokens=128, evaluation=8)
    assert 16 <= len(splits.prompts) <= 32
    assert len(set(splits.prompts)) == len(splits.prompts)


def test_a_data_set_survives_the_store(tokenizer: Path, tmp_path: Path) -> None:
    text = Text("mine.txt", "CC0", tuple(_documents(60, 50)), "d" * 64)
    splits = _cut(list(text.documents), tokenizer)
    store = Store(tmp_path)
    with store.draft("datasets") as draft:
        written = write_dataset(draft.path, splits, text, seed=0)
    read = read_dataset(store.open(draft.stored.uri, draft.stored.digest))
    assert read.card == written
    assert read.card.text_digest == "d" * 64
    assert read.splits.prompts == splits.prompts
    for name in ("calibration", "training", "evaluation"):
        np.testing.assert_array_equal(getattr(read.splits, name), getattr(splits, name))


def test_a_card_that_does_not_match_its_tokens_is_damage(tokenizer: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path, _cut(_documents(60, 50), tokenizer), Text("a", "b", ("c",), "d"), seed=0)
    card = (tmp_path / "card.json").read_text()
    (tmp_path / "card.json").write_text(card.replace('"training_blocks": 4', '"training_blocks": 5'))
    with pytest.raises(ArtifactDamaged, match="does not match its card"):
        read_dataset(tmp_path)


def test_a_block_of_a_whole_document_is_its_beginning_and_nothing_is_padded(tokenizer: Path) -> None:
    documents = _documents(60, 50) + ["too short"] * 5
    splits = _cut(documents, tokenizer, how=Dealing(whole=True))
    for array in (splits.evaluation, splits.calibration, splits.training):
        for block in array:
            assert bytes(token - OFFSET for token in block).decode() in {text[:32] for text in documents}
    assert splits.account is not None
    assert splits.account.training_documents == 4
    with pytest.raises(RefusedData, match="each the beginning of a document of its own"):
        _cut(documents, tokenizer, how=Dealing(whole=True), block_tokens=64)


def test_near_duplicates_never_stand_in_two_splits(tokenizer: Path) -> None:
    originals = [" ".join(f"w{(index * 7919 + place * 104729) % 5003}" for place in range(60)) for index in range(40)]
    copies = [f"{original} and one more" for original in originals]
    asked: dict[str, Any] = {"block_tokens": 1024, "evaluation": 4, "calibration": 4, "training": 4}
    plain = _cut(originals + copies, tokenizer, **asked)
    splits = _cut(originals + copies, tokenizer, **asked, how=Dealing(near_duplicates=0.8))
    assert plain.account is not None and splits.account is not None
    assert plain.account.leaked > 0.1
    assert splits.account.leaked == 0.0 and splits.account.near > 0


def test_a_held_out_text_of_its_own_is_what_is_measured_on(tokenizer: Path) -> None:
    documents, held = _documents(60, 50), [(f"[{index:03d}]" * 50)[:50] for index in range(20)]
    splits = _cut(documents, tokenizer, how=Dealing(held_out=held))
    assert _found(splits.evaluation, held) and not _found(splits.evaluation, documents)
    assert _found(splits.training, documents) and not _found(splits.training, held)
    assert all(prompt.startswith("[") for prompt in splits.prompts)
    with pytest.raises(RefusedData, match="ran out in the evaluation split"):
        _cut(documents, tokenizer, how=Dealing(held_out=held[:1]))


def test_a_tokenizer_of_other_words_is_refused(tmp_path: Path) -> None:
    vocabulary = {word: index for index, word in enumerate(["<unk>", "<|endoftext|>", "and", "one", "more"])}
    words = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(RefusedData, match="of the tokens are unknown"):
        _cut(["and one stranger more"] * 60, tmp_path / "tokenizer.json")


def test_a_tokenizer_that_loses_words_is_refused(tmp_path: Path) -> None:
    losing = byte_tokenizer()
    losing.normalizer = Replace(Regex("[a-m]"), "")
    losing.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(RefusedData, match="of the words come back from their tokens"):
        _cut(["the quick brown fox jumps over the lazy dog"] * 60, tmp_path / "tokenizer.json")


CHAT = '[{"role":"system","content":"Hoot."},{"role":"user","content":"Why?"},{"role":"assistant","content":"So."}]'
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The seeded model's tokenizer; it has no chat template."""
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny(folder)
    return folder


@pytest.mark.parametrize("place", ["tokenizer_config.json", "chat_template.jinja"])
def test_chats_are_written_by_the_tokenizers_own_template(tiny: Path, tmp_path: Path, place: str) -> None:
    shutil.copytree(tiny, tmp_path, dirs_exist_ok=True)
    if place.endswith(".jinja"):
        (tmp_path / place).write_text(TEMPLATE)
    else:
        config = json.loads((tmp_path / place).read_text())
        (tmp_path / place).write_text(json.dumps(config | {"chat_template": TEMPLATE}))
    render = chat_renderer(tmp_path / "tokenizer.json")
    assert render(CHAT) == (
        "<|im_start|>system\nHoot.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\nSo.<|im_end|>\n"
    )
    how = Dealing(render=render, words=partial(words_of, chat=True), near_duplicates=0.8)
    chats = [CHAT.replace("Why?", f"Why {index}?").replace("So.", f"So {index}.") for index in range(60)]
    splits = _cut(chats, tmp_path / "tokenizer.json", how=how)
    assert splits.evaluation[0, 0] == 1, "a special token is one token"
    assert splits.prompts[0].startswith("Why ") and splits.account is not None
    assert splits.account.leaked == 0.0, "the system's message, which all share, is no leak"


def test_a_tokenizer_without_a_template_and_a_template_that_refuses(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path, dirs_exist_ok=True)
    with pytest.raises(RefusedData, match="has no chat template") as refused:
        chat_renderer(tmp_path / "tokenizer.json")
    assert "data.document = template" in refused.value.remedy
    (tmp_path / "chat_template.jinja").write_text("{{ raise_exception('no system message here') }}")
    with pytest.raises(RefusedData, match="no system message here; the chat begins"):
        chat_renderer(tmp_path / "tokenizer.json")(CHAT)


def test_a_data_set_says_nothing_of_the_texts_name(tokenizer: Path, tmp_path: Path) -> None:
    splits, store, digests = _cut(_documents(60, 50), tokenizer), Store(tmp_path), set[str]()
    for name in ("here.txt", "elsewhere.txt"):
        with store.draft("datasets") as draft:
            write_dataset(draft.path, splits, Text(name, f"licence of {name}", ("c",), "d"), seed=0)
        digests.add(draft.stored.digest)
    assert len(digests) == 1
    assert read_dataset(store.root / draft.stored.uri).splits.account == splits.account


@pytest.mark.parametrize("whole", [False, True])
def test_each_held_out_token_has_the_label_of_its_document(tokenizer: Path, tmp_path: Path, whole: bool) -> None:
    documents = _documents(60, 50)
    marks = {document: ("even", "odd")[index % 2] for index, document in enumerate(documents)}
    del marks[documents[0]]
    splits = _cut(documents, tokenizer, evaluation=6, how=Dealing(whole=whole, labels=marks))
    write_dataset(tmp_path, splits, Text("a", "b", ("c",), "d"), seed=0)
    read = read_dataset(tmp_path).splits
    assert read.labels == splits.labels and sum(count for _, count in read.labels) == 6 * 32
    found = masks(read.labels, read.evaluation.shape)
    assert (np.sum(list(found.values()), axis=0) == 1).all(), "each token has one"
    assert {"even", "odd"} <= found.keys()
    for label, mask in found.items():
        parts = [_found(block[of], documents) for block, of in zip(read.evaluation, mask, strict=True)]
        assert {marks.get(document, "(none)") for part in parts for document in part} == {label}
    assert _cut(documents, tokenizer).labels == ()


def test_of_many_labels_those_with_most_tokens_are_slices_and_the_others_are_one(tmp_path: Path) -> None:
    runs = [(f"n{number:02d}", number + 1) for number in range(20)]
    found = masks(runs, (21, 10))
    assert len(found) == 13 and list(found)[:2] == ["n19", "n18"]
    assert int(found["8 other labels"].sum()) == sum(range(1, 9))
    assert masks([("a", 5), ("b", 5)], (2, 5))["b"].tolist() == [[False] * 5, [True] * 5]


def test_labels_of_other_blocks_are_damage(tokenizer: Path, tmp_path: Path) -> None:
    documents = _documents(60, 50)
    splits = _cut(documents, tokenizer, how=Dealing(labels=dict.fromkeys(documents, "a")))
    write_dataset(tmp_path, splits, Text("a", "b", ("c",), "d"), seed=0)
    (tmp_path / "labels.json").write_text('[["a", 3]]')
    with pytest.raises(ArtifactDamaged, match="labels of other blocks"):
        read_dataset(tmp_path)
