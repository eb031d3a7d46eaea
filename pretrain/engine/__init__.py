"""DeepSpeed: engine, optimizer state, gradients and config of a run."""

from pretrain.runtime.accelerator import name_accelerator

name_accelerator()  # DeepSpeed looks for one as soon as it is imported
