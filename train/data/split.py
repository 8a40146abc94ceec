"""Which documents are held out. The hash of a document's content decides, and nothing else.

Adding, removing or reordering documents therefore moves no other document between the sides, and copies of a document
are always on the same side. The one exception: where no hash of a small source falls below the share, the document with
the lowest hash is held out, so that thirty conversations can be trained on and evaluated.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice

from train.data.documents import Document, identity
from train.errors import DataError

# A source of at most this many documents has one that is held out.
SMALL_SOURCE_DOCUMENTS = 10_000


def split_documents(documents: Iterable[Document], share: float) -> Iterator[tuple[Document, bool]]:
    """Each document, and whether it is held out. If a source has a single text, the end of the text is held out.

    Args:
        documents: of one source.
        share: the share of documents to hold out, between 0 and 1; 0 holds none out.
    """
    iterator = iter(documents)
    if share == 0:
        yield from ((document, False) for document in iterator)
        return
    first = list(_to_first_held_out(iterator, share))
    if len(first) == 1:
        yield from _cut(first[0], share)
    elif any(is_held_out(document, share) for document in first):
        yield from ((document, is_held_out(document, share)) for document in first)
    else:
        yield from _lowest_held_out(first)
    for document in iterator:
        yield document, is_held_out(document, share)


def is_held_out(document: Document, share: float) -> bool:
    """Whether the hash of a document, as a fraction of the largest hash, lies below the share."""
    return _hash(document) < share * 2**64


def _hash(document: Document) -> int:
    return int.from_bytes(hashlib.blake2b(identity(document).encode(), digest_size=8).digest())


def _to_first_held_out(documents: Iterator[Document], share: float) -> Iterator[Document]:
    """The first documents up to one that is held out: at least two of them, and at most `SMALL_SOURCE_DOCUMENTS`."""
    found = False
    for number, document in enumerate(islice(documents, SMALL_SOURCE_DOCUMENTS), start=1):
        yield document
        found = found or is_held_out(document, share)
        if found and number > 1:
            return


def _lowest_held_out(documents: list[Document]) -> Iterator[tuple[Document, bool]]:
    """All documents of a small source; those with the lowest hash are held out, unless nothing else is there."""
    hashes = [_hash(document) for document in documents]
    lowest = min(hashes, default=0) if len(set(hashes)) > 1 else -1
    yield from ((document, number == lowest) for document, number in zip(documents, hashes, strict=True))


def _cut(document: Document, share: float) -> Iterator[tuple[Document, bool]]:
    if not isinstance(document, str):
        raise DataError("a single conversation cannot be cut into a part to train on and a part to hold out; add more")
    cut = round(len(document) * (1 - share))
    parts = document[:cut], document[cut:]
    if not all(parts):
        raise DataError("the only document is too short to hold anything out; add more text")
    yield parts[0], False
    yield parts[1], True
