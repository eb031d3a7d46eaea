"""How much faster batches are than ``model.generate`` one by one: examples per second, in one run.

    python benchmarks/generation.py [MODEL] [--prompts N] [--new-tokens N] [--out results.json]

MODEL is a Hugging Face folder; without one, a random Llama (width 192, 4 layers, vocabulary 500). Prompts are random
ids, 10 to 40 of them. Both ways answer the same prompts greedily and take turns within each repetition; the ratio is
the median over repetitions. Every answer must be the same, token by token.
"""

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from finetune.generate import Generation, generate

Prompts = Sequence[Sequence[int]]


def small_llama() -> Any:
    """A random Llama; far from uniform, so that answers differ and some end early."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=500,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=512,
        initializer_range=0.1,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config)


def one_by_one(model: Any, prompts: Prompts, stop: Sequence[int], new_tokens: int) -> list[Generation]:
    """What a user of transformers writes."""
    answers = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            output = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=new_tokens,
                eos_token_id=list(stop),
                pad_token_id=0,
            )
        new = output[0, len(prompt) :].tolist()
        stopped = new[-1] in stop
        answers.append(Generation(tuple(new[:-1] if stopped else new), stopped))
    return answers


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", metavar="MODEL")
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.model:
        model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    else:
        model = small_llama()
    model.eval()
    vocabulary = model.config.vocab_size
    rng = random.Random(0)
    prompts = [[rng.randrange(3, vocabulary) for _ in range(rng.randint(10, 40))] for _ in range(arguments.prompts)]
    end = model.config.eos_token_id
    # A random model hardly ever writes its one stop token; with a few of them answers end at different places.
    stop = [end] if arguments.model and isinstance(end, int) else [2, *range(3, vocabulary, 100)]
    seconds: dict[str, list[float]] = {"one by one": [], "batches": []}
    for repetition in range(arguments.repetitions + 1):
        started = time.perf_counter()
        single = one_by_one(model, prompts, stop, arguments.new_tokens)
        between = time.perf_counter()
        batched = generate(
            model,
            prompts,
            stop=stop,
            pad=0,
            max_new_tokens=arguments.new_tokens,
            batch_size=arguments.batch_size,
        )
        ended = time.perf_counter()
        if batched != single:
            different = sum(a != b for a, b in zip(batched, single, strict=True))
            raise SystemExit(f"{different} of {len(prompts)} answers differ")
        if repetition:  # the first one warms up
            seconds["one by one"].append(between - started)
            seconds["batches"].append(ended - between)
    ratios = [slow / fast for slow, fast in zip(seconds["one by one"], seconds["batches"], strict=True)]
    lengths = [len(answer.ids) + answer.stopped for answer in batched]
    result = {
        "model": arguments.model or "random Llama, width 192, 4 layers, vocabulary 500",
        "prompts": len(prompts),
        "batch size": arguments.batch_size,
        "threads": arguments.threads,
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "new tokens, mean": round(statistics.mean(lengths), 1),
        "stopped": sum(answer.stopped for answer in batched),
        "equal answers": len(prompts),
        **{
            f"examples per second, {name}": round(len(prompts) / statistics.median(taken), 2)
            for name, taken in seconds.items()
        },
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
    }
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
