"""The report of a probing run: web page, Markdown, pictures and TensorBoard, all from ``probes.results.Report``."""

from probes.reporting.folder import check_folder, write_report
from probes.reporting.tensorboard import write_projector, write_tensorboard

__all__ = ["check_folder", "write_projector", "write_report", "write_tensorboard"]
