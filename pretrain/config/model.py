"""The settings of the tokenizer and of the model."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class TokenizerConfig(BaseModel):
    """Which tokenizer to use, or how to train one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str | None = Field(
        default=None,
        description="Folder or hub name of an existing Hugging Face tokenizer; none: train one on the corpus.",
    )
    algorithm: Literal["bpe", "unigram"] = Field(
        default="bpe", description="SentencePiece algorithm of a trained tokenizer."
    )
    vocab_size: int = Field(
        default=8192, gt=0, description="Pieces of a trained tokenizer in all, special ones and the 256 bytes included."
    )
    predictor_tokens: int = Field(default=4, ge=0, le=64, description="Number of distinct [PRED_i] pieces reserved.")
    sample_texts: int = Field(
        default=200_000, gt=0, description="Most texts used for training; of more, a fixed even draw."
    )
    trust_remote_code: bool = Field(
        default=False, description="Run the Python code that an existing tokenizer brings along."
    )


class LoraConfig(BaseModel):
    """The section ``model.lora``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int = Field(
        0, ge=0, description="Rank of the updates; 0: no LoRA, all weights are trained. Needs model.path."
    )
    alpha: float = Field(16.0, gt=0, description="Updates are scaled by alpha / rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before an update.")
    targets: str | tuple[str, ...] = Field(
        "all", description="all: every linear layer but the head. Or names of layers, such as [q_proj, v_proj]."
    )

    @field_validator("targets")
    @classmethod
    def _named(cls, targets: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if isinstance(targets, str):
            return targets if targets == "all" else (targets,)
        if not targets:
            raise ValueError("name a layer, or all")
        return targets

    @model_validator(mode="after")
    def _has_an_effect(self) -> "LoraConfig":
        fields = type(self).model_fields
        given = [name for name in fields if name != "rank" and getattr(self, name) != fields[name].default]
        if given and not self.rank:
            raise ValueError(f"{', '.join(given)} without a rank: set rank, or leave lora out")
        return self


class ModelConfig(BaseModel):
    """The section ``model`` of a pre-training config."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str | None = Field(
        None,
        description="Folder or hub name of a Hugging Face causal LM whose config and weights training starts from; "
        "null: random weights of type and fields.",
    )
    type: str = Field("llama", description="Hugging Face model_type of a causal language model, such as llama or gpt2.")
    fields: dict[str, Any] = Field(
        default_factory=lambda: {
            "hidden_size": 512,
            "intermediate_size": 1408,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
            "tie_word_embeddings": False,
        },
        description="Fields of that model's Hugging Face config, such as hidden_size. The vocabulary size and the"
        " special ids come from the tokenizer.",
    )
    attention: Literal["auto", "sdpa", "flex", "eager"] = Field(
        "auto",
        description="Attention kernel. auto: flex on CUDA where the model has it, else sdpa, else eager (Gemma 2).",
        json_schema_extra={"free_on_resume": True},
    )
    activation_checkpointing: bool | Annotated[int, Field(ge=2)] = Field(
        False,
        description="Recompute blocks in the backward pass (non-reentrant): less memory, more time. true: each block; "
        "n: every n-th.",
        json_schema_extra={"free_on_resume": True},
    )
    compile: Literal["auto"] | bool = Field(
        "auto",
        description="Compile each block (torch.compile). auto: on CUDA, unless the model has code of its own.",
        json_schema_extra={"free_on_resume": True},
    )
    trust_remote_code: bool = Field(False, description="Run the Python code that the model at path brings along.")
    lora: LoraConfig = Field(LoraConfig(), description="Low-rank updates in place of all weights.")

    @model_validator(mode="after")
    def _fields_belong_to_type(self) -> "ModelConfig":
        if self.path is not None:
            if given := {"type", "fields"} & self.model_fields_set:
                raise ValueError(f"give path, or type and fields: the model at path has its own {' and '.join(given)}")
            return self
        if self.lora.rank:
            raise ValueError("lora.rank: LoRA trains a model that is there; name it with path, or leave lora out")
        if "type" in self.model_fields_set and self.type != "llama" and "fields" not in self.model_fields_set:
            raise ValueError(f"model.fields: give the sizes of the {self.type!r} model (the default sizes are llama's)")
        return self
