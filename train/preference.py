"""Direct preference optimization (DPO): the model learns which of two answers to the same prompt is the better one."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from model import TransformerModel
from model.linear import linear
from train.loss import ModelLoss, labelled_places


class PreferenceLoss(ModelLoss):
    """The loss of Rafailov et al. 2023 (arXiv:2305.18290), equation 7.

    For a prompt x with a better answer w and a worse answer l it is

        -log sigmoid(beta * margin),   margin = log p(w|x) / r(w|x) - log p(l|x) / r(l|x)

    with the probabilities p of the model and r of a fixed reference, which is usually the model before training.

    Args:
        model: to train.
        reference: of the same tokenizer.
        beta: how strongly the model is kept near the reference.
        chunk_tokens: how many tokens' logits exist at a time; 0 for as many as fit `CHUNK_BYTES`.
    """

    def __init__(
        self, model: TransformerModel, reference: TransformerModel, *, beta: float, chunk_tokens: int = 0
    ) -> None:
        super().__init__(model, chunk_tokens=chunk_tokens)
        self.beta = beta
        # In a list it is no submodule: it is neither trained nor saved nor spread over devices.
        self._reference = [reference.eval().requires_grad_(False)]

    def forward(self, input_ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of the losses of some pairs, twice; the second has no gradient.

        Args:
            input_ids: int64 [pairs, 2, sequence_length]; the better answer comes first.
            labels: of the same shape; `IGNORE_INDEX` but where an answer is.
        """
        total = -functional.logsigmoid(self.beta * self.margins(input_ids, labels)).sum()
        return total, total.detach()

    def margins(self, input_ids: Tensor, labels: Tensor) -> Tensor:
        """How much further than the reference's the answers' log-probabilities are apart: float32 [pairs], in nats."""
        rows, row_labels = input_ids.flatten(0, 1), labels.flatten(0, 1)
        [reference] = self._reference
        with torch.no_grad():
            theirs = label_logprobs(reference.to(input_ids.device), rows, row_labels, self.chunk_tokens)
        ratios = (label_logprobs(self.model, rows, row_labels, self.chunk_tokens) - theirs).unflatten(0, (-1, 2))
        return ratios[:, 0] - ratios[:, 1]


def label_logprobs(model: TransformerModel, input_ids: Tensor, labels: Tensor, chunk_tokens: int) -> Tensor:
    """The log-probability of all labels of each row together: float32 [rows], in nats.

    Args:
        model: predicts the labels.
        input_ids: int64 [rows, sequence_length].
        labels: of the same shape; `IGNORE_INDEX` where there is no label.
        chunk_tokens: how many tokens' logits exist at a time; the backward pass computes them again.
    """
    hidden = model.hidden_states(input_ids).flatten(0, 1)
    places = labelled_places(labels.flatten())
    hidden, wanted = hidden.index_select(0, places), labels.flatten().index_select(0, places)
    parts = [
        checkpoint(_chunk_logprobs, part, model.lm_head.weight, ids, use_reentrant=False)
        for part, ids in zip(hidden.split(chunk_tokens), wanted.split(chunk_tokens), strict=True)
    ]
    sums = torch.zeros(len(labels), device=labels.device)
    return sums.index_add(0, places // labels.shape[1], torch.cat(parts))


def _chunk_logprobs(hidden: Tensor, head: Tensor, wanted: Tensor) -> Tensor:
    """hidden [tokens, hidden_size], head [vocab_size, hidden_size], wanted int64 [tokens] -> float32 [tokens]."""
    logits = linear(hidden, head).float()
    return logits.gather(1, wanted.unsqueeze(1)).squeeze(1) - logits.logsumexp(-1)
