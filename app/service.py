"""What the page's endpoints serve, and how a text is streamed to a visitor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from fastapi import Request
from starlette.responses import Response

from app.api.streaming import EventStream
from app.generation import MakePrompt, PageText, Visitors
from app.models import Models
from app.torch_process import TorchProcess
from app.wishes import PageLimits, Wish


@dataclass
class PageService:
    """What the page's endpoints share.

    Attributes:
        name: of the model.
        models: what computes.
        limits: of one visitor.
        source: the bundle as the command line named it.
        visitors: how many texts each has under way.
    """

    name: str
    models: Models
    limits: PageLimits
    source: str = "BUNDLE"
    visitors: Visitors = field(default_factory=Visitors)

    @cached_property
    def torch(self) -> TorchProcess:
        """The PyTorch model that the bundle was exported from; it is started when it is asked for."""
        return TorchProcess(self.models.bundle, threads=self.models.threads)

    def stream(
        self, request: Request, wish: Wish, make_prompt: MakePrompt, make_text: Callable[..., PageText] = PageText
    ) -> Response:
        """The events of a text, which ends when the visitor no longer listens."""
        client = request.client.host if request.client else ""
        self.visitors.enter(client, self.limits.texts)
        text = make_text(self.models, wish, make_prompt, self.limits)

        def end() -> None:
            text.close()
            self.visitors.leave(client)

        return EventStream(text.events(), end)


def page_service(request: Request) -> PageService:
    """The service of the application that a request came to."""
    service: PageService = request.app.state.page
    return service
