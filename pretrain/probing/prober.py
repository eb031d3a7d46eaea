"""A small linear probe of held-out embeddings during training; it does not affect the run."""

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

from pretrain.config.sections import Config
from pretrain.data.branches import Branches
from pretrain.data.corpus import Corpus, CorpusSplit
from pretrain.data.heldout import heldout_rows
from pretrain.data.order import sample
from pretrain.data.packing import OneWindow
from pretrain.data.schedule import Schedule
from pretrain.data.tokenizer import Tokenizer
from pretrain.engine.evaluating import evaluating
from pretrain.objectives.mixed import MixedObjective
from pretrain.preparation.comparing import matching_form
from pretrain.runtime.distributed import Ranks
from pretrain.runtime.errors import DiptychError
from pretrain.runtime.leaving import leave_if_asked

if TYPE_CHECKING:
    from pretrain.probing.copies import Copies

_LEAST = 20
"""Fewest different texts with a label for a probe."""


class Prober:
    """Cross-validated logistic regression on the embeddings of held-out first views.

    The first view of a record is encoded alone, whichever view predicts the other in training. Records with the same
    first view (compared as for duplicates) or of the same group are in one fold, and copies get one shuffled label.

    Attributes:
        labels: Label of each probed record, by record number.
        copies: Which records are copies or of one group, in the order of ``labels``.

    Raises:
        DiptychError: Too few held-out texts have a label, all have the same, or there are too many classes.
    """

    def __init__(self, config: Config, corpus: Corpus, tokenizer: Tokenizer, branches: Branches, ranks: Ranks) -> None:
        self.ranks = ranks
        self.forward = branches.direction == "forward"
        split = corpus.heldout
        drawn = sample(0, "probe", len(split), config.probe.max_records)
        labels = {int(record): split.label(int(record)) for record in drawn}
        self.labels = {record: label for record, label in labels.items() if label is not None}
        self.copies = self._find_copies(split, tokenizer)
        self._check(len(drawn))
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

    def _find_copies(self, split: CorpusSplit, tokenizer: Tokenizer) -> "Copies":
        from pretrain.probing.copies import find_copies

        first_views = [split.views(record)[0].tokens for record in self.labels]
        forms = [matching_form(tokenizer.decode(tokens)) for tokens in first_views]
        keys = [form or tuple(tokens) for form, tokens in zip(forms, first_views, strict=True)]
        return find_copies(keys, [split.group(record) for record in self.labels])

    def _check(self, drawn: int) -> None:
        from pretrain.probing.classifier import FOLDS

        clusters_of = defaultdict(set)
        for label, cluster in zip(self.labels.values(), self.copies.clusters.tolist(), strict=True):
            clusters_of[label].add(cluster)
        num_clusters, classes = self.copies.num_clusters, len(clusters_of)
        apart = "" if num_clusters == len(self.labels) else f", with {num_clusters} different texts or groups"
        if num_clusters < _LEAST or classes < 2:
            raise DiptychError(
                f"probe.every: {len(self.labels)} of {drawn} held-out records have a label{apart}, of {classes} "
                f"classes; a probe needs {_LEAST} of two. Name the sources' label field, or set probe.every=0"
            )
        rarest = min(clusters_of, key=lambda label: len(clusters_of[label]))
        if len(clusters_of[rarest]) < FOLDS:
            raise DiptychError(
                f"probe.every: of {len(self.labels)} held-out records with a label{apart}, {len(clusters_of[rarest])} "
                f"are of class {rarest}; cross-validation needs {FOLDS} of each of {classes} classes. Hold out more, "
                "raise probe.max_records, name another label field, or set probe.every=0"
            )

    def run(self, engine: Any) -> dict[str, float]:
        """Cross-validated accuracy, the share of the largest class, and the accuracy on shuffled labels. Collective.

        Shuffled labels show what the probe reaches where there is nothing to learn. The result is empty if embeddings
        are not finite.

        Raises:
            Preempted: Some rank was told to stop.
        """
        embeddings = self.embeddings(engine)
        return self.ranks.on_main(lambda: self._scores(embeddings), long=True)

    def embeddings(self, engine: Any) -> dict[int, Any]:
        """The embedding of the first view of every probed record, float32 [width], by record. Collective."""
        local: dict[int, Any] = {}
        with evaluating(engine):
            for micro_batch in self.schedule.step(0).micro_batches:
                leave_if_asked(self.ranks)
                batch = self.builder.build(micro_batch).to(self.ranks.device)
                _, states, _ = engine(batch)
                records = [record for row in micro_batch.rows if row for record in row.examples.tolist()]
                if records:
                    spans = batch.source_spans if self.forward else batch.target_spans  # of the first view
                    pooled = self.objective.pool(states, spans).float().cpu().numpy()
                    local |= dict(zip(records, pooled, strict=True))
        return {record: states for part in self.ranks.gather(local) for record, states in part.items()}

    def _scores(self, embeddings: dict[int, Any]) -> dict[str, float]:
        from threadpoolctl import threadpool_limits

        from pretrain.probing.classifier import FOLDS, STRENGTHS, choose_strength
        from pretrain.probing.sampling import shuffled_labels

        x = np.stack([embeddings[record] for record in self.labels])
        _, y = np.unique(np.array(list(self.labels.values())), return_inverse=True)

        if not np.isfinite(x).all():
            return {}

        def accuracy(labels: Any) -> float:
            with threadpool_limits(1, user_api="blas"):
                return choose_strength(
                    x,
                    labels,
                    seed=0,
                    strengths=STRENGTHS,
                    folds=FOLDS,
                    clusters=self.copies.clusters,
                    place="probe",
                )[1]

        return {
            "probe/accuracy": accuracy(y),
            "probe/majority": float(np.bincount(y).max() / len(y)),
            "probe/shuffled": accuracy(shuffled_labels(y, 0, self.copies)),
        }
