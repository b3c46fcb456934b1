"""Hub data sets: from a copy, from a hub on loopback that the real huggingface_hub speaks to, and from its cache."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlparse

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.adapters.documents import Reading
from tasks.adapters.hub_data import HubPlaces, hub_name, read_hub
from tasks.adapters.hub_layout import files_of, front_matter, licence_of
from tasks.adapters.texts import Text
from tasks.errors import RefusedData

COMMIT = "2" * 40
DOLLY = [
    {"instruction": "Why is the sky blue?", "context": "", "response": "Because of Rayleigh.", "category": "open_qa"},
    {"instruction": "Sum up.", "context": "A long text.", "response": "Short.", "category": "summarization"},
]
ROWS = [
    " = Bears = \n",
    "",
    " Bears are big . \n",
    " = = Food = = \n",
    " Honey . \n",
    " = Owls = \n",
    " Owls hoot . \n",
]
C4_CARD = """---
license: odc-by
configs:
- config_name: en
  data_files:
  - {split: train, path: en/c4-train.*.json.gz}
  - {split: validation, path: en/c4-validation.*.json.gz}
- config_name: de
  data_files: multilingual/c4-de.*.json.gz
---
# C4
"""


def write_copies(root: Path) -> Path:
    """Three data sets as the hub lays them out, small."""
    dolly = root / "databricks" / "databricks-dolly-15k"
    dolly.mkdir(parents=True)
    (dolly / "README.md").write_text("---\nlicense: cc-by-sa-3.0\nlanguage: [en]\n---\n# Dolly\n")
    (dolly / "databricks-dolly-15k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in DOLLY))
    wiki = root / "Salesforce" / "wikitext"
    for config in ("wikitext-2-raw-v1", "wikitext-103-raw-v1"):
        (wiki / config).mkdir(parents=True)
        for split in ("train", "test"):
            rows = pa.Table.from_pylist([{"text": f"{row.strip()} {split}" if "." in row else row} for row in ROWS])
            pq.write_table(rows, wiki / config / f"{split}-00000-of-00001.parquet")
    entries = "".join(
        f"- config_name: {config}\n  data_files:\n"
        + "".join(f"  - {{split: {split}, path: {config}/{split}-*}}\n" for split in ("train", "test"))
        for config in ("wikitext-103-raw-v1", "wikitext-2-raw-v1")
    )
    (wiki / "README.md").write_text(f"---\nlicense: [cc-by-sa-3.0, gfdl]\nconfigs:\n{entries}---\n")
    c4 = root / "allenai" / "c4"
    (c4 / "en").mkdir(parents=True)
    (c4 / "README.md").write_text(C4_CARD)
    for shard in range(3):
        lines = "".join(json.dumps({"text": f"Page {shard} {row}.", "url": "u"}) + "\n" for row in range(4))
        (c4 / "en" / f"c4-train.0000{shard}-of-00003.json.gz").write_bytes(gzip.compress(lines.encode()))
    return root


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    return write_copies(tmp_path / "copies")


def read(source: str, places: HubPlaces, split: str = "train", most: int = 100, **reading: Any) -> Text:
    name = hub_name(source)
    assert name is not None
    return read_hub(name, split, places, Reading(**reading), most)


def test_dolly_is_a_chat_of_two_turns(copies: Path, tmp_path: Path) -> None:
    text = read("databricks/databricks-dolly-15k", HubPlaces(tmp_path, copies))
    assert text.chat and text.licence == "cc-by-sa-3.0"
    assert [json.loads(document)[0]["content"] for document in text.documents] == [
        "Why is the sky blue?", "Sum up.\n\nA long text.",
    ]  # fmt: skip
    plain = read("databricks/databricks-dolly-15k", HubPlaces(tmp_path, copies), shape="template", fields="{response}")
    assert plain.documents == ("Because of Rayleigh.", "Short.") and not plain.chat


def test_wikitext_rows_are_put_together_to_articles(copies: Path, tmp_path: Path) -> None:
    text = read("Salesforce/wikitext", HubPlaces(tmp_path, copies), "test")
    assert text.documents == (
        "= Bears =\nBears are big . test\n= = Food = =\nHoney . test", "= Owls =\nOwls hoot . test",
    )  # fmt: skip
    assert text.unit == "an article"
    assert (text.name, text.licence) == ("Salesforce/wikitext:wikitext-2-raw-v1 (test)", "cc-by-sa-3.0, gfdl")
    assert len(read("Salesforce/wikitext", HubPlaces(tmp_path, copies), "test", shape="field").documents) == 6
    with pytest.raises(RefusedData, match="put together from them"):
        read("Salesforce/wikitext", HubPlaces(tmp_path, copies), "test", label="topic")


def test_only_as_many_shards_as_it_takes_are_read(copies: Path, tmp_path: Path) -> None:
    (copies / "allenai" / "c4" / "en" / "c4-train.00002-of-00003.json.gz").write_bytes(b"never looked at")
    text = read("allenai/c4", HubPlaces(tmp_path, copies), most=6)
    assert text.documents == tuple(
        f"Page {shard} {row}." for shard, row in [*((0, n) for n in range(4)), (1, 0), (1, 1)]
    )
    assert text.cut
    with pytest.raises(RefusedData, match=r"allenai/c4/en/c4-train.00002-of-00003.json.gz cannot be read"):
        read("allenai/c4", HubPlaces(tmp_path, copies))


@pytest.mark.parametrize(
    ("source", "split", "says"),
    [
        ("allenai/c4:fr", "train", r"configuration 'fr'\n.*one of \['en', 'de'\]"),
        ("allenai/c4:en", "test", r"split 'test'\n.*one of \['train', 'validation'\]"),
        ("allenai/c4:en", "validation", "no file here matches"),
        ("databricks/databricks-dolly-15k", "test", "tell no splits apart"),
        ("databricks/databricks-dolly-15k@v1.0", "train", "copy in .* is of an unknown one"),
    ],
)
def test_what_a_copy_lacks_is_refused_with_what_it_has(
    copies: Path, tmp_path: Path, source: str, split: str, says: str
) -> None:
    with pytest.raises(RefusedData, match=says):
        read(source, HubPlaces(tmp_path, copies), split)


def test_a_copy_that_huggingface_hub_made_knows_its_commit(copies: Path, tmp_path: Path) -> None:
    folder = copies / "databricks" / "databricks-dolly-15k"
    notes = folder / ".cache" / "huggingface" / "download"
    notes.mkdir(parents=True)
    (notes / "README.md.metadata").write_text(f"{COMMIT}\netag\n1.0\n")
    assert read(f"databricks/databricks-dolly-15k@{COMMIT}", HubPlaces(tmp_path, copies)).revision == COMMIT


class _Hub(BaseHTTPRequestHandler):
    """The few answers of a hub that reading a data set needs."""

    root: Path
    asked: list[str]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        self.asked.append(path)
        for folder in (found.parent for found in self.root.rglob("README.md")):
            repository = folder.relative_to(self.root).as_posix()
            if path.startswith(f"/api/datasets/{repository}"):
                rest = path.removeprefix(f"/api/datasets/{repository}")
                if rest not in ("", "/revision/main", f"/revision/{COMMIT}"):
                    self._answer(b'{"error": "Invalid rev id"}', 404, "RevisionNotFound")
                    return
                files = [{"rfilename": file.relative_to(folder).as_posix()} for file in folder.rglob("*.*")]
                self._answer(json.dumps({"id": repository, "sha": COMMIT, "siblings": files}).encode())
                return
            if path.startswith(f"/datasets/{repository}/resolve/{COMMIT}/"):
                self._answer((folder / path.split(f"/resolve/{COMMIT}/")[1]).read_bytes())
                return
        gated = "org/gated" in path
        self._answer(b'{"error": "no"}', 403 if gated else 404, "GatedRepo" if gated else "RepoNotFound")

    def _answer(self, body: bytes, status: int = 200, code: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def hub(copies: Path) -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Hub", (_Hub,), {"root": copies, "asked": asked}))
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_hub_and_a_copy_give_the_same_text(hub: tuple[str, list[str]], copies: Path, tmp_path: Path) -> None:
    address, asked = hub
    online = HubPlaces(tmp_path / "downloads", address=address)
    for source in ("databricks/databricks-dolly-15k", "Salesforce/wikitext", "allenai/c4@main"):
        text = read(source, online, most=6)
        assert text.revision == COMMIT
        assert text.digest == read(source.split("@")[0], HubPlaces(tmp_path, copies), most=6).digest
    assert not any("c4-train.00002" in path for path in asked), "a shard that it does not take was fetched"


def test_what_was_fetched_once_is_read_without_the_hub(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    address, asked = hub
    source = "databricks/databricks-dolly-15k"
    text = read(source, HubPlaces(tmp_path / "downloads", address=address))
    nowhere = HubPlaces(tmp_path / "other", caches=(tmp_path / "downloads" / "hub",), address="http://127.0.0.1:9")
    assert read(source, nowhere) == text
    asked.clear()
    pinned = HubPlaces(tmp_path / "downloads", address=address)
    assert read(f"{source}@{COMMIT}", pinned).digest == text.digest
    assert asked == [], "a pinned commit that is in the cache needs no question"


@pytest.mark.parametrize(
    ("source", "says", "remedy"),
    [
        ("org/unknown", "the hub does not know it", "SLIMLINE_DATASETS"),
        ("org/gated", "behind a form or a token", "HF_TOKEN"),
        ("allenai/c4:en@v9", "no revision 'v9'", "leave @revision out"),
    ],
)
def test_what_the_hub_says_no_to_is_refused(
    hub: tuple[str, list[str]], tmp_path: Path, source: str, says: str, remedy: str
) -> None:
    with pytest.raises(RefusedData, match=says) as refused:
        read(source, HubPlaces(tmp_path, address=hub[0]))
    assert remedy in refused.value.remedy


def test_an_unreachable_hub_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RefusedData, match="the hub cannot be reached") as refused:
        read("org/name", HubPlaces(tmp_path, address="http://127.0.0.1:9"))
    assert "SLIMLINE_DATASETS" in refused.value.remedy


@pytest.mark.parametrize(
    "source",
    [
        "name",
        "a/b/c",
        "org/name:",
        "org/name@",
        "org/name:a b",
        "/org/name",
        "org/na me",
        "org/name@../../../x",
        "org/name@/x",
    ],
)
def test_what_is_no_hub_name(source: str) -> None:
    assert hub_name(source) is None


@pytest.mark.parametrize(
    ("card", "files", "config", "split", "found"),
    [
        ({}, ["a.csv", "b.csv", "README.md"], "", "train", ["a.csv", "b.csv"]),
        ({}, ["data/train-0.parquet", "data/dev.parquet"], "", "validation", ["data/dev.parquet"]),
        ({}, ["en/test/0.parquet", "de/test/0.parquet"], "de", "test", ["de/test/0.parquet"]),
        ({}, ["a.jsonl", "a.parquet", "b.parquet"], "", "train", ["a.parquet", "b.parquet"]),
        ({"configs": [{"config_name": "x", "data_dir": "x"}]}, ["x/a.json", "y/a.json"], "x", "train", ["x/a.json"]),
        ({"configs": [{"data_files": {"train": "**/t*.csv"}}]}, ["a/b/t1.csv", "a/u.csv"], "", "train", ["a/b/t1.csv"]),
        ({"configs": [{"data_files": ["t?.csv"]}]}, ["t1.csv", "t22.csv", "a/t1.csv"], "", "train", ["t1.csv"]),
    ],
)
def test_files_are_chosen_as_the_datasets_library_does(
    card: dict[str, Any], files: list[str], config: str, split: str, found: list[str]
) -> None:
    assert files_of("org/name", card, files, config, split) == found


def test_a_loading_script_is_never_run() -> None:
    with pytest.raises(RefusedData, match="a loading script, which is never run") as refused:
        files_of("org/name", {}, ["name.py", "README.md"], "", "train")
    assert "refs/convert/parquet" in refused.value.remedy


def test_a_broken_card_says_nothing() -> None:
    assert front_matter("---\n: [\n---\n") == front_matter("# no card") == {}
    assert licence_of({}) == "not stated"
