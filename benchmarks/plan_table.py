"""The table of docs/scale.md: memory, speed and time of Llama-like models on 8 to 1024 GPUs, as planned.

    python benchmarks/plan_table.py                print the table
    python benchmarks/plan_table.py --write        put it into docs/scale.md

Every cell is one ``python -m launch plan`` of the command above the table; what a plan that does not fit changes first
is taken, and named in the table.
"""

import argparse
import shlex
import sys
from pathlib import Path

from launch.planner import make_plan, parse
from launch.planner.report import Plan
from launch.planner.speed import plan_speed

GPUS = (8, 64, 256, 1024)
ROW = 8192
# Hidden size, inner size, blocks, heads, key-value heads, vocabulary, as Meta published these models.
MODELS = {
    "1 B": (2048, 8192, 16, 32, 8, 128256, True),
    "8 B": (4096, 14336, 32, 32, 8, 128256, False),
    "13 B": (5120, 13824, 40, 40, 40, 32000, False),
    "70 B": (8192, 28672, 80, 64, 8, 128256, False),
}
BEGIN, END = "<!-- planned by benchmarks/plan_table.py -->", "<!-- end of the plan -->"
DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "scale.md"


def settings(name: str) -> list[str]:
    """What makes the configs of the table, but for the number of GPUs."""
    hidden, inner, blocks, heads, groups, vocabulary, tied = MODELS[name]
    fields = (
        f"hidden_size: {hidden}, intermediate_size: {inner}, num_hidden_layers: {blocks}, "
        f"num_attention_heads: {heads}, num_key_value_heads: {groups}, tie_word_embeddings: {str(tied).lower()}"
    )
    return [
        f"model={{type: llama, fields: {{{fields}}}}}",
        f"tokenizer.vocab_size={vocabulary}",
        f"packing.row_length={ROW}",
        "train.micro_batch_rows=2",
        "checkpoint.every=1000",
    ]


def arguments(name: str, gpus: int) -> list[str]:
    """The command line of one cell."""
    rows = max(512, 2 * gpus)  # four million tokens a step; more where every GPU would not get two rows
    return [*settings(name), f"train.rows_per_step={rows}", "--gpus", str(gpus), "--tokens", "1e12", "--price", "2.5"]


def row(name: str, gpus: int) -> list[str]:
    """One line of the table."""
    plan = make_plan(parse(arguments(name, gpus)))
    change = ""
    if plan.remedy is not None:
        job = plan.remedy.job
        change = ", ".join(setting.partition(".")[2].replace("=true", "") for setting in plan.remedy.settings)
        if plan.remedy.gpus:
            return [name, f"{gpus:,}", "does not fit", f"needs {plan.remedy.text}", *[""] * 6]
        speed = plan_speed(job, price=2.5, tokens=1e12)
        plan = Plan(job, plan.remedy.memory, speed)
    elif not plan.memory.fits:
        return [name, f"{gpus:,}", "does not fit", *[""] * 7]
    speed, memory = plan.speed, plan.memory
    states = sum(memory.parts.get(part, 0) for part in ("weights", "gradients", "master weights", "optimizer moments"))

    def share(cause: str) -> str:
        return f"{cause} {speed.seconds.get(cause, 0) / speed.step:.0%}"

    assert speed.days is not None and speed.cost is not None and speed.mfu is not None
    return [
        name,
        f"{gpus:,}",
        f"{memory.device / 2**30:.0f} ({states / 2**30:.1f})",
        change,
        f"{speed.step:.1f}",
        f"{speed.tokens_per_second / 1e3:,.0f} k",
        f"{speed.mfu:.0%}",
        f"{share(speed.limit)}; {share('network')}",
        f"{speed.days:,.1f}",
        f"{speed.cost / 1e3:,.0f} k",
    ]


def table() -> str:
    """All lines, in Markdown."""
    head = (
        "model | GPUs | GiB of a GPU (states) | first change that fits | s a step | tokens/s | MFU | most of the time "
        "| days for 10¹² tokens | cost"
    )
    lines = [f"| {head} |", "|" + "---|" * 10]
    lines += [f"| {' | '.join(row(name, gpus))} |" for name in MODELS for gpus in GPUS]
    return "\n".join(lines)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the table into docs/scale.md")
    options = parser.parse_args()
    commands = "\n\n".join(f"# {name}\npython -m launch plan {shlex.join(arguments(name, 64))}" for name in MODELS)
    text = f"{BEGIN}\n```\n{commands}\n```\n\n{table()}\n{END}"
    if not options.write:
        print(text)
        return 0
    document = DOCUMENT.read_text(encoding="utf-8")
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCUMENT.write_text(before + text + after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
