"""Versions of compressed models in MLflow's registry, by aliases: ``challenger`` → ``champion`` → ``previous``.

The folder is uploaded as it is, file by file, as the files of an MLflow 3 "logged model" that belongs to the run
(https://mlflow.org/docs/latest/ml/model-registry/); nothing is pickled and nothing needs MLflow to load it. Every
call can be repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from mlflow.entities import LoggedModelOutput
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from tasks.adapters.serving_history import Move, What, moves_on_endpoint, spans, write_move
from tasks.adapters.tracking import markdown
from tasks.contracts import ModelRef, RegisteredModel, Scorecard
from tasks.errors import ArtifactDamaged
from tasks.reader_contracts import ReaderScorecard

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
DIGEST = "slimline.digest"
EXPORTED = "slimline.exported_digest"
EXPORTED_FOLDER = "onnx"  # of the version's files, below the compressed folder's
RESTORED = "slimline.restored"
SERVING_SINCE, SERVING_UNTIL = "slimline.serving_since", "slimline.serving_until"
_TAG_CHARS = 5000


class Registry:
    """The registered models of one MLflow server. Nothing is asked of it before the first call.

    Every alias that moves is written down, with the time of ``clock`` and the Prefect flow run ``run`` (see
    ``serving_history``).
    """

    def __init__(
        self, tracking_uri: str, run: str = "", clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._uri, self._run, self._clock = tracking_uri.rstrip("/"), run, clock
        self._client = MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)

    def register(
        self,
        run_id: str,
        name: str,
        folder: Path,
        model: ModelRef,
        scorecard: Scorecard | ReaderScorecard,
        tags: Mapping[str, str],
        exported: Path | None = None,
    ) -> RegisteredModel:
        """Upload ``folder`` and make it the challenger of ``name``. The same model of the same run is uploaded once.

        ``exported``, the folder of ``scorecard.exported_model``, lies below it as ``onnx``. ``tags`` are added to the
        ones taken from ``model`` and ``scorecard``: recipe, Prefect run, and so on.

        Raises:
            ArtifactDamaged: what MLflow then holds is not the folder. There is no version.
        """
        self._ensure_model(name)
        version = self._find_version(name, run_id, model.digest)
        if version is None:
            every = {**_tags(model, scorecard), **{key: value[:_TAG_CHARS] for key, value in tags.items()}}
            model_id = self._upload(run_id, name, folder, exported, every)
            version = self._client.create_model_version(
                name,
                f"models:/{model_id}",
                run_id=run_id,
                tags=every,
                description=_description(scorecard),
                model_id=model_id,
                await_creation_for=0,  # a database registry has it ready when it answers
            )
        return self._challenging(name, model, scorecard, version)

    def find(self, name: str, model: ModelRef, scorecard: Scorecard | ReaderScorecard) -> RegisteredModel | None:
        """The newest version of the same bytes, proven on the same data against the same baseline, by any run.

        It becomes the challenger unless it is the champion already.
        """
        wanted = {key: value for key, value in _tags(model, scorecard).items() if key.endswith("digest")}
        found = [
            version
            for version in self._client.search_model_versions(f"name = '{name}'")
            if wanted.items() <= version.tags.items() and (EXPORTED in wanted) == (EXPORTED in version.tags)
        ]
        if not found:
            return None
        return self._challenging(name, model, scorecard, max(found, key=lambda version: int(version.version)))

    def _challenging(
        self, name: str, model: ModelRef, scorecard: Scorecard | ReaderScorecard, version: ModelVersion
    ) -> RegisteredModel:
        number = str(version.version)
        alias = CHAMPION if self.champion(name) == number else CHALLENGER
        if alias == CHALLENGER:
            self._give(name, CHALLENGER, number, self._aliases(name))
        return RegisteredModel(
            name=name,
            version=number,
            alias=alias,
            model=model,
            run_id=str(version.run_id),
            url=self.version_url(name, number),
            exported=scorecard.exported_model if isinstance(scorecard, Scorecard) else None,
        )

    def promote(self, name: str, version: str) -> None:
        """Make ``version`` the champion; the earlier champion becomes ``previous``."""
        aliases = self._aliases(name)
        earlier = aliases.get(CHAMPION)
        if earlier != version:
            # previous first: a crash between the two calls then loses nothing, and the repeated call does the rest.
            if earlier is not None:
                self._give(name, PREVIOUS, earlier, aliases)
            self._give(name, CHAMPION, version, aliases)
        if aliases.get(CHALLENGER) == version:
            self._take(name, CHALLENGER, version, "promoted")

    def demote(self, name: str, version: str, reason: str) -> None:
        """Take the challenger alias from ``version`` and write why on it. The champion stays."""
        self.tag(name, version, {RESTORED: reason})
        if self._aliases(name).get(CHALLENGER) == version:
            self._take(name, CHALLENGER, version, reason)

    def take_back(self, name: str, version: str, good: str | None, reason: str) -> None:
        """``version`` served and serves no more: it loses its aliases, and ``good``, where that is registered, is
        champion (again). ``previous`` ends, for there is nothing known to be good before ``good``.
        """
        aliases = self._aliases(name)
        self.tag(name, version, {RESTORED: reason})
        if good is not None:
            self._give(name, CHAMPION, good, aliases, reason)
        for alias, holder in aliases.items():
            gone = alias in (CHAMPION, CHALLENGER) and holder == version and not (alias == CHAMPION and good)
            if gone or (alias == PREVIOUS and holder in (version, good)):
                self._take(name, alias, holder, reason)

    def begin_serving(
        self, name: str, version: str, endpoint: str, config: str, variant: str, before: str, why: str = ""
    ) -> None:
        """Write that ``version`` has all traffic of ``endpoint`` from now on, on it and on the version that had it.
        ``before``: the config that served until now. Written again while it serves, nothing changes.
        """
        earlier = spans(moves_on_endpoint(self._client, endpoint))
        now, at = (earlier[-1] if earlier else None), self._clock()
        if now is not None and (now.name, now.version, now.config) == (name, version, config):
            return
        if now is not None and now.version and (now.name, now.version) != (name, version):
            self._note(now.name, now.version, "serves", False, at, endpoint=endpoint, config=config, why=why)
            self.tag(now.name, now.version, {SERVING_UNTIL: at.isoformat()})
        self._note(
            name, version, "serves", True, at,
            endpoint=endpoint, config=config, variant=variant, before=before, why=why,
        )  # fmt: skip
        where = {
            "slimline.endpoint": endpoint,
            "slimline.endpoint_config": config,
            "slimline.endpoint_variant": variant,
        }
        self.tag(name, version, where | {SERVING_SINCE: at.isoformat(), SERVING_UNTIL: ""})

    def end_serving(self, name: str, version: str, endpoint: str, config: str, why: str) -> None:
        """Write that ``version`` has no traffic of ``endpoint`` any more, and that ``config``, which is of no version
        of the registry, has. Nothing changes where it did not serve.
        """
        earlier = spans(moves_on_endpoint(self._client, endpoint))
        if earlier and (earlier[-1].name, earlier[-1].version) == (name, version):
            at = self._clock()
            self._note(name, version, "serves", False, at, endpoint=endpoint, config=config, why=why)
            self.tag(name, version, {SERVING_UNTIL: at.isoformat()})

    def _give(self, name: str, alias: str, version: str, aliases: Mapping[str, str], why: str = "") -> None:
        if aliases.get(alias) != version:
            self._note(name, version, cast(What, alias), True, self._clock(), why=why)
        self._client.set_registered_model_alias(name, alias, version)

    def _take(self, name: str, alias: str, version: str, why: str) -> None:
        self._note(name, version, cast(What, alias), False, self._clock(), why=why)
        self._client.delete_registered_model_alias(name, alias)

    def _note(self, name: str, version: str, what: What, gained: bool, at: datetime, **more: str) -> None:
        write_move(self._client, Move(at, name, version, what, gained, run=self._run, **more))

    def tag(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        """Set tags on a version, each cut at 5,000 characters."""
        for key, value in tags.items():
            self._client.set_model_version_tag(name, version, key, value[:_TAG_CHARS])

    def champion(self, name: str) -> str | None:
        """The version that is champion, or none (also when nothing is registered under ``name``)."""
        return self.version_by_alias(name, CHAMPION)

    def version_by_alias(self, name: str, alias: str) -> str | None:
        return self._aliases(name).get(alias)

    def has_version(self, name: str, version: str) -> bool:
        """Whether the registry has it. The original that a first release serves is not a version."""
        return version.isdigit() and bool(
            self._client.search_model_versions(f"name = '{name}' and version_number = {version}")
        )

    def version_tags(self, name: str, version: str) -> dict[str, str]:
        return dict(self._client.get_model_version(name, version).tags)

    def version_url(self, name: str, version: str) -> str:
        """The version's page."""
        return f"{self._uri}/#/models/{name}/versions/{version}"

    def _aliases(self, name: str) -> dict[str, str]:
        try:
            registered = self._client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return {}
        return {alias: str(version) for alias, version in registered.aliases.items()}

    def _ensure_model(self, name: str) -> None:
        try:
            self._client.create_registered_model(
                name, description="Compressed by Slimline; a version's run has its lineage."
            )
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _find_version(self, name: str, run_id: str, digest: str) -> ModelVersion | None:
        found = self._client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
        return next((version for version in found if version.tags.get(DIGEST) == digest), None)

    def _upload(self, run_id: str, name: str, folder: Path, exported: Path | None, tags: dict[str, str]) -> str:
        """Upload into a logged model of the run, reusing what an earlier attempt left. Returns its id."""
        experiment = self._client.get_run(run_id).info.experiment_id
        condition = f"source_run_id = '{run_id}' and tags.`{DIGEST}` = '{tags[DIGEST]}'"
        found = self._client.search_logged_models([experiment], condition, max_results=1)
        logged: Any = found[0] if found else None
        if logged is None:
            logged = self._client.create_logged_model(
                experiment, name=name, source_run_id=run_id, tags=tags, model_type="compressed-llm"
            )
        if logged.status != "READY":
            folders = {"": folder} | ({EXPORTED_FOLDER: exported} if exported else {})
            for where, each in folders.items():
                self._client.log_model_artifacts(logged.model_id, str(each), where or None)
            self._check_upload(logged.model_id, folders)
            self._client.finalize_logged_model(logged.model_id, "READY")
            self._client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
        return str(logged.model_id)

    def _check_upload(self, model_id: str, folders: Mapping[str, Path]) -> None:
        """Compare names and sizes: MLflow says nothing when the folder it is to upload is not there."""
        there: dict[str, int] = {}
        levels = [""]
        while levels:
            for entry in self._client.list_logged_model_artifacts(model_id, levels.pop() or None):
                if entry.is_dir:
                    levels.append(entry.path)
                else:
                    there[entry.path] = entry.file_size or 0
        here = {
            (Path(where) / path.relative_to(folder)).as_posix(): path.stat().st_size
            for where, folder in folders.items()
            for path in folder.rglob("*")
            if path.is_file()
        }
        if not here or here != there:
            raise ArtifactDamaged(
                "the model folder did not arrive in MLflow as it is here",
                observed=f"{len(there)} files, {sum(there.values())} bytes",
                limit=f"{len(here)} files, {sum(here.values())} bytes, and at least 1",
                remedy=f"look at {folders['']} and at the MLflow server's log, then run again",
            )


def _description(scorecard: Scorecard | ReaderScorecard) -> str:
    return scorecard.markdown() if isinstance(scorecard, ReaderScorecard) else markdown(scorecard)


def _quality(scorecard: Scorecard | ReaderScorecard) -> dict[str, str]:
    if isinstance(scorecard, ReaderScorecard):
        score = scorecard.candidate
        return {"slimline.exact_match": f"{score.exact_match:.4f}", "slimline.f1": f"{score.f1:.4f}"}
    exported, packed = scorecard.exported_model, scorecard.packed
    found = {
        "slimline.perplexity": f"{scorecard.candidate.perplexity:.4f}",
        "slimline.agreement": f"{scorecard.candidate.agreement:.4f}",
        "slimline.decode_speedup": f"{scorecard.decode_speedup:.2f}",
        "slimline.served_with": scorecard.served_model.runtime,
    }
    if exported is not None:
        found |= {EXPORTED: exported.digest, "slimline.exported_bytes": str(exported.bytes)}
    if packed is not None:
        found |= {
            "slimline.compressed_perplexity": f"{packed.perplexity:.4f}",
            "slimline.compressed_agreement": f"{packed.agreement:.4f}",
        }
    return found


def _tags(model: ModelRef, scorecard: Scorecard | ReaderScorecard) -> dict[str, str]:
    return _quality(scorecard) | {
        DIGEST: model.digest,
        "slimline.baseline_digest": scorecard.baseline_model.digest,
        "slimline.dataset_digest": scorecard.dataset_digest,
        "slimline.architecture": model.architecture,
        "slimline.licence": model.licence,
        "slimline.bytes": str(model.bytes),
        "slimline.bits": f"{model.bits:g}",
        "slimline.sparsity": f"{model.sparsity:.3f}",
        "slimline.gate": "passed" if scorecard.passed else "failed",
    }
