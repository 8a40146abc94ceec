"""The models behind the page: one bundle, each of its precisions opened when first asked for, and kept."""

from __future__ import annotations

import threading

from runtime.bundle import Bundle
from runtime.engine.session import DecoderSession
from runtime.language_model import LanguageModel
from runtime.text.tokenizer import Tokenizer

SLOTS = 8  # texts of the page and the API that run at once, in each precision


class Models:
    """A bundle's precisions, over one tokenizer.

    Attributes:
        bundle: what they come from.

    Raises:
        BundleError: the bundle's tokenizer is not sound.
    """

    def __init__(self, bundle: Bundle, *, threads: int | None = None) -> None:
        self.bundle = bundle
        self._lock = threading.Lock()
        self._threads = threads
        self._tokenizer = Tokenizer(bundle)
        self._open: dict[str, LanguageModel] = {}

    def get(self, precision: str) -> LanguageModel:
        """The model in a precision. Raises OptionError where there is none, BundleError where it cannot be opened."""
        with self._lock:
            if precision not in self._open:
                session = DecoderSession(self.bundle, precision, threads=self._threads)
                self._open[precision] = LanguageModel(
                    self.bundle, session, self._tokenizer, cached_prompts=SLOTS, max_running=SLOTS
                )
            return self._open[precision]
