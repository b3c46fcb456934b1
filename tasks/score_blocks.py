"""Score a part of the held-out blocks: what the workers of a task runner share when there are any."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Annotated

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from tasks.adapters.dealing import end_of_text
from tasks.adapters.labels import masks
from tasks.adapters.store import Store
from tasks.adapters.tokens import TokenSplits, read_dataset
from tasks.caching import StageKey
from tasks.contracts import DatasetRef, ModelRef, Place, Value
from tasks.evidence_contracts import ItemsRef
from tasks.retrying import compute_task
from tasks.settings import settings
from tasks.workbench import open_model, use_threads

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from tasks.compression.answers import AnswerPair
    from tasks.compression.items import Scores
    from tasks.compression.scoring import Scored

MODULES = (
    "tasks.score_blocks",
    "tasks.compression.block_scoring",
    "tasks.compression.scoring",
    "tasks.onnx_scoring",
    "tasks.serving.onnx_session",
)
# A thread pool runs all shards in one process: one after another there, or each would hold both models in memory.
_one_at_a_time = threading.Lock()


class Shards(Value):
    """The blocks' results in parts. They are the same however the blocks were dealt out, so they enter no key."""

    parts: Annotated[tuple[ItemsRef, ...], Place] = ()


def score_in_shards(
    candidate: ModelRef, exported: ModelRef | None, baseline: ModelRef, data: DatasetRef, shards: int
) -> Shards:
    """Deal the held-out blocks out to ``shards`` tasks, mapped over the flow's task runner; none for one shard, whose
    blocks are scored where the rest is measured, by models loaded once.
    """
    count = min(shards, data.evaluation_blocks)
    if count < 2:
        return Shards()
    bounds = [data.evaluation_blocks * number // count for number in range(count + 1)]
    from prefect import unmapped

    futures = score_shard.map(
        unmapped(candidate), unmapped(exported), unmapped(baseline), unmapped(data), bounds[:-1], bounds[1:]
    )
    return Shards(parts=tuple(futures.result()))


@compute_task("score-{first}-to-{last}", cache_policy=StageKey(stage="score", modules=MODULES))
def score_shard(
    candidate: ModelRef, exported: ModelRef | None, baseline: ModelRef, data: DatasetRef, first: int, last: int
) -> ItemsRef:
    """Score blocks ``first`` to ``last``, the latter not included, and keep the results item by item."""
    import torch

    from tasks.compression.block_scoring import score_blocks
    from tasks.compression.device import HOST, compute_device
    from tasks.compression.items import BASELINE, CANDIDATE, PACKED

    store = Store(settings().store)
    with _one_at_a_time:
        use_threads()
        splits = read_dataset(store.open(data.uri, data.digest)).splits
        blocks = splits.evaluation[first:last]
        labels = {name: mask[first:last] for name, mask in label_masks(splits).items()}
        device = HOST if exported else compute_device()
        forms = {CANDIDATE: loaded(exported or candidate, device)[0], BASELINE: loaded(baseline, device)[0]}
        if exported:
            forms[PACKED] = loaded(candidate, device)[0]
        end = document_end(baseline)
        scores = score_blocks(forms, torch.from_numpy(blocks).long(), first=first, end=end, labels=labels)
    return keep(scores, {"candidate": candidate.digest, "baseline": baseline.digest, "data": data.digest})


def keep(scores: Scores, made_from: dict[str, str], pairs: Sequence[AnswerPair] = ()) -> ItemsRef:
    """The results item by item as an artifact of the store, with the answers to prompts where there are any."""
    from tasks.compression.answers import write_answers
    from tasks.compression.items import write_scores

    with Store(settings().store).draft("evaluations") as draft:
        draft.made_from = made_from
        write_scores(draft.path, scores)
        if pairs:
            write_answers(draft.path, pairs)
    stored, positions = draft.stored, int(scores.counts().sum())
    return ItemsRef(uri=stored.uri, digest=stored.digest, items=len(scores.items), positions=positions)


def label_masks(splits: TokenSplits) -> dict[str, NDArray[np.bool_]]:
    """Which held-out tokens are of documents with which label; nothing where they have none."""
    blocks, length = splits.evaluation.shape
    return masks(splits.labels, (blocks, length)) if splits.labels else {}


def document_end(model: ModelRef) -> int:
    """The token that stands between the documents of a block, as the blocks were cut."""
    file = open_model(model) / "tokenizer.json"
    return end_of_text(Tokenizer.from_file(str(file)), file)


def loaded(model: ModelRef, device: torch.device) -> tuple[Scored, int]:
    """The model with what serves it, and the bytes of its folder. An exported one is computed on the CPU."""
    from tasks.compression.loading import load_for_compute
    from tasks.compression.scoring import TorchScored, folder_bytes
    from tasks.onnx_scoring import OnnxScored

    folder = open_model(model)
    if model.runtime == "onnx":
        return OnnxScored(folder, settings().threads), folder_bytes(folder)
    return TorchScored(load_for_compute(folder, device)), folder_bytes(folder)
