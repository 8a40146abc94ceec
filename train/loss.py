"""Next-token cross-entropy that never holds the logits of all tokens at once.

The logits of 8,192 tokens over a vocabulary of 49,152 take 1.6 GB, and so does their gradient: more than a model of
135M parameters with all its activations. A token's loss needs its own logits alone, so the head works on a chunk of
tokens at a time and computes the gradients of the hidden states and of the head's weight in the same pass, as Liger
Kernel does (arXiv:2410.10989). That takes three matrix products, like the direct computation, and keeps no logits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from model import TransformerModel
from model.linear import linear, suits_onednn
from train.labels import IGNORE_INDEX

# The default limit on the logits of a chunk, as float32.
CHUNK_BYTES = 64 * 2**20


class ModelLoss(nn.Module):
    """The model with a loss on top, in one module, so that DDP and FSDP see one forward and one backward pass.

    Args:
        model: to train.
        chunk_tokens: how many tokens' logits exist at a time; 0 for as many as fit `CHUNK_BYTES`.
    """

    def __init__(self, model: TransformerModel, *, chunk_tokens: int = 0) -> None:
        super().__init__()
        self.model = model
        self.chunk_tokens = chunk_tokens or max(1, CHUNK_BYTES // (4 * model.config.vocab_size))

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the blocks, which share one compilation."""
        for block in self.model.model.layers:
            block.compile(*args, **kwargs)


class NextTokenLoss(ModelLoss):
    """The cross-entropy of the next token."""

    def __init__(self, model: TransformerModel, *, z_loss: float = 0.0, chunk_tokens: int = 0) -> None:
        super().__init__(model, chunk_tokens=chunk_tokens)
        self.z_loss = z_loss
        self.chunk_pass: Callable[..., Any] = chunk_pass

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the blocks, and the pass of a chunk through the head."""
        super().compile(*args, **kwargs)
        self.chunk_pass = torch.compile(chunk_pass, *args, **kwargs)

    def forward(self, input_ids: Tensor, labels: Tensor, document_ids: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The loss to minimize and its cross-entropy part, in nats, each summed over the tokens that have a label.

        Args:
            input_ids: int64 [batch_size, sequence_length].
            labels: of the same shape; `IGNORE_INDEX` where there is no label.
            document_ids: of the same shape, where tokens attend within their document alone.

        Returns:
            Two float32 scalars; the second has no gradient.
        """
        hidden = self.model.hidden_states(input_ids, document_ids=document_ids).flatten(0, 1)
        labels = labels.flatten()
        labelled = labelled_places(labels)
        if len(labelled) < len(labels):  # the head skips the others
            hidden, labels = hidden.index_select(0, labelled), labels.index_select(0, labelled)
        weight = self.model.lm_head.weight
        if not torch.is_grad_enabled():
            weight = weight.detach()  # a Function cannot tell, and would compute gradients
        sums: tuple[Tensor, Tensor] = ChunkedCrossEntropy.apply(
            hidden, weight, labels, self.z_loss, self.chunk_tokens, self.chunk_pass
        )
        return sums


def labelled_places(labels: Tensor) -> Tensor:
    """The places in labels, int64 [tokens], that have one: int64 [labelled]."""
    return (labels != IGNORE_INDEX).nonzero().squeeze(1)


class ChunkedCrossEntropy(torch.autograd.Function):
    """The sum of the cross-entropies of `hidden @ weight.T`, computed a chunk of tokens at a time."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        z_loss: float,
        chunk_tokens: int,
        one_chunk: Callable[..., tuple[Tensor, Tensor, Tensor]],
    ) -> tuple[Tensor, Tensor]:
        """hidden [tokens, hidden_size], weight [vocab_size, hidden_size], labels int64 [tokens] -> two sums."""
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        head = weight.to(dtype)
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight) if needs_weight else None
        total, cross_entropy = hidden.new_zeros((), dtype=torch.float32), hidden.new_zeros((), dtype=torch.float32)
        with torch.autocast(device, enabled=False):
            for start in range(0, len(labels), chunk_tokens):
                stretch = slice(start, start + chunk_tokens)
                part = hidden[stretch].to(dtype)
                grad_logits, part_total, part_cross_entropy = one_chunk(part, head, labels[stretch], z_loss)
                total += part_total
                cross_entropy += part_cross_entropy
                if grad_hidden is not None:
                    grad_hidden[stretch] = linear(grad_logits, head.T)
                if grad_weight is not None:
                    _add_product(grad_weight, grad_logits.T, part)
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.mark_non_differentiable(cross_entropy)
        return total, cross_entropy

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients computed in `forward`, times the incoming gradient."""
        grad_hidden, grad_weight = ctx.saved_tensors
        return *(None if grad is None else grad * grad_total for grad in (grad_hidden, grad_weight)), *[None] * 4


def chunk_pass(hidden: Tensor, head: Tensor, labels: Tensor, z_loss: float) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of a chunk's logits, the sum of its losses, and the sum of its cross-entropies.

    With Z = sum(exp(logits)), a token's loss is log Z - logit of its label, plus z_loss * (log Z)^2. Its gradient is
    softmax * (1 + 2 z_loss log Z) - 1 at the label.
    """
    logits = linear(hidden, head).float()
    log_z = logits.logsumexp(-1, keepdim=True)
    wanted = labels.unsqueeze(1)
    cross_entropy = (log_z - logits.gather(1, wanted)).sum()
    total = cross_entropy + z_loss * log_z.square().sum()
    softmax = logits.sub_(log_z).exp_()
    if z_loss:
        softmax *= 1 + 2 * z_loss * log_z
    grad_logits = softmax.scatter_add_(1, wanted, torch.full_like(log_z, -1.0))
    return grad_logits.to(hidden.dtype), total, cross_entropy


def _add_product(into: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left @ right to a float32 tensor, in one kernel where that is the fastest way."""
    if left.dtype == into.dtype and not suits_onednn(left, right.T):
        into.addmm_(left, right)
    else:
        into += linear(left, right.T)
