"""``slimline``: the embedded stack and the runs on it, from a terminal. Each command stands in ``commands/``."""

from __future__ import annotations

from collections.abc import Callable

import typer

from deployments.commands.check import check
from deployments.commands.completion import completion
from deployments.commands.cost import cost
from deployments.commands.doctor import doctor
from deployments.commands.engines import engines
from deployments.commands.fault import app as faults
from deployments.commands.images import images
from deployments.commands.lineage import lineage
from deployments.commands.observe import observe
from deployments.commands.runs import compare, release, reproduce, run
from deployments.commands.servers import demo, down, up
from deployments.commands.status import status
from deployments.commands.terminal import examples, exit_codes
from deployments.commands.why import why

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Compress a language model, prove it still answers like the original, and release it a little at a time.",
    epilog=exit_codes(),
)

# In the order in which a person needs them.
COMMANDS: dict[Callable[..., None], tuple[str, ...]] = {
    up: ("slimline up", "slimline up --speed 30", "slimline up --base-port 5310"),
    demo: ("slimline demo",),
    run: (
        "slimline run tiny",
        "slimline run tiny -p recipe.quantize.bits=8 -p gate.min_agreement=0.9",
        "slimline run demo -p model.source=/models/my-llama -p data.source=/data/tickets.jsonl",
        "slimline run restore -p endpoint=slimline-tiny",
        "slimline run compress-only --json > outcome.json",
    ),
    compare: (
        "slimline compare compare-tiny",
        "slimline compare --recipes 20 --prefer quality -p budgets.max_bytes_ratio=0.2",
    ),
    release: (
        "slimline release slimline-tiny",
        "slimline release slimline-tiny --version 3 --mode shadow --endpoint slimline-tiny",
    ),
    status: (
        "slimline status",
        "slimline status slimline-tiny --watch",
        "slimline status --json",
        "slimline status --aws",
    ),
    lineage: (
        "slimline lineage slimline-tiny",
        "slimline lineage slimline-tiny/champion --json",
        "slimline lineage 4fe1c09a",
        "slimline lineage slimline-tiny --at 2026-11-20T12:00",
        "slimline lineage slimline-tiny --history",
    ),
    why: ("slimline why quantize", "slimline why evaluate --json"),
    reproduce: ("slimline reproduce slimline-tiny", "slimline reproduce slimline-tiny 1 --repeats 3"),
    observe: ("slimline observe slimline-tiny", "slimline observe slimline-tiny --window 30 --json"),
    check: (
        "slimline check --model slimline-tiny --version champion",
        "slimline check ./my-model --target lmi --instance-type ml.g5.xlarge --mode CANARY",
        "slimline check --model slimline --target lmi -p target.lmi.max_model_len=4096",
    ),
    cost: (
        "slimline cost slimline-tiny",
        "slimline cost slimline 1 -t ml.c5.2xlarge --load 5e8",
        "slimline cost slimline 3 -t ml.g5.xlarge --rate 2100 --baseline-rate 900",
    ),
    doctor: ("slimline doctor", "slimline doctor --aws --instance-type ml.g6e.xlarge --instances 2"),
    engines: ("slimline engines", "slimline engines --build llm-compressor"),
    images: ("slimline images --region eu-west-1 --kind lmi", "slimline images --sdk --json"),
    completion: (
        "source <(slimline completion bash)",
        "slimline completion zsh > ~/.zfunc/_slimline",
        "slimline completion fish > ~/.config/fish/completions/slimline.fish",
    ),
    down: ("slimline down",),
}
for command, lines in COMMANDS.items():
    app.command(epilog=examples(*lines))(command)
app.add_typer(faults, name="fault")

if __name__ == "__main__":
    app(prog_name="slimline")
