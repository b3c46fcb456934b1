"""Questions, contexts and answers from seeded templates, and a BERT that has never read anything.

A context tells several things about made-up places; a question asks for one of them: "The capital of Vora is Bade." /
"What is the capital of Vora?". Names are made of syllables, and every syllable is a token of the tokenizer, so names
that no example held can still be read. Capitals sound like capitals and rivers like rivers (their first consonants
differ), as "who" asks for a person: a small model learns within minutes to find the thing that was asked for. No answer
can be known by heart. With more than one place, the place has to be found too.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForQuestionAnswering

from tasks.reader_contracts import Question

RELATIONS = {"capital": "bdf", "river": "gkl", "founder": "mnp", "currency": "rst"}
"""What is told of a place, and how its name may begin."""
SYLLABLES = tuple(first + second for first in "bdfgklmnprstvz" for second in "aeiou")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
LENGTH = 96


def make_questions(count: int, *, seed: int, facts: int = 3, places: int = 1) -> list[Question]:
    """``count`` questions, each with a context of ``facts`` sentences in random order about ``places`` places."""
    draw = random.Random(seed)

    def name(words: int, consonants: str) -> str:
        begins = [syllable for syllable in SYLLABLES if syllable[0] in consonants]
        return " ".join((draw.choice(begins) + draw.choice(SYLLABLES)).capitalize() for _ in range(words))

    made = []
    for _ in range(count):
        where = [name(1, "vz") for _ in range(places)]
        pairs = draw.sample([(relation, place) for relation in RELATIONS for place in where], facts)
        told = [(relation, place, name(draw.randint(1, 2), RELATIONS[relation])) for relation, place in pairs]
        relation, place, answer = draw.choice(told)
        sentences = [f"The {what} of {whose} is {value}." for what, whose, value in told]
        position = told.index((relation, place, answer))
        start = sum(len(sentence) + 1 for sentence in sentences[:position]) + len(f"The {relation} of {place} is ")
        made.append(Question(f"What is the {relation} of {place}?", " ".join(sentences), (answer,), start))
    return made


def write_encoder(folder: Path, *, blocks: int, width: int = 64, seed: int = 0, positions: int = LENGTH) -> Path:
    """A folder with a randomly initialised BERT with a question-answering head, and its tokenizer.

    Args:
        folder: made when it is absent.
        positions: tokens that a window may have.
    """
    words = (*SPECIAL, *RELATIONS, "the", "of", "is", "what", ".", "?", *SYLLABLES)
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    known = "|".join((*RELATIONS, "the", "what", "of", "is"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Whitespace(),
            pre_tokenizers.Split(Regex(rf"^(?:{known})$|[bdfgklmnprstvz][aeiou]"), "isolated"),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=width,
        num_hidden_layers=blocks,
        num_attention_heads=4,
        intermediate_size=2 * width,
        max_position_embeddings=positions,
        pad_token_id=0,
        initializer_range=width**-0.5,
    )
    torch.manual_seed(seed)
    BertForQuestionAnswering(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
