"""The export stage and what follows: facts read from the file, scores by its runtime, which folder is served."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tasks.adapters.store import Store
from tasks.compression.folder_facts import describe
from tasks.compression.loading import load_for_compute
from tasks.compression.onnx_export import export_onnx
from tasks.compression.onnx_facts import describe_onnx
from tasks.compression.scoring import Scored, TorchScored, sample, score_models
from tasks.contracts import ModelRef
from tasks.deploy import served, unregistered
from tasks.errors import RefusedModel, RefusedRequest
from tasks.export import exported
from tasks.onnx_scoring import OnnxScored
from tasks.plans import ReleasePlan
from tasks.workbench import describe_model
from tests.compression.small import blocks, prune, quantize, write_llama


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("export")
    config = write_llama(home / "dense") / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": 256}))
    prune(home / "dense", home / "pruned")
    quantize(home / "pruned", home / "packed")
    export_onnx(home / "packed", home / "onnx")
    export_onnx(home / "packed", home / "exact", head="float32", accuracy_level=0)
    return home


def test_the_facts_of_the_file_are_those_of_the_folder(home: Path) -> None:
    expected = describe(home / "packed")
    assert expected.sparsity > 0.1
    for folder in (home / "onnx", home / "exact"):
        facts = describe_onnx(folder)
        assert (facts.architecture, facts.parameters, facts.bits) == (
            expected.architecture,
            expected.parameters,
            expected.bits,
        )
        assert facts.sparsity == pytest.approx(expected.sparsity)
        assert facts.bytes == sum(path.stat().st_size for path in folder.iterdir())


def test_the_exported_file_is_scored_as_the_folder_would_be(home: Path) -> None:
    tokens, prompt = blocks(2, 150), torch.arange(3, 11)  # more than one part a block
    packed, baseline = (TorchScored(load_for_compute(home / name)) for name in ("packed", "dense"))

    def scored(candidate: Scored, name: str, beside: bool) -> tuple[object, ...]:
        return score_models(
            (candidate, 7), (baseline, 9), tokens, prompt=prompt, beside=(packed, 8) if beside else None,
            new_tokens=3, repeats=1,
        )  # fmt: skip

    with_torch = scored(packed, "packed", False)[0]
    exact, _, beside = scored(OnnxScored(home / "exact", 1), "exact", True)
    assert (exact.bytes, beside.bytes, exact.tokens) == (7, 8, 2 * 149)
    for other in (exact, beside):
        assert other.perplexity == pytest.approx(with_torch.perplexity, rel=1e-3)
        assert other.kl == pytest.approx(with_torch.kl, rel=1e-2)
        assert other.agreement == pytest.approx(with_torch.agreement, abs=1e-2)
    rounded = scored(OnnxScored(home / "onnx", 1), "onnx", False)[0]
    assert rounded.kl != with_torch.kl, "what is scored is the file, with its rounded head and activations"
    words = " ".join(f"w{token}" for token in prompt.tolist())
    texts = {sample(model, home / "exact", words) for model in (packed, OnnxScored(home / "exact", 1))}
    assert len(texts) == 1


def stored(store: Store, folder: Path) -> ModelRef:
    with store.draft("models") as draft:
        for path in folder.iterdir():
            (draft.path / path.name).write_bytes(path.read_bytes())
    return describe_model(draft.stored, name="small", licence="")


def test_auto_exports_what_is_packed_and_says_why_it_leaves_the_rest(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIMLINE_HOME", str(tmp_path))
    store = Store(tmp_path / "store")
    packed, shares = stored(store, home / "packed"), list[float]()
    done = exported(packed, "auto", shares.append)
    assert done.model is not None and done.source == packed.digest
    assert (done.model.runtime, done.model.bits, done.choices["head"]) == ("onnx", 4, "int8")
    assert store.manifest(done.model.uri)["made_from"]["model"] == packed.digest
    assert (store.open(done.model.uri, done.model.digest) / "model.onnx").is_file()
    assert shares == [0.5, 1.0]
    elsewhere = Store(tmp_path / "elsewhere" / "store")
    monkeypatch.setenv("SLIMLINE_HOME", str(tmp_path / "elsewhere"))
    again = exported(stored(elsewhere, home / "packed"), "auto", shares.append)
    assert again.model is not None and again.model.digest == done.model.digest, "made again it has the same bytes"
    monkeypatch.setenv("SLIMLINE_HOME", str(tmp_path))
    dense = exported(stored(store, home / "dense"), "auto", shares.append)
    assert dense.model is None and "dense" in dense.reason

    config = home / "packed" / "config.json"
    said = config.read_text()
    config.write_text(said.replace('"silu"', '"gelu"'))
    other = stored(store, home / "packed")
    config.write_text(said)
    left = exported(other, "auto", shares.append)
    assert left.model is None and "activation" in left.reason and "gelu" in left.reason
    config.write_text(said.replace('"pack-quantized"', '"int-quantized"'))
    with pytest.raises(RefusedModel, match="int-quantized"):
        exported(stored(store, home / "packed").model_copy(update={"bits": 8.0}), "onnx", shares.append)
    config.write_text(said)
    with pytest.raises(RefusedModel, match="gelu"):
        exported(other, "onnx", shares.append)


def test_which_folder_is_served(home: Path) -> None:
    def ref(digest: str) -> ModelRef:
        return ModelRef(
            uri=f"models/{digest}", digest=digest, name="m", licence="", architecture="LlamaForCausalLM",
            parameters=1, bytes=1, dtype="float32",
        )  # fmt: skip

    alone = unregistered(ref("packed"))
    both = alone.model_copy(update={"exported": ref("onnx")})

    def digest(version: object, **plan: str) -> str:
        return served(version, ReleasePlan.model_validate(plan)).digest

    assert digest(both) == digest(both, serve="onnx") == "onnx"
    assert digest(both, serve="torch") == digest(both, instance_type="ml.g5.xlarge") == "packed"
    assert digest(both, serve="onnx", instance_type="ml.g5.xlarge") == "onnx"
    assert digest(alone) == "packed"
    with pytest.raises(RefusedRequest, match="no exported folder"):
        digest(alone, serve="onnx")
