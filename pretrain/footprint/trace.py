"""One micro-batch on the meta device: which tensors live at once, and what the operators compute and move.

The network is the one that is trained, with two and with three blocks; what a further block adds is extrapolated to all
of them. No tensor has values, so a model of any size is traced in seconds and in little memory.
"""

import copy
import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from pretrain.config.model import LoraConfig
from pretrain.data.batch import Batch
from pretrain.footprint.kernels import without_arithmetic
from pretrain.model.blocks import recompute_blocks
from pretrain.model.initialization import causal_lm
from pretrain.model.lora import add_lora
from pretrain.model.network import BranchNetwork
from pretrain.runtime.errors import DiptychError

_HF_ATTENTION = {"sdpa": "sdpa", "flex": "flex_attention", "eager": "eager"}

_NO_LORA = LoraConfig()


@dataclass(frozen=True)
class TraceRequest:
    """The micro-batch and model settings to trace.

    Attributes:
        rows: Rows of the micro-batch.
        row_length: Positions of a row.
        labels: Label tokens of the micro-batch.
        loss_chunk_tokens: Label tokens per call of the LM head.
        attention: ``flex``, ``sdpa`` or ``eager``.
        checkpointing: Every so many-th block is recomputed in the backward pass; 0: none.
        dtype: Type of the computation.
        lora: LoRA settings; rank 0 trains the whole model.
        lora_rows: Ids of the tokens whose rows LoRA trains.
    """

    rows: int
    row_length: int
    labels: int
    loss_chunk_tokens: int
    attention: str
    checkpointing: int
    dtype: torch.dtype
    lora: LoraConfig = _NO_LORA
    lora_rows: tuple[int, ...] = ()


@dataclass(frozen=True)
class Trace:
    """Memory and work of one micro-batch on one rank, in bytes unless said otherwise.

    Parameters and the batch itself are not counted.

    Attributes:
        kept: Live when the LM head starts: what embedding, blocks and masks keep for the backward pass.
        head: Peak beyond ``kept`` while the LM head and its backward pass run, its gradient included.
        block: Peak beyond ``kept`` during a block's backward pass: recomputed activations, gradients of activations,
            and the gradient of one weight at a time.
        embedding: Peak in all when the gradient has reached the embedding.
        products: Floating-point operations of matrix products, forward, recomputed and backward; not of attention.
        moved: Bytes that all other operators read and write.
        operators: Operators that Python starts.
    """

    kept: int
    head: int
    block: int
    embedding: int
    products: int
    moved: int
    operators: int


def trace(hf_config: Any, request: TraceRequest) -> Trace:
    """Traces the training of a micro-batch.

    Raises:
        DiptychError: The model cannot run on the meta device, such as one with data-dependent shapes.
    """
    depth = hf_config.num_hidden_layers
    if request.checkpointing > 1:  # what some blocks recompute and the others keep
        every, none = (trace(hf_config, replace(request, checkpointing=value)) for value in (1, 0))
        share = math.ceil(depth / request.checkpointing) / depth
        mixed = {
            name: int(share * getattr(every, name) + (1 - share) * getattr(none, name))
            for name in ("kept", "products", "moved", "operators")
        }
        return replace(every, **mixed)
    if depth <= 3:
        return trace_network(_shallow(hf_config, depth, request), request)
    two, three = (trace_network(_shallow(hf_config, blocks, request), request) for blocks in (2, 3))
    grown = {
        name: getattr(two, name) + (depth - 2) * (getattr(three, name) - getattr(two, name))
        for name in ("kept", "products", "moved", "operators")
    }
    return Trace(head=three.head, block=three.block, embedding=three.embedding, **grown)


def _shallow(hf_config: Any, blocks: int, request: TraceRequest) -> BranchNetwork:
    """The network with ``blocks`` blocks, on the meta device."""
    config = copy.deepcopy(hf_config)
    config.num_hidden_layers = blocks
    if isinstance(kinds := getattr(config, "layer_types", None), list | tuple):
        config.layer_types = list(kinds[:blocks])
    with torch.device("meta"):
        lm = causal_lm(config, dtype=request.dtype, attn_implementation=_HF_ATTENTION[request.attention])
    lm.tie_weights()
    if request.lora.rank:
        add_lora(lm, request.lora, ids=request.lora_rows, seed=0)
    if request.checkpointing:
        recompute_blocks(lm, request.checkpointing)
    return BranchNetwork(lm, request.loss_chunk_tokens).train()


def empty_batch(request: TraceRequest, device: str = "meta") -> Batch:
    """A batch of the requested size; on the meta device it has no values, elsewhere every row is one segment."""
    shape = (request.rows, request.row_length)

    def zeros(*size: int) -> Tensor:
        return torch.zeros(size, dtype=torch.int64, device=device)

    positions = torch.arange(request.row_length, device=device).expand(shape).contiguous()
    spans = {name: zeros(0, 2) for name in ("source_spans", "prediction_spans", "target_spans")}
    return Batch(
        ids=zeros(*shape),
        positions=positions,
        segments=zeros(*shape),
        parents=zeros(*shape),
        label_index=torch.arange(request.labels, device=device),
        labels=zeros(request.labels),
        **spans,
        groups=zeros(0),
        label_capacity=request.labels,
        pair_capacity=0,
        num_tokens=request.rows * request.row_length,
        num_visible=0,
        lengths=torch.full((request.rows,), request.row_length, device=device),
    )


def trace_network(network: BranchNetwork, request: TraceRequest) -> Trace:
    """Traces a network on the meta device, without extrapolation."""
    with without_arithmetic():
        try:
            return watch_step(network, empty_batch(request))
        except DiptychError:
            raise
        except Exception as error:  # whatever an operator without a meta kernel raises
            message = " ".join(str(error).split())[:200]
            kind = network.lm.config.model_type
            raise DiptychError(f"model: {kind!r} cannot be planned, it needs values to run: {message}") from error


def watch_step(network: BranchNetwork, batch: Batch) -> Trace:
    """Runs forward and backward pass of a batch on any device and records live memory; leaves no gradients."""
    watch = Watch([*network.parameters(), *network.buffers(), *vars(batch).values()])
    marks: dict[str, int] = {}

    def mark(name: str) -> None:
        marks.setdefault(f"{name} peak", watch.peak)
        marks.setdefault(name, watch.living)
        watch.peak = watch.living

    def blocks_done(module: nn.Module, arguments: Any, output: Any) -> None:
        mark("kept")
        output.last_hidden_state.register_hook(lambda gradient: mark("head"))

    def embedded(module: nn.Module, arguments: Any, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(lambda gradient: mark("block"))  # type: ignore[no-untyped-call]

    hooks: list[Any] = [
        network.lm.base_model.register_forward_hook(blocks_done),
        network.lm.get_input_embeddings().register_forward_hook(embedded),
    ]
    for parameter in network.parameters():
        if parameter.requires_grad:
            # ZeRO moves every gradient to a bucket as soon as it is computed.
            hook = parameter.register_post_accumulate_grad_hook(_drop_gradient)  # type: ignore[no-untyped-call]
            hooks.append(hook)
    try:
        with watch:
            loss, states, balance = network(batch)
            (loss + states[:1].float().sum() + balance).backward()
        for name in ("block", "embedding"):
            if name not in marks:  # LoRA: no gradient reaches the embedding
                mark(name)
    finally:
        for hook in hooks:
            hook.remove()
    return Trace(
        kept=marks["kept"],
        head=marks["head peak"] - marks["kept"],
        block=marks["block peak"] - marks["kept"],
        embedding=marks["embedding peak"],
        products=watch.products,
        moved=watch.moved,
        operators=watch.operators,
    )


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of live tensors made within it, and the FLOPs and traffic of its operators."""

    def __init__(self, foreign: Sequence[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.living = self.peak = self.products = self.moved = self.operators = 0
        self._foreign = [tensor.untyped_storage() for tensor in foreign if isinstance(tensor, Tensor)]
        self._known: dict[int, Any] = {storage._cdata: storage for storage in self._foreign}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if function._overloadpacket in flop_registry:
            self.products += flop_registry[function._overloadpacket](*args, **(kwargs or {}), out_val=result)
        elif function.is_view:
            return result
        else:
            given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            self.moved += sum(tensor.numel() * tensor.itemsize for tensor in (*given, *made))
        self.operators += 1
        for tensor in made:
            self._count(tensor.untyped_storage())
        self.peak = max(self.peak, self.living)
        return result

    def _count(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return

        def freed(_: Any) -> None:
            self.living -= size
            del self._known[key]

        self._known[key] = weakref.ref(storage, freed)
        self.living += size
