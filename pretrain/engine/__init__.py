"""DeepSpeed: the only room that knows it."""
