"""What Prometheus scrapes at /metrics."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.api.engine import Answer, Engine
from runtime.engine.shared_scheduler import SharedScheduler

FIRST_TOKEN_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
NEXT_TOKEN_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)


class Metrics:
    """Counts what the API does. An `Observer` of the engine."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self._requests = Counter(
            "smoltext_requests", "Answered requests, by path and status.", ["path", "status"], registry=registry
        )
        self._prompt_tokens = Counter("smoltext_prompt_tokens", "Tokens of prompts that were begun.", registry=registry)
        self._cached_tokens = Counter(
            "smoltext_cached_prompt_tokens", "Of these, computed by an earlier request.", registry=registry
        )
        self._new_tokens = Counter("smoltext_generated_tokens", "Tokens generated.", registry=registry)
        self._given_up = Counter(
            "smoltext_given_up_requests", "Requests whose client left before the end.", registry=registry
        )
        self._first = Histogram(
            "smoltext_time_to_first_token_seconds",
            "From the acceptance of a text to its first token.",
            buckets=FIRST_TOKEN_BUCKETS,
            registry=registry,
        )
        self._next = Histogram(
            "smoltext_inter_token_seconds",
            "Between two tokens of a text.",
            buckets=NEXT_TOKEN_BUCKETS,
            registry=registry,
        )

    def watch(self, engine: Engine, scheduler: SharedScheduler) -> None:
        """Tell what waits, runs and is held, whenever somebody asks."""
        self.registry.register(_State(engine, scheduler))

    def answered(self, path: str, status: int) -> None:
        """A request has been answered. Paths that we do not have count as one."""
        self._requests.labels(path, str(status)).inc()

    def ended(self, answer: Answer) -> None:
        """An answer has ended, or its client has left before."""
        for sequence in (text.sequence for text in answer.texts):
            if sequence is not None and sequence.begun_seconds is not None:
                self._prompt_tokens.inc(sequence.prompt_tokens)
                self._cached_tokens.inc(sequence.cached_tokens)
        if not all(text.has_ended for text in answer.texts):
            self._given_up.inc()

    def first_token(self, seconds: float) -> None:
        """See Observer."""
        self._new_tokens.inc()
        self._first.observe(seconds)

    def next_token(self, seconds: float) -> None:
        """See Observer."""
        self._new_tokens.inc()
        self._next.observe(seconds)

    def exposition(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)


class _State(Collector):
    """The engine and its scheduler at the moment of a scrape."""

    def __init__(self, engine: Engine, scheduler: SharedScheduler) -> None:
        self._engine = engine
        self._scheduler = scheduler

    def collect(self) -> Iterator[Metric]:
        running, held, kept = self._scheduler.load()
        waiting = max(0, self._engine.accepted - running)
        yield GaugeMetricFamily("smoltext_requests_running", "Texts that are generated now.", running)
        yield GaugeMetricFamily("smoltext_requests_waiting", "Texts in line.", waiting)
        cache = GaugeMetricFamily("smoltext_cache_bytes", "KV caches of running texts, and kept ones.", labels=["of"])
        cache.add_metric(["running"], held)
        cache.add_metric(["kept"], kept)
        yield cache
