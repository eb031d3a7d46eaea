"""Fine-tuning of causal language models and the scoring of what they generate; reads only what pre-training wrote."""
