"""A model folder that brings its own Python code: OpenELM's ideas in a few lines, for transformers 5.23.

Each layer has its own numbers of heads and its own feed-forward width; the queries of a layer share keys; the head is
the embedding; there is no chat template. What such code often gets wrong can be asked for by name.
"""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModelForCausalLM

Fault = Literal["none", "positions", "mask", "init", "head", "version"]

CONFIGURATION = '''"""Sizes of a Layered model."""

from transformers import PreTrainedConfig


class LayeredConfig(PreTrainedConfig):
    model_type = "layered"
    attribute_map = {
        "hidden_size": "model_dim",
        "num_hidden_layers": "num_transformer_layers",
        "max_position_embeddings": "max_context_length",
    }

    def __init__(
        self,
        vocab_size=320,
        model_dim=32,
        head_dim=8,
        query_heads=(2, 4),
        key_heads=(1, 2),
        ffn_multipliers=(1.5, 2.5),
        max_context_length=512,
        initializer_range=0.02,
        tie_word_embeddings=True,
        **rest,
    ):
        self.vocab_size = vocab_size
        self.model_dim = model_dim
        self.head_dim = head_dim
        self.query_heads = list(query_heads)
        self.key_heads = list(key_heads)
        self.ffn_multipliers = list(ffn_multipliers)
        self.num_transformer_layers = len(self.query_heads)
        self.max_context_length = max_context_length
        self.initializer_range = initializer_range
        super().__init__(tie_word_embeddings=tie_word_embeddings, **rest)
'''

MODELING = '''"""A decoder whose layers differ in size."""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import DynamicCache, GenerationMixin, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from .configuration_layered import LayeredConfig


class LayeredRMSNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, states):
        scaled = states.float() * torch.rsqrt(states.float().square().mean(-1, keepdim=True) + 1e-6)
        return self.weight * scaled.to(states.dtype)


def rotate(states, positions):
    """Turns pairs of channels by an angle that grows with the position."""
    half = states.shape[-1] // 2
    speed = 10000.0 ** (-torch.arange(half, device=states.device, dtype=torch.float32) / half)
    angle = positions[:, None, :, None].float() * speed
    first, second = states.float().split(half, -1)
    turned = (first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin())
    return torch.cat(turned, -1).to(states.dtype)


class LayeredBlock(GradientCheckpointingLayer):
    def __init__(self, config, number):
        super().__init__()
        self.number = number
        self.heads = config.query_heads[number], config.key_heads[number], config.key_heads[number]
        self.width = config.head_dim
        inner = int(config.ffn_multipliers[number] * config.model_dim)
        self.before_attention = LayeredRMSNorm(config.model_dim)
        self.qkv = nn.Linear(config.model_dim, sum(self.heads) * self.width, bias=False)
        self.query_norm = LayeredRMSNorm(self.width)
        self.key_norm = LayeredRMSNorm(self.width)
        self.out = nn.Linear(self.heads[0] * self.width, config.model_dim, bias=False)
        self.before_ffn = LayeredRMSNorm(config.model_dim)
        self.up = nn.Linear(config.model_dim, 2 * inner, bias=False)
        self.down = nn.Linear(inner, config.model_dim, bias=False)

    def forward(self, states, mask, positions, cache):
        rows, length, _ = states.shape
        parts = self.qkv(self.before_attention(states)).view(rows, length, -1, self.width).transpose(1, 2)
        queries, keys, values = parts.split(self.heads, 1)
        queries = rotate(self.query_norm(queries), positions)
        keys = rotate(self.key_norm(keys), positions)
        if cache is not None:
            keys, values = cache.update(keys, values, self.number)
        shared = self.heads[0] // self.heads[1]
        keys, values = (part.repeat_interleave(shared, 1) for part in (keys, values))
        seen = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        states = states + self.out(seen.transpose(1, 2).reshape(rows, length, -1))
        gate, value = self.up(self.before_ffn(states)).chunk(2, -1)
        return states + self.down(F.silu(gate) * value)


class LayeredPreTrainedModel(PreTrainedModel):
    config_class = LayeredConfig
    base_model_prefix = "transformer"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    #INIT


class LayeredModel(LayeredPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.token_embeddings = nn.Embedding(config.vocab_size, config.model_dim)
        self.layers = nn.ModuleList(LayeredBlock(config, number) for number in range(config.num_transformer_layers))
        self.norm = LayeredRMSNorm(config.model_dim)
        self.post_init()

    def get_input_embeddings(self):
        return self.token_embeddings

    def set_input_embeddings(self, value):
        self.token_embeddings = value

    def forward(
        self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, use_cache=None, **_
    ):
        rows, length = input_ids.shape
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()
        past = 0 if past_key_values is None else past_key_values.get_seq_length()
        default = torch.arange(past, past + length, device=input_ids.device)[None]
        positions = default if position_ids is None else position_ids
        mask = attention_mask
        if mask is None or mask.dim() == 2:
            causal = torch.ones(length, past + length, dtype=torch.bool, device=input_ids.device).tril(past)
            # Padding sees itself: a softmax over nothing is NaN.
            own = causal & ~causal.tril(past - 1)
            mask = causal[None, None] if mask is None else causal & mask[:, None, None, :].bool() | own
        #FAULT
        states = self.token_embeddings(input_ids)
        for layer in self.layers:
            states = layer(states, mask, positions, past_key_values)
        return BaseModelOutputWithPast(last_hidden_state=self.norm(states), past_key_values=past_key_values)


class LayeredForCausalLM(LayeredPreTrainedModel, GenerationMixin):
    _tied_weights_keys = {"lm_head.weight": "transformer.token_embeddings.weight"}

    def __init__(self, config):
        super().__init__(config)
        self.transformer = LayeredModel(config)
        self.lm_head = nn.Linear(config.model_dim, config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self):
        return self.lm_head  #HEAD

    def set_output_embeddings(self, value):
        self.lm_head = value

    def forward(
        self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, use_cache=None, **_
    ):
        found = self.transformer(input_ids, attention_mask, position_ids, past_key_values, use_cache)
        return CausalLMOutputWithPast(
            logits=self.lm_head(found.last_hidden_state), past_key_values=found.past_key_values
        )
'''

FAULTS: dict[str, tuple[str, str]] = {
    "none": ("", ""),
    "positions": ("#FAULT", "positions = default"),
    "mask": ("#FAULT", "mask = torch.ones(length, past + length, dtype=torch.bool).tril(past)[None, None]"),
    "init": (
        "#INIT",
        "def _init_weights(self, module):\n        if isinstance(module, (nn.Linear, nn.Embedding)):\n"
        "            module.weight.data.normal_(0.0, 0.02)",
    ),
    "head": ("return self.lm_head  #HEAD", "return None"),
    "version": (
        "self.norm = LayeredRMSNorm(config.model_dim)",
        "self.norm = LayeredRMSNorm(config.model_dim)\n        self.angles = torch.arange(4.0).cos().to('cpu')",
    ),
}


def write_custom_model(folder: Path, fault: Fault = "none", *, seed: int = 0, **sizes: Any) -> Path:
    """Writes code, config and random weights.

    Args:
        folder: Made where missing; it may hold a tokenizer.
        fault: What the code does wrong: ignores "positions" or a 4-D "mask", writes first values past transformers
            ("init", as code for transformers 4 does), has no output "head", or computes while it is built ("version").
        seed: Of the weights.
        sizes: Fields of the config.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written, instead = FAULTS[fault]
    (folder / "configuration_layered.py").write_text(CONFIGURATION)
    (folder / "modeling_layered.py").write_text(MODELING.replace(written, instead, 1) if written else MODELING)
    auto_map = {
        "AutoConfig": "configuration_layered.LayeredConfig",
        "AutoModelForCausalLM": "modeling_layered.LayeredForCausalLM",
    }
    config = {"model_type": "layered", "architectures": ["LayeredForCausalLM"], "auto_map": auto_map, **sizes}
    (folder / "config.json").write_text(json.dumps(config))
    opened = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(opened, trust_remote_code=True).save_pretrained(folder)
    return folder
