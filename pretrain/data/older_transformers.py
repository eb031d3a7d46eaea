"""Folders that transformers 4 opens as well: what transformers 5 writes under new names gets names that both read.

Transformers 4 knows no class ``TokenizersBackend``, and takes rotary frequencies from ``rope_theta`` and
``rope_scaling`` alone: without them it would silently use others than the model was trained with.
"""

import json
from pathlib import Path
from typing import Any

# Where transformers 4 looks for each of the rotary parameters.
_ROPE_FIELDS = {"rope_theta": "rope_theta", "partial_rotary_factor": "partial_rotary_factor"}
_ROPE_FIELDS_OF = {
    name: {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}
    for name in ("gpt_neox", "gpt_neox_japanese")
}


def add_older_tokenizer_names(folder: Path) -> None:
    """Rewrites ``tokenizer_config.json`` so that both versions open the tokenizer with the same ids."""
    path = folder / "tokenizer_config.json"
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(extra := settings.get("extra_special_tokens"), list):  # a mapping by name in transformers 4
        del settings["extra_special_tokens"]
        settings["additional_special_tokens"] = extra
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def add_older_model_names(folder: Path) -> bool:
    """Rewrites ``config.json`` so that both versions compute the same rotary embeddings.

    Returns:
        False if transformers 4 would compute others: it has no names for what the config says.
    """
    path = folder / "config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    rope = config.get("rope_parameters")
    if not rope or "auto_map" in config:  # code of its own reads what it reads
        return True
    if any(isinstance(value, dict) for value in rope.values()):  # by type of layer
        return False
    fields = _ROPE_FIELDS_OF.get(config["model_type"], _ROPE_FIELDS)
    config |= {older: rope[name] for name, older in fields.items() if name in rope}
    if rope.get("rope_type", "default") != "default":
        config["rope_scaling"] = rope  # which transformers 5 takes in place of rope_parameters, so it is whole
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return True
