"""Model sources: accepted, refused before any work, and never imported twice."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlparse

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tasks.adapters.model_folder import check_folder
from tasks.adapters.sources import check_source, import_model
from tasks.adapters.store import Store
from tasks.errors import RefusedModel

NOWHERE = Path("/nonexistent/downloads")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = Store(tmp_path_factory.mktemp("store"))
    imported = import_model("tiny", store, NOWHERE)
    return store.open(imported.stored.uri, imported.stored.digest)


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A user's own copy, with the things that training leaves beside a model."""
    path = tmp_path / "my-model"
    shutil.copytree(made, path, ignore=shutil.ignore_patterns("manifest.json", "SOURCE.json"))
    (path / "optimizer.pt").write_bytes(b"\x80\x04pickle")
    (path / "pytorch_model.bin").write_bytes(b"\x80\x04pickle")
    (path / "modeling_mine.py").write_text("raise SystemExit('code of a model folder was run')")
    (path / "README.md").write_text("---\nlanguage: en\nlicense: mit\n---\n# Mine\n")
    return path


def _edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("source", ["smollm3", "gpt-2", "./nowhere", "/nowhere/at/all", "~/nope", "a/b/c", "org/", ""])
def test_unknown_sources_are_refused_with_the_known_ones(source: str) -> None:
    with pytest.raises(RefusedModel, match=r"smollm2-135m-instruct, tiny, a local Hugging Face folder, or a hub id"):
        check_source(source)


@pytest.mark.parametrize("source", ["smollm2-135m-instruct", "tiny", "org/name", "Org-1/name.v2_x"])
def test_names_and_hub_ids_pass_the_cheap_check(source: str) -> None:
    check_source(source)


def test_a_local_folder_is_copied_without_pickles_and_code(folder: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    imported = import_model(str(folder), store, NOWHERE)
    assert (imported.name, imported.licence) == ("my-model", "mit")
    stored = store.open(imported.stored.uri, imported.stored.digest)
    names = {path.name for path in stored.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "SOURCE.json"} <= names
    assert not names & {"optimizer.pt", "pytorch_model.bin", "modeling_mine.py"}
    facts = check_folder(stored)
    weights = load_file(stored / "model.safetensors")
    assert facts.parameters == sum(weight.size for weight in weights.values())


def test_the_same_model_elsewhere_is_the_same_artifact(folder: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    first = import_model(str(folder), store, NOWHERE)
    moved = shutil.copytree(folder, tmp_path / "another name")
    assert import_model(str(moved), store, NOWHERE).stored == first.stored


def test_a_second_import_writes_nothing(folder: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    first = import_model(str(folder), store, NOWHERE)
    # A file where drafts would be written: whoever begins one fails.
    (store.root / "staging").rmdir()
    (store.root / "staging").touch()
    assert import_model(str(folder), store, NOWHERE) == first


def test_a_damaged_import_is_made_again(folder: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    first = import_model(str(folder), store, NOWHERE)
    (store.root / first.stored.uri / "tokenizer.json").write_text("{}")
    assert import_model(str(folder), store, NOWHERE) == first
    assert store.holds(first.stored.uri, first.stored.digest)


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def _own_code(folder: Path) -> None:
    _edit(folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling_mine.Mine"})


def _own_tokenizer_code(folder: Path) -> None:
    _edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_mine.Mine", None]})


def _quantized(folder: Path) -> None:
    _edit(folder / "config.json", quantization_config={"quant_method": "gptq"})


def _only_pickles(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _cut_shard(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-100])


def _adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")


def _index_outside(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../secret.safetensors"}}')


def _index_incomplete(folder: Path) -> None:
    index = {"weight_map": {"model.layers.9.mlp.up_proj.weight": "model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_no_config, "config.json is missing"),
        (_no_tokenizer, "tokenizer.json is missing"),
        (_own_code, "auto_map in config.json"),
        (_own_tokenizer_code, "auto_map in tokenizer_config.json"),
        (_quantized, "quantization_config is set"),
        (_only_pickles, "there is pytorch_model.bin"),
        (_cut_shard, "a whole safetensors file"),
        (_adapter, "merge the adapter"),
        (_index_outside, "points to ../../secret.safetensors"),
        (_index_incomplete, "1 tensors missing"),
        (_broken_config, "config.json: "),
    ],
)
def test_folders_that_cannot_be_used_are_refused_before_any_work(
    folder: Path, tmp_path: Path, damage: Any, says: str
) -> None:
    damage(folder)
    with pytest.raises(RefusedModel, match=says):
        check_source(str(folder))
    with pytest.raises(RefusedModel, match=says):
        import_model(str(folder), Store(tmp_path / "store"), NOWHERE)
    assert not (tmp_path / "store").exists()


def test_sharded_weights_are_read_through_their_index(folder: Path, tmp_path: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    shards = {f"model-0000{part + 1}-of-00002.safetensors": names[part::2] for part in range(2)}
    for shard, members in shards.items():
        save_file({name: weights[name].astype(np.float16) for name in members}, folder / shard, {"format": "pt"})
    where = {name: shard for shard, members in shards.items() for name in members}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    (folder / "model.safetensors").unlink()
    store = Store(tmp_path / "store")
    imported = import_model(str(folder), store, NOWHERE)
    facts = check_folder(store.open(imported.stored.uri, imported.stored.digest))
    assert facts.dtype == "float16"
    assert facts.parameters == sum(weight.size for weight in weights.values())


class _Hub(BaseHTTPRequestHandler):
    """The few answers of a model hub that a download needs, for one repository."""

    folder: Path
    commit = "1" * 40

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urlparse(self.path).path
        if path.startswith("/api/models/org/name/tree/"):
            self._answer(json.dumps([self._entry(file) for file in sorted(self.folder.iterdir())]).encode())
        elif path.startswith("/api/models/org/name"):
            self._answer(json.dumps({"id": "org/name", "sha": self.commit, "siblings": []}).encode())
        elif path.startswith("/org/name/resolve/"):
            self._answer((self.folder / path.rsplit("/", 1)[1]).read_bytes())
        else:
            self._answer(b'{"error": "Repository not found"}', 404)

    def _entry(self, file: Path) -> dict[str, Any]:
        oid = hashlib.sha1(file.read_bytes()).hexdigest()
        return {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": oid}

    def _answer(self, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", self.commit)
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def hub(folder: Path) -> Iterator[str]:
    """A hub on loopback, spoken to by the real huggingface_hub."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Hub", (_Hub,), {"folder": folder}))
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_hub_id_brings_only_the_models_files(hub: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    imported = import_model("org/name", store, tmp_path / "downloads", hub)
    assert (imported.name, imported.licence) == ("org/name", "mit")
    assert "commit 1111" in imported.note
    stored = store.open(imported.stored.uri, imported.stored.digest)
    assert not {"optimizer.pt", "pytorch_model.bin", "modeling_mine.py"} & {path.name for path in stored.iterdir()}
    assert not any(path.suffix in {".pt", ".bin", ".py"} for path in (tmp_path / "downloads").rglob("*"))


def test_a_hub_id_that_the_hub_lacks_is_refused(hub: str, tmp_path: Path) -> None:
    with pytest.raises(RefusedModel, match="the hub does not know it"):
        import_model("org/other", Store(tmp_path / "store"), tmp_path / "downloads", hub)


def test_an_unreachable_hub_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RefusedModel, match="the hub cannot be reached") as caught:
        import_model("org/name", Store(tmp_path / "store"), tmp_path / "downloads", "http://127.0.0.1:9")
    assert "copy the model's folder here" in caught.value.remedy
