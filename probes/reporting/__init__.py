"""The report of a probing run: web page, Markdown, pictures and TensorBoard, all from ``probes.results.Report``."""

from probes.reporting.folder import write_report
from probes.reporting.tensorboard import write_projector, write_tensorboard

__all__ = ["write_projector", "write_report", "write_tensorboard"]
