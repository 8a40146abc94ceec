"""`python -m app run`: the page and OpenAI's API over a bundle. `python -m app serve`: the API without the page."""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from app.api.application import Settings, build_api
from app.api.guard import Limits
from app.api.server import DrainingServer
from app.share import Share
from app.wishes import PageLimits
from runtime.bundle import MANIFEST, Bundle
from runtime.errors import ChatTemplateError, MissingDependencyError, OptionError
from runtime.language_model import LanguageModel

KEY_VARIABLE = "SMOLTEXT_API_KEY"


def serve(args: argparse.Namespace, hosts: tuple[str, ...] | None) -> None:
    """Serve until a signal, then drain. `hosts` are the names that a Host header may have; None for any."""
    if args.queue < 0:
        raise OptionError(f"--queue must be at least 0, not {args.queue}")
    key = read_key(args.api_key_file)
    bundle = Bundle.open(args.bundle, revision=args.revision)
    model = LanguageModel.load(
        bundle,
        precision=args.precision,
        prefill_precision=args.prefill_precision,
        threads=args.threads,
        cached_prompts=args.slots,
        max_running=args.slots,
        max_pause_steps=args.max_pause_steps,
    )
    with suppress(ChatTemplateError, MissingDependencyError):
        _ = model.chat_template  # compiled now, and not while the first client waits
    name = args.model_name or model_name(bundle, args.bundle)
    settings = _settings(args, bundle, name, key=key, hosts=hosts)
    where = f"[{args.host}]" if ":" in args.host else args.host
    server = DrainingServer(
        build_api(model, settings),
        host=args.host,
        port=args.port,
        drain_seconds=args.drain_seconds,
        announce=lambda: print(f"{name} ({model.session.precision}) is at http://{where}:{args.port}/v1", flush=True),
    )
    server.run()


def run(args: argparse.Namespace, hosts: tuple[str, ...] | None) -> None:
    """Serve the page until a signal, then drain. `hosts` are as for `serve`."""
    from app.site import Site

    if args.queue < 0:
        raise OptionError(f"--queue must be at least 0, not {args.queue}")
    bundle = Bundle.open(args.bundle, revision=args.revision)
    precision = args.precision or bundle.default_precision
    if precision not in bundle.precisions:
        raise OptionError(f"{args.bundle} has no precision {precision!r}; it has {', '.join(bundle.precisions)}")
    name = args.model_name or model_name(bundle, args.bundle)
    address = f"http://{f'[{args.host}]' if ':' in args.host else args.host}:{args.port}"
    names = None if hosts is None else set(hosts)
    site = Site(
        bundle,
        precision=precision,
        settings=_settings(args, bundle, name, key=None, hosts=names),
        page_limits=PageLimits(args.max_prompt_tokens, args.max_new_tokens, args.max_texts),
        threads=args.threads,
        source=args.bundle,
        share=Share(args.port, names, _announce_share) if args.share else None,
    )

    def announce() -> None:
        print(f"{name} ({precision}) is at {address}/", flush=True)
        print(f"Programs call {address}/v1 (OpenAI's API). Press Ctrl-C to stop.", flush=True)

    DrainingServer(site, host=args.host, port=args.port, drain_seconds=args.drain_seconds, announce=announce).run()


def _announce_share(address: str) -> None:
    print(f"Anybody who has it may use {address}/ until this ends.", flush=True)


def model_name(bundle: Bundle, source: str) -> str:
    """The name that was stored at export, or else that of the Hub's repository or of the folder."""
    stored = bundle.manifest.get("name")
    return stored if isinstance(stored, str) and stored else Path(bundle.repo or source).resolve().name


def _settings(
    args: argparse.Namespace, bundle: Bundle, name: str, *, key: str | None, hosts: Collection[str] | None
) -> Settings:
    made = bundle.folder / MANIFEST
    return Settings(
        name=name,
        created=int(made.stat().st_mtime) if made.is_file() else 0,
        slots=args.slots,
        queue=args.queue,
        most_tokens=args.max_new_tokens,
        limits=Limits(
            api_key=key,
            hosts=hosts,
            origins=tuple(args.allow_origin),
            body_bytes=args.max_body_bytes,
        ),
    )


def read_key(path: str | None) -> str | None:
    """The API key: of the file, or of the environment; None for no key. A command line would show it to others."""
    if path is None:
        return os.environ.get(KEY_VARIABLE) or None
    try:
        key = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"the API key cannot be read from {path}: {error}") from None
    if not key:
        raise OptionError(f"{path} is empty: write the API key in it")
    return key
