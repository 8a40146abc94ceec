"""A text for the page: what is sent, who is served when, and that nothing is computed for nobody."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from app.wishes import PageLimits
from runtime import LanguageModel, SamplingOptions
from runtime.engine.scheduler import Scheduler
from tests.app.sites import CHAT, CONTINUE, Served, endless, events, lines_of, served, text

GREEDY = {"temperature": 0}
SECRET = "the mouse's secret"


@pytest.fixture(scope="module")
def site(tiny_bundle) -> Iterator[Served]:
    with served(endless(tiny_bundle)) as found:
        yield found


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step takes 10 ms."""
    step = Scheduler.step

    def slowed(scheduler: Scheduler) -> list:
        time.sleep(0.01)
        return step(scheduler)

    monkeypatch.setattr(Scheduler, "step", slowed)


def test_a_greedy_text_is_the_runtimes(site: Served, tiny_bundle) -> None:
    model = LanguageModel.load(endless(tiny_bundle), threads=1)
    wanted = model.generate("The mouse", SamplingOptions(temperature=0, max_new_tokens=30)).text
    assert site.text("The mouse", max_new_tokens=30, **GREEDY) == wanted


def test_what_is_sent_grows_with_the_text_and_not_with_its_square(site: Served, slow) -> None:
    def size(tokens: int) -> int:
        return len(site.post(CONTINUE, {"text": "The", "sampling": {"max_new_tokens": tokens} | GREEDY}).content)

    short, long = size(20), size(160)
    assert long < 8 * short
    assert long < 160 * 60


def test_a_stream_begins_with_its_figures_and_ends_with_them(site: Served) -> None:
    found = site.events(CONTINUE, {"text": "The mouse", "sampling": {"max_new_tokens": 5, "seed": 7}})
    start = next(event["start"] for event in found if "start" in event)
    assert (start["limit_tokens"], start["seed"], start["precision"]) == (5, 7, "int8")
    assert start["context_tokens"] == 192
    end = found[-1]["end"]
    assert (end["finish_reason"], end["new_tokens"]) == ("length", 5)
    assert sum(event.get("n", 0) for event in found) == 5
    assert end["tokens_per_second"] > 0


def test_a_seed_that_was_drawn_gives_the_text_again(site: Served) -> None:
    wish = {"text": "The mouse", "sampling": {"max_new_tokens": 20, "temperature": 1.5}}
    first = site.events(CONTINUE, wish)
    seed = next(event["start"]["seed"] for event in first if "start" in event)
    assert text(site.events(CONTINUE, {**wish, "sampling": wish["sampling"] | {"seed": seed}})) == text(first)


def test_certainty_tells_each_tokens_probability_and_five_rivals(site: Served) -> None:
    wish = {"text": "The mouse", "certainty": True, "sampling": {"max_new_tokens": 12} | GREEDY}
    found = site.events(CONTINUE, wish)
    tokens = [token for event in found for token in event.get("tokens", ())]
    assert "".join(token["t"] for token in tokens) == site.text("The mouse", max_new_tokens=12, **GREEDY)
    for token in tokens:
        rivals = [probability for _, probability in token["rivals"]]
        assert len(rivals) == 5
        assert rivals == sorted(rivals, reverse=True)
        assert token["p"] >= rivals[0]  # it is greedy
        assert 0 < token["p"] + sum(rivals) <= 1.0001
        assert all(isinstance(spelling, str) for spelling, _ in token["rivals"])


def test_who_waits_is_told_the_place_and_leaving_frees_it_at_once(tiny_bundle, slow) -> None:
    with served(endless(tiny_bundle), slots=1) as site, site.client() as client:
        site.wait(site.site.models.ready)
        long = {"text": "The mouse", "sampling": {"max_new_tokens": 180} | GREEDY}
        with client.stream("POST", CONTINUE, json=long) as first:
            running = lines_of(first)
            while "t" not in next(running):
                pass
            with client.stream("POST", CONTINUE, json=long) as second:
                waiting = lines_of(second)
                while "queue" not in (event := next(waiting)):
                    pass
                assert event == {"queue": 1}
                assert site.site.models.ready()["int8"].engine.accepted == 2
            # It has left, while the first one still runs.
            site.wait(lambda: site.site.models.ready()["int8"].engine.accepted == 1)
        site.wait_until_free()


def test_nothing_is_computed_for_a_visitor_who_has_left(tiny_bundle, slow) -> None:
    with served(endless(tiny_bundle)) as site, site.client() as client:
        site.wait(site.site.models.ready)
        for path, wish in ((CONTINUE, {"text": "x"}), (CHAT, {"messages": [{"role": "user", "content": "x"}]})):
            with client.stream("POST", path, json={**wish, "sampling": {"max_new_tokens": 150}}) as answer:
                coming = lines_of(answer)
                while "t" not in next(coming):
                    pass
            site.wait_until_free()
            scheduler = site.site.models.ready()["int8"].model.scheduler
            site.wait(lambda scheduler=scheduler: scheduler.load()[0] == 0)
            assert not site.site._service.visitors.texts


def test_a_megabyte_is_refused_before_it_is_computed_and_never_echoed(site: Served) -> None:
    huge = (SECRET + " ") * (10**6 // (len(SECRET) + 1))
    for path, wish in (
        (CONTINUE, {"text": huge}),
        (CHAT, {"messages": [{"role": "user", "content": huge}]}),
        (CHAT, {"messages": [{"role": "system", "content": huge}, {"role": "user", "content": "Hi"}]}),
    ):
        started = time.monotonic()
        answer = site.post(path, wish)
        assert time.monotonic() - started < 5, "seconds were spent on a prompt that cannot fit"
        (error,) = [event["error"] for event in events(answer.text) if "error" in event]
        assert "shorten it" in error
        assert SECRET not in answer.text
        assert len(answer.content) < 1000


def test_the_oldest_questions_are_left_out_of_a_conversation_that_is_too_long(site: Served) -> None:
    said = [
        {"role": role, "content": f"mouse {number} " * 6} for number in range(200) for role in ("user", "assistant")
    ]
    wish = {"messages": [*said, {"role": "user", "content": "Who?"}], "sampling": {"max_new_tokens": 4}}
    found = site.events(CHAT, wish)
    start = next(event["start"] for event in found if "start" in event)
    assert start["dropped_messages"] % 2 == 0
    assert 380 < start["dropped_messages"] <= 400
    assert start["prompt_tokens"] < 192
    assert "end" in found[-1]


def test_an_address_may_have_so_many_texts(tiny_bundle, slow) -> None:
    with served(endless(tiny_bundle), limits=PageLimits(texts=1)) as site, site.client() as client:
        site.wait(site.site.models.ready)
        with client.stream("POST", CONTINUE, json={"text": "x", "sampling": {"max_new_tokens": 150}}) as answer:
            coming = lines_of(answer)
            next(coming)
            refused = site.post(CONTINUE, {"text": "x"})
            assert refused.status_code == 429
            assert refused.json()["error"]["code"] == "too_many_texts"
            # Another one, as a proxy on this machine tells it.
            headers = {"x-forwarded-for": "203.0.113.9"}
            wish = {"text": "x", "sampling": {"max_new_tokens": 1}}
            assert text(events(site.post(CONTINUE, wish, headers=headers).text)) is not None
        site.wait(lambda: site.post(CONTINUE, {"text": "x", "sampling": {"max_new_tokens": 1}}).status_code == 200)


def test_prompts_and_texts_have_limits(tiny_bundle) -> None:
    limits = PageLimits(prompt_tokens=10, new_tokens=3)
    with served(endless(tiny_bundle), limits=limits) as site:
        assert site.events(CONTINUE, {"text": "mouse " * 30})[-1]["error"].endswith("this server takes 10 at most")
        end = site.events(CONTINUE, {"text": "x", "sampling": {"max_new_tokens": 100}})[-1]["end"]
        assert (end["new_tokens"], end["finish_reason"]) == (3, "length")


@pytest.mark.parametrize(
    ("sampling", "said"),
    [
        ({"temperature": -1}, "temperature must be 0"),
        ({"top_p": 0}, "top_p must be above 0"),
        ({"regex": "("}, "regex"),
        ({"json_schema": "{"}, "json_schema"),
        ({"json_schema": "{}", "regex": "a"}, "exclude each other"),
    ],
)
def test_an_option_that_cannot_be_is_an_event_that_names_it(site: Served, sampling, said) -> None:
    found = site.events(CONTINUE, {"text": SECRET, "sampling": sampling})
    assert list(found[-1]) == ["error"]
    assert said in found[-1]["error"]
    assert SECRET not in found[-1]["error"]
    assert not site.is_busy


def test_two_hundred_visitors_at_once_are_served_or_told_to_wait(tiny_bundle) -> None:
    with served(endless(tiny_bundle), slots=4, queue=60, limits=PageLimits(texts=250)) as site:
        site.wait(site.site.models.ready)
        wanted = site.text("The mouse", max_new_tokens=8, **GREEDY)
        wish = {"text": "The mouse", "sampling": {"max_new_tokens": 8} | GREEDY}
        answers: list[list[dict]] = []

        def visit() -> None:
            answers.append(events(httpx.post(site.url + CONTINUE, json=wish, timeout=60).text))

        threads = [threading.Thread(target=visit) for _ in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(answers) == 200
        told = [found[-1]["error"] for found in answers if "error" in found[-1]]
        assert all("too many requests wait" in error for error in told)
        whole = [text(found) for found in answers if "end" in found[-1]]
        assert len(whole) >= 64
        assert set(whole) == {wanted}
        site.wait_until_free()


def test_visitors_greedy_texts_are_not_mixed_up(site: Served) -> None:
    prompts = [f"The {word}" for word in ("mouse", "cat", "dog", "bird", "king", "queen", "boy", "girl")]
    alone = {prompt: site.text(prompt, max_new_tokens=20, **GREEDY) for prompt in prompts}
    together: dict[str, str] = {}

    def visit(prompt: str) -> None:
        together[prompt] = site.text(prompt, max_new_tokens=20, **GREEDY)

    threads = [threading.Thread(target=visit, args=(prompt,)) for prompt in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone
