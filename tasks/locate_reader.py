"""Bring the encoder and the questions into the artifact store."""

from __future__ import annotations

from typing import Any

from tasks.adapters.model_folder import check_folder, read_json
from tasks.adapters.questions import QuestionFile, deal, question_file, read_question_file, write_questions
from tasks.adapters.sources import import_model
from tasks.adapters.store import Store, Stored
from tasks.caching import StageKey
from tasks.contracts import ModelRef
from tasks.errors import RefusedModel, RefusedRecipe
from tasks.reader_contracts import QuestionsRef
from tasks.reader_recipes import QuestionsChoice, ReaderChoice, ReaderRecipe
from tasks.retrying import network_task
from tasks.settings import settings

TINY, SYNTHETIC = "tiny-reader", "synthetic"
TINY_BLOCKS, TINY_WIDTH, TINY_POSITIONS = 4, 32, 384
HEADED = "ForQuestionAnswering"
PRETRAINED_WIDTH, PRETRAINED_RATE = 128, 1e-3
"""An encoder so wide has been pretrained by somebody, and forgets all of it at a higher rate."""


# Not cached: the store remembers imports by the source's digest, which this task must look at each time
@network_task("import-{choice.short}")
def locate_reader(choice: ReaderChoice) -> ModelRef:
    """Make the chosen encoder a verified folder in the store."""
    store = Store(settings().store)
    if choice.source != TINY:
        imported = import_model(choice.source, store, settings().downloads)
        return describe_reader(imported.stored, name=imported.name, licence=imported.licence)
    from tasks.compression.synthetic_questions import write_encoder

    with store.draft("models") as draft:
        write_encoder(draft.path, blocks=TINY_BLOCKS, width=TINY_WIDTH, positions=TINY_POSITIONS)
        draft.made_from = {"seeded": TINY}
    return describe_reader(draft.stored, name=TINY, licence="Apache-2.0")


def describe_reader(stored: Stored, *, name: str, licence: str) -> ModelRef:
    """A handle of a dense encoder, its figures from the folder's headers."""
    facts = check_folder(Store(settings().store).root / stored.uri)
    return ModelRef(
        uri=stored.uri,
        digest=stored.digest,
        name=name,
        licence=licence,
        architecture=facts.architecture,
        parameters=facts.parameters,
        bytes=stored.bytes,
        dtype=facts.dtype,
        bits=32.0 if facts.dtype == "float32" else 16.0,
    )


@network_task("fit-{recipe.name}")
def check_reader(model: ModelRef, choice: ReaderChoice, recipe: ReaderRecipe) -> None:
    """Check the recipe against the encoder's config.json, before any work.

    Raises:
        RefusedModel: it cannot answer and is not to be trained, or is no encoder of blocks.
        RefusedRecipe: blocks, window or learning rate do not fit it.
    """
    from tasks.compression.encoder_students import encoder_depth

    folder = Store(settings().store).open(model.uri, model.digest)
    config = read_json(folder / "config.json")
    if not choice.train and not model.architecture.endswith(HEADED):
        raise RefusedModel(
            "the teacher cannot answer questions, and is not to be trained",
            observed=model.architecture,
            limit=f"an architecture that ends in {HEADED}",
            remedy="set model.train to true, or give a folder that answers questions",
        )
    depth = encoder_depth(folder)
    if depth < 2:
        raise RefusedModel(
            "the model has no blocks that a student could leave out",
            observed=f"{model.architecture} with {depth} encoder blocks",
            limit="at least 2",
            remedy="use a BERT-type encoder, such as BERT, DistilBERT, RoBERTa or MiniLM",
        )
    if not 1 <= recipe.blocks < depth:
        raise RefusedRecipe(
            "the student would not be smaller than its teacher",
            observed=f"{recipe.blocks} blocks of {depth}",
            limit=f"1 to {depth - 1}",
            remedy="lower recipe.blocks",
        )
    positions = int(config.get("max_position_embeddings") or recipe.window)
    if recipe.window > positions or recipe.stride >= recipe.window:
        raise RefusedRecipe(
            "the windows do not fit the encoder",
            observed=f"windows of {recipe.window} tokens, {recipe.stride} shared",
            limit=f"at most {positions} tokens, and fewer shared than a window has",
            remedy="lower recipe.window or recipe.stride",
        )
    check_rate(config, recipe.learning_rate)


def check_rate(config: dict[str, Any], rate: float) -> None:
    """Refuse a learning rate at which a pretrained encoder would be trained to no use, for as long as it takes.

    Raises:
        RefusedRecipe: with rates that work.
    """
    width = int(config.get("hidden_size") or config.get("dim") or 0)
    if width >= PRETRAINED_WIDTH and rate > PRETRAINED_RATE:
        raise RefusedRecipe(
            "the encoder would forget what it has learnt",
            observed=f"a learning rate of {rate:g} for an encoder {width} wide",
            limit=f"at most {PRETRAINED_RATE:g} from a width of {PRETRAINED_WIDTH}",
            remedy="set recipe.learning_rate: 5e-5 for a large encoder or many questions, 2e-4 for a small one and few",
        )


# Not cached: a file may have changed under the same name: its digest is what enters the next task's key
@network_task("read-{choice.short}")
def digest_questions(choice: QuestionsChoice) -> str:
    """SHA-256 of the chosen questions as they are now."""
    return _source(choice).digest


@network_task(
    "fetch-questions-{choice.short}",
    cache_policy=StageKey(
        stage="fetch-questions",
        modules=("tasks.locate_reader", "tasks.adapters.questions", "tasks.compression.synthetic_questions"),
    ),
)
def fetch_questions(choice: QuestionsChoice, questions_digest: str) -> QuestionsRef:
    """Deal the questions out to three splits that share no context."""
    source = _source(choice)
    counts = {"teaching": choice.teaching, "training": choice.training, "evaluation": choice.evaluation}
    splits = deal(source.questions, counts, seed=choice.seed)
    with Store(settings().store).draft("datasets") as draft:
        draft.made_from = {"questions": questions_digest, "choice": choice.model_dump()}
        write_questions(draft.path, splits, source, seed=choice.seed)
    return QuestionsRef(
        uri=draft.stored.uri, digest=draft.stored.digest, name=source.name, licence=source.licence, **counts
    )


def _source(choice: QuestionsChoice) -> QuestionFile:
    if choice.source != SYNTHETIC:
        return read_question_file(choice.source)
    from tasks.compression.synthetic_questions import make_questions

    # A template may come twice; twice as many as wanted leave enough different ones.
    wanted = 2 * (choice.teaching + choice.training + choice.evaluation)
    return question_file(SYNTHETIC, "Apache-2.0", make_questions(wanted, seed=0, facts=1))
