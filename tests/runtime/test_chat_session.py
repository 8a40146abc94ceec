"""A conversation computes what is new and nothing else, and never loses a message in silence."""

from __future__ import annotations

import pytest

from runtime import ChatSession, LanguageModel, SamplingOptions
from runtime.errors import OptionError, PromptError
from tests.runtime.files import edit_json
from tests.runtime.options import endless, greedy

CONTEXT = 192


@pytest.fixture
def session(tiny_model: LanguageModel) -> ChatSession:
    return ChatSession(tiny_model, system="Hi.")


def answer(session, question, sampling=None, **options) -> str:
    return "".join(chunk.text for chunk in session.ask(question, sampling or endless(max_new_tokens=8), **options))


def ids_of(model, text):
    return model.tokenizer.encode(text, add_special_tokens=False)


def test_the_second_question_prefills_its_own_tokens_alone(session, tiny_model, calls):
    first = answer(session, "the mouse")
    first_prompt = session.prompt_tokens
    assert session.prefilled_tokens == first_prompt
    calls.clear()
    answer(session, "and you?")
    # What closes the answer, the question in its frame, and the last token of the answer, which was never run.
    new = ids_of(tiny_model, "<|im_end|>\n<|im_start|>user\nand you?<|im_end|>\n<|im_start|>assistant\n")
    assert session.prefilled_tokens == len(new) + 1
    assert calls == [len(new) + 1] + [1] * 7
    assert session.prompt_tokens == first_prompt + 8 + len(new)
    assert [message["content"] for message in session.messages[:3]] == ["Hi.", "the mouse", first]


def test_the_cost_of_a_question_does_not_depend_on_what_was_said_before(tiny_model):
    costs = []
    for turns in (1, 2, 4):
        session = ChatSession(tiny_model)
        for _ in range(turns):
            answer(session, "a cat", endless(max_new_tokens=4))
        answer(session, "the mouse?", endless(max_new_tokens=4))
        costs.append(session.prefilled_tokens)
    assert len(set(costs)) == 1


def test_answers_are_those_of_a_model_that_prefills_everything(tiny_model):
    session, fresh = ChatSession(tiny_model), []
    for question in ("the mouse", "and the cat?", "why"):
        _, prompt_ids = session._prompt([*session.messages, {"role": "user", "content": question}])
        fresh.append(tiny_model.generate(prompt_ids, endless(max_new_tokens=10)).token_ids)
        found = [chunk.token_id for chunk in session.ask(question, endless(max_new_tokens=10))]
        assert found == fresh[-1]


def test_a_question_without_an_answer_before_is_that_of_the_plain_chat(session, tiny_model):
    messages = [{"role": "system", "content": "Hi."}, {"role": "user", "content": "the mouse"}]
    expected = "".join(chunk.text for chunk in tiny_model.chat(messages, endless(max_new_tokens=12)))
    assert answer(session, "the mouse", endless(max_new_tokens=12)) == expected


@pytest.mark.parametrize("read", [0, 1, 3])
def test_an_answer_that_is_not_read_to_its_end_is_part_of_the_conversation_as_far_as_it_was(read, session):
    stream = session.ask("the mouse", endless(max_new_tokens=12))
    text = "".join(next(stream).text for _ in range(read))
    answer(session, "next")
    assert list(stream) == []
    contents = [message["content"] for message in session.messages]
    assert contents[:-2] == (["Hi.", "the mouse", text] if read else ["Hi."])
    assert contents[-2] == "next"


def test_a_cancelled_answer_is_kept_and_gone_on_from(session, calls):
    asked = iter(range(100))
    *_, last = session.ask("the mouse", endless(max_new_tokens=12), is_cancelled=lambda: next(asked) == 5)
    assert last.finish_reason == "cancelled"
    calls.clear()
    answer(session, "and?")
    assert calls[0] == session.prefilled_tokens < 40


def test_an_answer_that_goes_on_is_the_one_that_was_not_cut(session, calls):
    whole = answer(session, "the mouse", endless(max_new_tokens=12))
    session.reset("Hi.")
    begun = answer(session, "the mouse", endless(max_new_tokens=5))
    calls.clear()
    rest = "".join(delta.text for delta in session.continue_answer(endless(max_new_tokens=7)))
    assert begun + rest == whole
    assert calls == [1] * 7  # nothing is computed twice
    assert [message["content"] for message in session.messages] == ["Hi.", "the mouse", whole]
    answer(session, "and?", endless(max_new_tokens=4))
    assert len(session.messages) == 5


def test_another_answer_takes_the_place_of_the_last(session):
    answer(session, "the cat")
    first, second = (SamplingOptions(seed=seed, stop_token_ids=(), max_new_tokens=12) for seed in (1, 2))
    first = answer(session, "the mouse", first)
    second = "".join(delta.text for delta in session.ask_again(second))
    assert second != first
    assert [message["content"] for message in session.messages[3:]] == ["the mouse", second]


def test_another_answer_that_is_refused_leaves_the_one_that_is_there(session):
    first = answer(session, "the mouse")
    with pytest.raises(PromptError):
        session.ask_again(endless(max_new_tokens=190))
    assert session.messages[-1]["content"] == first


def test_a_conversation_is_resumed_from_its_messages(session, tiny_model):
    answer(session, "something else")
    turns = ("system", "Be."), ("user", "a cat?"), ("assistant", "the mouse.")
    messages = [{"role": role, "content": content} for role, content in turns]
    session.resume(messages)
    expected = tiny_model.chat([*messages, {"role": "user", "content": "and?"}], endless(max_new_tokens=9))
    assert answer(session, "and?", endless(max_new_tokens=9)) == "".join(delta.text for delta in expected)


@pytest.mark.parametrize("ask", [ChatSession.ask_again, ChatSession.continue_answer])
def test_without_an_answer_there_is_none_to_change(session, ask):
    with pytest.raises(OptionError, match="no answer yet"):
        ask(session)


def test_without_a_limit_an_answer_may_fill_the_context(session):
    *_, last = session.ask("the mouse", endless())
    assert last.finish_reason == "length"
    assert session.prompt_tokens + len(session._written[1]) - session.prompt_tokens == CONTEXT


def test_a_stop_string_cuts_the_text_and_the_next_prompt_is_the_text_as_it_was_shown(session, tiny_model):
    whole = answer(session, "the mouse", endless(max_new_tokens=12))
    session.reset("Hi.")
    shown = answer(session, "the mouse", endless(max_new_tokens=12, stop_strings=[whole[4:6]]))
    assert shown == whole[: whole.index(whole[4:6])]
    _, prompt_ids = session._prompt([*session.messages, {"role": "user", "content": "x"}])
    rendered = tiny_model.chat_template.render([*session.messages, {"role": "user", "content": "x"}])
    assert prompt_ids == ids_of(tiny_model, rendered)


def test_reset_forgets_the_conversation_and_not_the_computed_system_message(session, tiny_model):
    answer(session, "the mouse")
    session.reset("Hi.")
    assert session.messages == [{"role": "system", "content": "Hi."}]
    answer(session, "the cat")
    assert session.prefilled_tokens <= len(ids_of(tiny_model, "cat<|im_end|>\n<|im_start|>assistant\n")) + 2


def fill(session, questions=12, **options):
    """Ask until the context is full; gives how many questions it took."""
    for count in range(questions):
        answer(session, f"question {count}", endless(max_new_tokens=10), **options)
        if session.dropped_messages:
            return count
    raise AssertionError("the context was never full")


def test_under_the_policy_error_a_full_context_refuses_the_question_and_keeps_the_conversation(session):
    with pytest.raises(PromptError, match=r"has \d+ tokens and the answer may take 10; the model's context is 192"):
        fill(session)
    before = list(session.messages)
    with pytest.raises(PromptError, match=r"has \d+ tokens; the model's context is 192: begin anew.*drop_oldest"):
        session.ask("x " * 80)
    assert session.messages == before


def test_under_the_policy_drop_oldest_the_oldest_turns_go_and_it_is_told(tiny_model):
    session = ChatSession(tiny_model, system="Hi.", context_policy="drop_oldest")
    last = fill(session)
    contents = [message["content"] for message in session.messages]
    assert contents[0] == "Hi."
    assert session.dropped_messages % 2 == 0
    assert contents[1] == f"question {session.dropped_messages // 2}"  # the oldest are gone, the others all there
    assert contents[-2] == f"question {last}"
    assert session.prompt_tokens <= CONTEXT // 2  # room for many turns
    answer(session, "again", endless(max_new_tokens=10))
    assert session.dropped_messages == 0
    assert session.prefilled_tokens < session.prompt_tokens // 2


def test_a_question_that_does_not_fit_alone_is_refused_under_any_policy(tiny_model):
    session = ChatSession(tiny_model, context_policy="drop_oldest")
    answer(session, "the mouse")
    with pytest.raises(PromptError, match="shorten the question"):
        session.ask("x " * 90)
    with pytest.raises(PromptError, match="the answer may take 190"):
        session.ask("x", endless(max_new_tokens=190))
    assert session.messages[0]["content"] == "the mouse"


def test_an_unknown_policy_is_refused(tiny_model):
    with pytest.raises(OptionError, match="one of error, drop_oldest, not 'forget'"):
        ChatSession(tiny_model, context_policy="forget")


def test_a_template_that_changes_answers_still_gives_its_own_prompt(broken_bundle):
    source = "{% for m in messages %}{{ m.role }}: {{ m.content | trim | upper }}\n{% endfor %}assistant:"
    edit_json(broken_bundle / "tokenizer_config.json", chat_template=source)
    session = ChatSession(LanguageModel.load(broken_bundle))
    first = answer(session, "the mouse", greedy(max_new_tokens=6))
    answer(session, "the cat", greedy(max_new_tokens=6))
    model = session._model
    expected = model.chat_template.render(
        [
            {"role": "user", "content": "the mouse"},
            {"role": "assistant", "content": first},
            {"role": "user", "content": "the cat"},
        ]
    )
    assert session.prompt_tokens == len(ids_of(model, expected))
