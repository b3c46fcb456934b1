"""The passes where a GPU is: the same mathematics, on a device that is not the host's memory (``pretend``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tasks.compression import kernels, plain_kernels
from tasks.compression.budget import prune_by_sensitivity
from tasks.compression.device import compute_device
from tasks.compression.distillation import distill_folder
from tasks.compression.layerwise import prune_folder, quantize_folder
from tasks.compression.loading import load_for_compute
from tasks.compression.packing import Packing
from tasks.compression.pruning import Pattern, sparsegpt
from tasks.compression.quantization import gptq
from tasks.compression.scoring import TorchScored
from tasks.compression.slimming import slim_folder
from tests.compression.conftest import correlated, random_weight
from tests.compression.pretend import PRETEND, REAL, OnDevice, no_device, pretend_device
from tests.compression.small import blocks

Pass = Callable[[Path, Path], Any]
TOKENS = blocks(6)
GRID: dict[str, Any] = {"group_size": 32, "damping": 0.01}


def prune(**recipe: Any) -> Pass:
    return lambda source, out: list(prune_folder(source, out, TOKENS, **({"sparsity": 0.4} | recipe)))


def quantize(**recipe: Any) -> Pass:
    return lambda source, out: list(quantize_folder(source, out, TOKENS, **(GRID | {"bits": 4} | recipe)))


def both(source: Path, out: Path) -> Any:
    """The second from the statistics that the first has kept."""
    between = out.with_name(f"{out.name}-between")
    prune(method="sparsegpt", keep_statistics=True)(source, between)
    return quantize(method="gptq")(between, out)


def distill(student: Pass, **recipe: Any) -> Pass:
    wanted = {"epochs": 1, "batch_blocks": 2, "learning_rate": 1e-3, "temperature": 2.0, "hard_share": 0.1, "seed": 0}

    def work(source: Path, out: Path) -> Any:
        between = out.with_name(f"{out.name}-between")
        student(source, between)
        return list(distill_folder(between, source, out, TOKENS, **(wanted | recipe)))

    return work


PASSES: dict[str, Pass] = {
    "wanda": prune(method="wanda"),
    "sparsegpt 2:4": prune(method="sparsegpt", pattern="2:4"),
    "gptq asymmetric": quantize(method="gptq", symmetric=False),
    "kept statistics": both,
    "structured": lambda source, out: list(
        slim_folder(source, out, TOKENS, heads=0.5, channels=0.25, blocks=0.5)
    ),
    "shares by layer": lambda source, out: list(
        prune_by_sensitivity(source, out, TOKENS, method="sparsegpt", sparsity=0.4)
    ),
    "distil dense": distill(prune(method="magnitude"), hidden_weight=0.5),
    "distil packed": distill(quantize(method="rtn")),
    "distil from kept answers": distill(quantize(method="rtn"), cached_top_k=8),
}  # fmt: skip


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with pretend_device(monkeypatch):
        yield


@pytest.fixture(scope="module")
def on_host(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """What each pass makes without a device."""

    def made(name: str) -> Path:
        out = tmp_path_factory.mktemp("host") / "out"
        PASSES[name](llama, out)
        return out

    return made


def tensors(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("name", PASSES)
def test_a_pass_on_the_device_makes_what_the_host_makes(
    name: str, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_host: Callable[[str], Path]
) -> None:
    with pretend_device(monkeypatch):
        assert compute_device() == PRETEND
        PASSES[name](llama, tmp_path / "out")
    with no_device(monkeypatch):
        host = on_host(name)
    assert tensors(tmp_path / "out").keys() == tensors(host).keys()
    with torch.no_grad():
        made, wanted = (load_for_compute(out)(blocks(3, seed=9)).logits for out in (tmp_path / "out", host))
    # Attention is computed in another order, so single codes and cuts may differ.
    assert float((made - wanted).square().mean() / wanted.square().mean()) < 0.02


def test_logits_on_the_device_are_those_of_the_host(llama: Path, on_device: None) -> None:
    there, here = (
        torch.cat([part.to("cpu") for part in TorchScored(load_for_compute(llama, place)).logits(TOKENS[0])])
        for place in (PRETEND, torch.device("cpu"))
    )
    torch.testing.assert_close(there, here, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(REAL, reason="a real device is here")
def test_the_device_does_not_mix_with_the_host(on_device: None) -> None:
    """Else these tests prove nothing."""
    there = torch.ones(2, 2).to(PRETEND)
    assert isinstance(there, OnDevice) and torch.equal((there @ there).to("cpu"), torch.full((2, 2), 2.0))
    with pytest.raises(RuntimeError, match="on the device and on the CPU"):
        there + torch.ones(2, 2)
    with pytest.raises(RuntimeError, match="numpy"):
        there.numpy()


@pytest.mark.parametrize("what", ["gptq", "gptq 2 bits, left to right", "sparsegpt", "sparsegpt 2:4"])
def test_a_column_at_a_time_gives_the_bits_of_the_compiled_loops(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, statistics = random_weight(48, 192), correlated(192)
    weight[:, ::7] = 0.0

    def work() -> Tensor:
        if what.startswith("sparsegpt"):
            return sparsegpt(weight, statistics.factor(0.01), Pattern.parse("2:4") if "2:4" in what else 0.5)
        factor = statistics.factor(0.01, largest_first=what == "gptq")
        packing = Packing(4 if what == "gptq" else 2, 64, True)
        return gptq(weight, factor, packing, statistics.gram.diagonal()).dequantize()

    compiled, calls = work(), []

    def plainly(kernel: Any, split: Any, whole: Any) -> None:
        calls.append(kernel)
        getattr(plain_kernels, kernel.__name__.removeprefix("_"))(*split, *whole)

    for module in ("tasks.compression.quantization", "tasks.compression.pruning"):
        monkeypatch.setattr(f"{module}.by_rows", plainly)
    assert torch.equal(work(), compiled) and calls
    assert {call.__name__.removeprefix("_") for call in calls} <= set(dir(kernels))
