"""Distillation (Hinton et al. 2015, arXiv:1503.02531): a model learns from the probabilities of a larger one."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from model import TransformerModel
from model.linear import linear
from train.loss import ModelLoss, labelled_places


class DistillationLoss(ModelLoss):
    """Cross-entropy of the text, and divergence from a teacher that reads the same text.

    The loss of a token is, with the temperature T and softmaxes at that temperature,

        (1 - weight) * cross-entropy + weight * T^2 * KL(teacher || model)

    The factor T^2 keeps the gradient's size when T changes (section 2 of the paper).

    Args:
        model: to train.
        teacher: of the same tokenizer; its vocabulary may be padded to another size.
        weight: of the divergence.
        temperature: T.
        chunk_tokens: how many tokens' logits exist at a time; 0 for as many as fit `CHUNK_BYTES`.
    """

    def __init__(
        self,
        model: TransformerModel,
        teacher: TransformerModel,
        *,
        weight: float,
        temperature: float = 1.0,
        chunk_tokens: int = 0,
    ) -> None:
        super().__init__(model, chunk_tokens=chunk_tokens)
        self.weight, self.temperature = weight, temperature
        # In a list it is no submodule: it is neither trained nor saved nor spread over devices.
        self._teacher = [teacher.eval().requires_grad_(False)]

    def forward(self, input_ids: Tensor, labels: Tensor, document_ids: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The loss to minimize and its cross-entropy alone, in nats, each summed over the tokens that have a label.

        Args:
            input_ids: int64 [batch_size, sequence_length].
            labels: of the same shape; `IGNORE_INDEX` where there is no label.
            document_ids: of the same shape, where tokens attend within their document alone.

        Returns:
            Two float32 scalars; the second has no gradient. Without gradients both are the cross-entropy.
        """
        places = labelled_places(labels.flatten())
        wanted = labels.flatten().index_select(0, places)

        def hidden(model: TransformerModel) -> tuple[Tensor, ...]:
            states = model.hidden_states(input_ids, document_ids=document_ids).flatten(0, 1)
            return states.index_select(0, places).split(self.chunk_tokens)

        ours, head, parts = hidden(self.model), self.model.lm_head.weight, wanted.split(self.chunk_tokens)
        if not torch.is_grad_enabled():
            losses = [_cross_entropy(linear(part, head), ids) for part, ids in zip(ours, parts, strict=True)]
            return torch.stack(losses).sum(), torch.stack(losses).sum()
        teacher = self._teacher[0].to(input_ids.device)
        with torch.no_grad():
            theirs = hidden(teacher)
        sums = [
            checkpoint(self._chunk, part, head, their, teacher.lm_head.weight, ids, use_reentrant=False)
            for part, their, ids in zip(ours, theirs, parts, strict=True)
        ]
        cross_entropy, divergence = torch.stack(sums).sum(0)
        return (1 - self.weight) * cross_entropy + self.weight * divergence, cross_entropy.detach()

    def _chunk(self, ours: Tensor, head: Tensor, theirs: Tensor, their_head: Tensor, wanted: Tensor) -> Tensor:
        """The sums of cross-entropy and scaled divergence over a chunk of tokens: float32 [2]."""
        logits = linear(ours, head)
        divergence = scaled_divergence(logits.float(), linear(theirs, their_head).float(), self.temperature)
        return torch.stack([_cross_entropy(logits, wanted), divergence])


def scaled_divergence(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """T^2 * KL(teacher || model) in nats, summed over tokens, of float32 logits [tokens, vocab_size]."""
    size = min(logits.shape[1], teacher_logits.shape[1])  # what is beyond pads a vocabulary, and is no token
    ours = (logits[:, :size] / temperature).log_softmax(-1)
    theirs = (teacher_logits[:, :size] / temperature).log_softmax(-1)
    return temperature**2 * functional.kl_div(ours, theirs, reduction="sum", log_target=True)


def _cross_entropy(logits: Tensor, wanted: Tensor) -> Tensor:
    return functional.cross_entropy(logits.float(), wanted, reduction="sum")
