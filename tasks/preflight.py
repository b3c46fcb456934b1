"""Refuse what cannot work before any work starts: nothing is downloaded, computed or created here."""

from __future__ import annotations

from pathlib import Path

from tasks import pricing
from tasks.adapters.mlflow_health import reachable
from tasks.adapters.sources import check_source
from tasks.adapters.store import Store
from tasks.caching import StageKey
from tasks.cloud import sagemaker
from tasks.contracts import ModelRef
from tasks.engine_checks import check_engines, check_engines_fit
from tasks.errors import RefusedRecipe, SlimlineError
from tasks.plans import ReleasePlan
from tasks.preflight_serving import check_target
from tasks.recipes import DataChoice, ModelChoice, QuantizeRecipe, Recipe
from tasks.retrying import compute_task, network_task
from tasks.settings import settings
from tasks.text_sources import check_source_of

_FIT = ("tasks.preflight", "tasks.engine_checks", "tasks.adapters.engine_kinds")
_NOT_EXPORTED = ("smoothquant", "fp8", "float16", "bfloat16")


class MlflowUnreachable(SlimlineError):
    """Worth another try: a server may be starting."""

    transient = True


@network_task("preflight-{recipe.name}")
def preflight(model: ModelChoice, data: DataChoice, recipe: Recipe, release: ReleasePlan | None = None) -> None:
    """Check model, text, recipe and release plan.

    Raises:
        Refused: with what was seen, what is allowed, and what to change.
    """
    check_source(model.source)
    check_source_of(data)
    check_recipe(recipe)
    pricing.check_prices()
    if release is not None:
        check_served(recipe, release)
        check_target(recipe, release)
    require_mlflow()
    if release is not None:
        sagemaker().check_plan(release)
        pricing.report_planned(release)


def require_mlflow() -> None:
    """Stop here unless MLflow answers.

    Raises:
        MlflowUnreachable: it does not.
    """
    if not reachable(settings().mlflow_url):
        raise MlflowUnreachable(
            "MLflow does not answer, and a run without lineage is not worth its time",
            observed=f"no answer from {settings().mlflow_url}",
            limit="an answer within 3 s",
            remedy="start it (`slimline up`) or set SLIMLINE_MLFLOW_URL",
        )


# Cached: shapes and rules say the same of the same model; its weights need not be looked at again
@compute_task("fit-{recipe.name}", cache_policy=StageKey(stage="fit", modules=_FIT))
def check_fit(recipe: Recipe, model: ModelRef) -> None:
    """Check the recipe against the model's architecture and shapes, from its headers alone.

    Raises:
        Refused: an architecture that the engine does not know or cannot do this to, or that cannot be exported where
            that is asked for, or a group size or pattern that does not divide a layer's columns.
    """
    from tasks.compression.checks import check_mean_bits, check_zeros
    from tasks.compression.checks import check_recipe as check_shapes
    from tasks.compression.conversion import check_shapes as check_layout

    check_engines_fit(recipe, model)
    folder = Store(settings().store).open(model.uri, model.digest)
    check_architecture(recipe, folder)
    prune, prunes = recipe.prune, "prune" in recipe.order
    columns_of, group_size = None, recipe.quantize.columns_a_scale or None if "quantize" in recipe.order else None
    if prunes and prune.method == "structured":
        from tasks.compression.structured import check_shares  # imports transformers' models: seconds

        check_shares(folder, prune.heads, prune.channels, prune.blocks, group_size)
    elif prunes:
        zeros = check_zeros(prune.sparsity, prune.pattern)
        columns_of = None if isinstance(zeros, float) else zeros.of
    if recipe.cpu_export == "onnx":
        from tasks.compression.onnx_support import check_exportable  # imports transformers

        check_exportable(folder)
    check_shapes(
        folder,
        prune=prunes,
        columns_of=columns_of,
        group_size=group_size,
    )
    if "quantize" in recipe.order and recipe.quantize.layout:
        check_layout(folder, recipe.quantize.layout)
    if "quantize" in recipe.order and recipe.quantize.mean_bits:
        check_mean_bits(folder, recipe.quantize.mean_bits, recipe.quantize.group_size)


def check_served(recipe: Recipe, release: ReleasePlan) -> None:
    """Refuse a release of an exported folder that the recipe does not make."""
    if release.serve == "onnx" and not recipe.exports:
        raise RefusedRecipe(
            "the release serves an exported folder and the recipe makes none",
            observed=f"plan.serve = onnx, recipe.cpu_export = {recipe.cpu_export}, {' → '.join(recipe.order)}",
            limit="a quantized model with recipe.cpu_export auto or onnx",
            remedy="set plan.serve to auto or torch, or recipe.cpu_export to onnx",
        )


def check_architecture(recipe: Recipe, folder: Path) -> None:
    """What this line of stages cannot do to the model in ``folder``, by the name of its architecture.

    Raises:
        Refused: an encoder, or quantization of layers that have no packed form.
    """
    from tasks.compression.checkpoint import Checkpoint
    from tasks.compression.limits import check_language_model, check_packable

    check_language_model(folder)
    if "quantize" in recipe.order and recipe.quantize.integers:
        check_packable(Checkpoint(folder))


def check_recipe(recipe: Recipe) -> None:
    """The rules that a form cannot hold."""
    order = recipe.order
    if not order:
        raise RefusedRecipe(
            "the recipe has no stages",
            observed="order = []",
            limit="at least one of prune, quantize, distill",
            remedy="name the stages in recipe.order",
        )
    repeated = sorted({stage for stage in order if order.count(stage) > 1})
    if repeated:
        raise RefusedRecipe(
            "the recipe names a stage twice",
            observed=", ".join(order),
            limit="each stage at most once",
            remedy=f"remove one of: {', '.join(repeated)}",
        )
    if "prune" in order and "quantize" in order and order.index("prune") > order.index("quantize"):
        raise RefusedRecipe(
            "pruning after quantization would move the remaining weights off their integer grid",
            observed=" → ".join(order),
            limit="prune before quantize",
            remedy="put prune first in recipe.order",
        )
    if "quantize" in order:
        _check_format(recipe.quantize)
    if recipe.cpu_export == "onnx" and "quantize" in order and recipe.quantize.method in _NOT_EXPORTED:
        raise RefusedRecipe(
            "this method's weights are not carried over to ONNX",
            observed=f"recipe.cpu_export = onnx with method {recipe.quantize.method}",
            limit="methods gptq, rtn, w8a8 and awq",
            remedy="set recipe.cpu_export to auto or none",
        )
    by_layer = "prune" in order and recipe.prune.allocation == "sensitivity"
    if by_layer and (recipe.prune.method == "structured" or recipe.prune.pattern != "unstructured"):
        raise RefusedRecipe(
            "only single weights can be pruned by a share of each layer's own",
            observed=f"allocation sensitivity, method {recipe.prune.method}, pattern {recipe.prune.pattern}",
            limit="methods sparsegpt, wanda and magnitude with pattern unstructured",
            remedy="set recipe.prune.allocation to uniform, or choose one of those",
        )
    if "distill" in order and recipe.distill.hidden_weight and recipe.distill.cached_top_k:
        raise RefusedRecipe(
            "a teacher's answers that are kept on disk hold no hidden states",
            observed=f"hidden_weight {recipe.distill.hidden_weight:g}, cached_top_k {recipe.distill.cached_top_k}",
            limit="one of the two",
            remedy="set recipe.distill.hidden_weight or recipe.distill.cached_top_k to 0",
        )
    if order == ("distill",):
        raise RefusedRecipe(
            "distillation alone would teach the original from itself",
            observed="distill",
            limit="prune or quantize before it",
            remedy="add prune or quantize to recipe.order",
        )
    check_engines(recipe)


def _check_format(recipe: QuantizeRecipe) -> None:
    """Refuse what could be written but not be loaded again."""
    if recipe.format == "compressed-tensors" and recipe.method in ("gptq", "rtn") and not recipe.symmetric:
        # transformers builds the packed layout on the meta device, where compressed-tensors 0.20 leaves zero points
        # unpacked, so from_pretrained raises on their shape; only CompressedTensorsConfig(dequantize=True) loads them.
        raise RefusedRecipe(
            "plain transformers does not load compressed-tensors folders with zero points",
            observed="symmetric = False with format = compressed-tensors",
            limit="symmetric grids in this format, with compressed-tensors 0.20 and transformers 5.23",
            remedy="set recipe.quantize.format to gptq, or symmetric to True",
        )
    if recipe.format != "compressed-tensors" and recipe.method not in ("gptq", "rtn"):
        raise RefusedRecipe(
            "the GPTQ format holds weights as integers and nothing else",
            observed=f"method = {recipe.method} with format = {recipe.format}",
            limit="methods gptq and rtn",
            remedy="set recipe.quantize.format to compressed-tensors",
        )
    if recipe.mean_bits and (recipe.method not in ("gptq", "rtn") or recipe.format != "compressed-tensors"):
        raise RefusedRecipe(
            "bits by layer are written as compressed-tensors integers only",
            observed=f"mean_bits {recipe.mean_bits:g}, method {recipe.method}, format {recipe.format}",
            limit="methods gptq and rtn with format compressed-tensors",
            remedy="set recipe.quantize.mean_bits to 0, or choose one of those",
        )
    if recipe.method not in ("gptq", "rtn") and not recipe.symmetric:
        raise RefusedRecipe(
            f"{recipe.method} has no zero points",
            observed="symmetric = False",
            limit="methods gptq and rtn",
            remedy="set recipe.quantize.symmetric to True",
        )
