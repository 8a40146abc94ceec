"""Which documents are held out. The hash of a document's content decides, and nothing else.

Adding, removing or reordering documents therefore moves no other document between the sides, and copies of a document
are always on the same side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import chain, islice

from train.data.documents import Document, identity
from train.errors import DataError


def split_documents(documents: Iterable[Document], share: float) -> Iterator[tuple[Document, bool]]:
    """Each document, and whether it is held out. If a source has a single text, the end of the text is held out.

    Args:
        documents: of one source.
        share: the share of documents to hold out, between 0 and 1.
    """
    iterator = iter(documents)
    first = list(islice(iterator, 2))
    if len(first) == 1:
        yield from _cut(first[0], share)
        return
    for document in chain(first, iterator):
        yield document, is_held_out(document, share)


def is_held_out(document: Document, share: float) -> bool:
    """Whether the hash of a document, as a fraction of the largest hash, lies below the share."""
    digest = hashlib.blake2b(identity(document).encode(), digest_size=8).digest()
    return int.from_bytes(digest) < share * 2**64


def _cut(document: Document, share: float) -> Iterator[tuple[Document, bool]]:
    if not isinstance(document, str):
        raise DataError("a single conversation cannot be cut into a part to train on and a part to hold out; add more")
    cut = round(len(document) * (1 - share))
    parts = document[:cut], document[cut:]
    if not all(parts):
        raise DataError("the only document is too short to hold anything out; add more text")
    yield parts[0], False
    yield parts[1], True
