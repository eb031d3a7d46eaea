"""A small linear probe of held-out embeddings while a model trains; it changes nothing of the run."""

from collections import Counter
from typing import Any

import numpy as np
import torch

from pretrain.branches import Branches
from pretrain.config import Config
from pretrain.corpus import Corpus
from pretrain.distributed import Ranks
from pretrain.errors import DiptychError
from pretrain.evaluation import heldout_rows
from pretrain.objectives.mixed import MixedObjective
from pretrain.order import sample
from pretrain.packing import OneWindow
from pretrain.schedule import Schedule
from pretrain.tokenizer import Tokenizer

_LEAST = 20
"""Records with a label that a probe needs."""


class Prober:
    """Cross-validated logistic regression on the embeddings of held-out first views.

    The first view of a record is read alone, whichever view predicts the other in training.

    Raises:
        DiptychError: Too few held-out records have a label, all have the same, or there are too many classes.
    """

    def __init__(self, config: Config, corpus: Corpus, tokenizer: Tokenizer, branches: Branches, ranks: Ranks) -> None:
        from pretrain.probing.classifier import FOLDS

        self.ranks = ranks
        self.forward = branches.direction == "forward"
        split = corpus.heldout
        drawn = sample(0, "probe", len(split), config.probe.max_records)
        labels = {int(record): split.label(int(record)) for record in drawn}
        self.labels = {record: label for record, label in labels.items() if label is not None}
        classes = len(set(self.labels.values()))
        if len(self.labels) < _LEAST or classes < 2:
            raise DiptychError(
                f"probe.every: {len(self.labels)} of {len(drawn)} held-out records have a label, of "
                f"{classes} classes; a probe needs {_LEAST} of two. Name the sources' label field, or set probe.every=0"
            )
        rarest, fewest = min(Counter(self.labels.values()).items(), key=lambda found: found[1])
        if fewest < FOLDS:
            raise DiptychError(
                f"probe.every: of {len(self.labels)} held-out records with a label, {fewest} are of class {rarest}; "
                f"cross-validation needs {FOLDS} of each of {classes} classes. Hold out more, raise probe.max_records, "
                "name another label field, or set probe.every=0"
            )
        drawn = np.array(sorted(self.labels), dtype=drawn.dtype)
        self.builder, plan = heldout_rows(config, split, drawn, branches, tokenizer.pad, "probe")
        self.schedule = Schedule(
            OneWindow(plan),
            rows_per_step=plan.num_rows,
            micro_batch_rows=config.train.micro_batch_rows,
            rank=ranks.rank,
            world_size=ranks.world_size,
        )
        self.objective = MixedObjective(config.objective, ranks.rank, ranks.world_size)

    def run(self, engine: Any) -> dict[str, float]:
        """Accuracy by cross-validation, beside the largest class's share and the same probe on shuffled labels.

        The shuffled labels say what the probe would find where nothing is to be found. Nothing where embeddings are not
        finite. Collective.
        """
        found = self.embeddings(engine)
        return self.ranks.on_main(lambda: self._scores(found))

    def embeddings(self, engine: Any) -> dict[int, Any]:
        """The embedding of the first view of every probed record, float32 [width], by record. Collective."""
        own: dict[int, Any] = {}
        engine.eval()
        with torch.no_grad():
            for micro_batch in self.schedule.step(0).micro_batches:
                batch = self.builder.build(micro_batch).to(self.ranks.device)
                _, states = engine(batch)
                records = [record for row in micro_batch.rows if row for record in row.examples]
                if records:
                    spans = batch.source_spans if self.forward else batch.target_spans  # of the first view
                    pooled = self.objective.pool(states, spans).float().cpu().numpy()
                    own |= dict(zip(records, pooled, strict=True))
        engine.train()
        return {record: states for part in self.ranks.gather(own) for record, states in part.items()}

    def _scores(self, found: dict[int, Any]) -> dict[str, float]:
        from threadpoolctl import threadpool_limits

        from pretrain.probing.classifier import FOLDS, STRENGTHS, choose_strength
        from pretrain.probing.sampling import shuffled_labels

        x = np.stack([found[record] for record in self.labels])
        _, y = np.unique(np.array(list(self.labels.values())), return_inverse=True)

        if not np.isfinite(x).all():
            return {}

        def accuracy(labels: Any) -> float:
            with threadpool_limits(1, user_api="blas"):
                return choose_strength(x, labels, seed=0, strengths=STRENGTHS, folds=FOLDS, place="probe")[1]

        return {
            "probe/accuracy": accuracy(y),
            "probe/majority": float(np.bincount(y).max() / len(y)),
            "probe/shuffled": accuracy(shuffled_labels(y, 0)),
        }
