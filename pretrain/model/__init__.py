"""The Hugging Face model: built, initialised or loaded, with LoRA, masks and the network over branches."""
