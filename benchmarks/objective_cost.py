"""What the embedding-prediction objective costs: step time over plain language modelling, in one run.

    python benchmarks/objective_cost.py --captions train.jsonl --nlrx train.jsonl [--out results.json]

Every arm trains the same pairs with the same model: forward, backward and an AdamW step. The arms take turns within
each repetition, so a machine that slows down slows all of them; ratios are medians over repetitions of the ratio
within one.

Arms: plain LM (no branches); the mixed objective in one pass (branches); three separate passes per pair as published
(text + code, text + [PRED], code alone), padded to the longest and padded to 512. The last three must agree in value.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pretrain.config.model import ModelConfig, TokenizerConfig
from pretrain.config.sections import ObjectiveConfig
from pretrain.data import corpus
from pretrain.data.batch import Batch, collate
from pretrain.data.branches import Branches, View, ViewPairs
from pretrain.data.order import random_keys
from pretrain.data.packing import pack
from pretrain.data.schedule import Step
from pretrain.data.tokenizer import Tokenizer
from pretrain.model.build import build_model, hf_config
from pretrain.model.network import BranchNetwork
from pretrain.objectives.mixed import MixedObjective
from pretrain.preparation.tokenizer_training import train

ROW_LENGTH, ROWS = 256, 8
MODEL = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 6, "num_attention_heads": 6}
Pairs = Sequence[tuple[View, View]]


def read_pairs(path: Path, vocab_size: int, count: int) -> tuple[Tokenizer, Pairs]:
    """A tokenizer trained on the file and its first pairs, spread over the file."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    texts = (record[view] for record in records for view in ("text", "code"))
    tokenizer = train(texts, TokenizerConfig(vocab_size=vocab_size))
    chosen = records[:: max(1, len(records) // count)][:count]
    first = tokenizer.encode_batch([record["text"] for record in chosen])
    second = tokenizer.encode_batch([record["code"] for record in chosen])
    return tokenizer, [(View(a), View(b)) for a, b in zip(first, second, strict=True)]


class Arm:
    """One way to train the pairs, with a model of its own that starts from the same weights."""

    def __init__(self, tokenizer: Tokenizer, loss_parts: Callable[[BranchNetwork], Any]) -> None:
        config = hf_config(
            ModelConfig(type="llama", fields=MODEL),
            vocab_size=tokenizer.vocab_size,
            bos=tokenizer.bos,
            eos=tokenizer.eos,
            pad=tokenizer.pad,
            positions=512,
        )
        lm = build_model(config, seed=0, zero3_config=None, dtype=torch.float32, attention="sdpa")
        self.network = BranchNetwork(lm.train())
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-4)
        self.loss_parts = loss_parts

    def step(self) -> tuple[float, float]:
        """Trains once on all pairs; returns seconds and the loss."""
        started, total = time.perf_counter(), 0.0
        for loss in self.loss_parts(self.network):
            loss.backward()
            total += float(loss.detach())
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - started, total


def packed(
    tokenizer: Tokenizer, pairs: Pairs, layout: str, branched: bool
) -> tuple[Callable[[BranchNetwork], Any], int]:
    """The project's way: rows of branches. Returns the arm's loss and its number of tokens."""
    branches = Branches(
        layout,  # type: ignore[arg-type]
        eos=tokenizer.eos,
        bos=tokenizer.bos,
        predictors=tokenizer.predictors[:1],
    )
    lengths = np.array([[len(first.tokens), len(second.tokens)] for first, second in pairs], dtype=np.int64)
    zeros = np.zeros_like(lengths)
    drawn = corpus.Pairs(zeros, lengths, np.ones_like(lengths, dtype=np.bool_), zeros, zeros)
    plan = pack(
        np.arange(len(pairs)),
        drawn,
        np.full(len(pairs), branched),
        branches,
        ROW_LENGTH,
        keys=lambda count: random_keys(0, "rows", 0, count),
    )
    batches: list[Batch] = []
    for start in range(0, plan.num_rows, ROWS):
        rows = [plan.row(index)[0] for index in range(start, min(start + ROWS, plan.num_rows))]
        views = ViewPairs.of([pairs[example] for row in rows for example in row])
        numbers = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
        trees = branches.lay_out(views, np.full(len(numbers), branched), numbers)
        batches.append(collate(trees, np.arange(len(rows)), ROW_LENGTH, tokenizer.pad))
    objective = MixedObjective(ObjectiveConfig(lambda_=1.0 if branched else 0.0))
    step = Step(0, int(plan.num_labels.sum()), len(pairs), ())

    def losses(network: BranchNetwork) -> Any:
        for batch in batches:
            lm_sum, states, _ = network(batch)
            yield objective(states, lm_sum, batch, step).loss

    return losses, int(plan.num_tokens.sum())


def three_passes(tokenizer: Tokenizer, pairs: Pairs, padded_to: int | None) -> Callable[[BranchNetwork], Any]:
    """The published way, in the conditional layout: three padded batches, one per sequence of a pair."""
    bos, eos, predictor = tokenizer.bos, tokenizer.eos, tokenizer.predictors[0]
    texts = [[bos, *first.tokens, *second.tokens] for first, second in pairs]
    predicting = [[bos, *first.tokens, predictor] for first, _ in pairs]
    codes = [[bos, *second.tokens] for _, second in pairs]
    length = padded_to or max(len(ids) for ids in (*texts, *predicting, *codes))
    num_labels = sum(len(second.tokens) + 1 for _, second in pairs)

    def batch(sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        ids = torch.full((len(sequences), length), tokenizer.pad)
        mask = torch.zeros((len(sequences), length), dtype=torch.int64)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = torch.tensor(sequence)
            mask[row, : len(sequence)] = 1
        return ids, mask

    inputs = [batch(sequences) for sequences in (texts, predicting, codes)]
    labels = torch.full((len(pairs), length), -100)
    for row, (first, second) in enumerate(pairs):
        start = len(first.tokens)
        labels[row, start : start + len(second.tokens) + 1] = torch.tensor([*second.tokens, eos])
    ends = [torch.tensor([len(sequence) - 1 for sequence in sequences]) for sequences in (predicting, codes)]
    rows = torch.arange(len(pairs))

    def losses(network: BranchNetwork) -> Any:
        states = [
            network.lm.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            for ids, mask in inputs
        ]
        logits = network.lm.get_output_embeddings()(states[0])
        lm_loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum") / num_labels
        prediction, target = (state[rows, end] for state, end in zip(states[1:], ends, strict=True))
        yield lm_loss + (1 - functional.cosine_similarity(prediction, target)).mean()

    return losses


def compare(arms: dict[str, Arm], repetitions: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of every arm in every repetition, and each arm's loss in the first (before any step)."""
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    first_losses: dict[str, float] = {}
    for repetition in range(repetitions + 1):
        for name, arm in arms.items():
            taken, loss = arm.step()
            first_losses.setdefault(name, loss)
            if repetition:  # the first warms up
                seconds[name].append(taken)
    return seconds, first_losses


def ratio(above: list[float], below: list[float]) -> float:
    """Median over repetitions of the ratio within one."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=Path, required=True, help="JSON Lines with text and code: paraphrases")
    parser.add_argument("--nlrx", type=Path, required=True, help="JSON Lines with text and code: NL-RX-SYNTH")
    parser.add_argument("--pairs", type=int, default=512, help="pairs for branches against plain LM")
    parser.add_argument("--few", type=int, default=16, help="pairs for branches against three passes")
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result: dict[str, Any] = {"threads": arguments.threads, "cpus": os.cpu_count(), "torch": torch.__version__}
    for name, path, layout, vocab in (
        ("multi30k_captions", arguments.captions, "independent", 8192),
        ("nlrx_synth", arguments.nlrx, "conditional", 512),
    ):
        tokenizer, pairs = read_pairs(path, vocab, arguments.pairs)
        plain, plain_tokens = packed(tokenizer, pairs, layout, branched=False)
        mixed, mixed_tokens = packed(tokenizer, pairs, layout, branched=True)
        seconds, _ = compare({"plain": Arm(tokenizer, plain), "mixed": Arm(tokenizer, mixed)}, arguments.repetitions)
        time_ratio, token_ratio = ratio(seconds["mixed"], seconds["plain"]), mixed_tokens / plain_tokens
        result[f"{name}, {layout}"] = {
            "pairs": len(pairs),
            "tokens plain": plain_tokens,
            "tokens mixed": mixed_tokens,
            "token ratio": round(token_ratio, 3),
            "time ratio": round(time_ratio, 3),
            "time ratio / token ratio": round(time_ratio / token_ratio, 3),
            "seconds plain": round(statistics.median(seconds["plain"]), 3),
            "seconds mixed": round(statistics.median(seconds["mixed"]), 3),
        }
    few = pairs[: arguments.few]
    arms = {
        "branches": Arm(tokenizer, packed(tokenizer, few, "conditional", branched=True)[0]),
        "three passes, padded to the longest": Arm(tokenizer, three_passes(tokenizer, few, None)),
        "three passes, padded to 512": Arm(tokenizer, three_passes(tokenizer, few, 512)),
    }
    seconds, losses = compare(arms, max(3, arguments.repetitions // 3))
    result[f"{len(few)} NL-RX pairs, times of branches"] = {
        name: round(ratio(taken, seconds["branches"]), 2) for name, taken in seconds.items()
    }
    result["largest relative difference of their losses"] = max(
        abs(loss / losses["branches"] - 1) for loss in losses.values()
    )
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
