"""Rows of the usual data sets become the documents that they mean; every other row is an error that says why."""

import json

import pytest

from train.data.documents import Completion, Conversation, from_alpaca, read_document
from train.data.streams import StreamEncoder
from train.data.tokenizer import CorpusTokenizer
from train.errors import DataError

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
]
CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"x": [1, 2]}}}]}


def document(row, field="text", **options):
    return read_document(row, "a.jsonl, line 7", field=field, **options)


def test_sharegpt_is_the_conversation_that_it_spells():
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    turns = [{"from": names[turn["role"]], "value": turn["content"]} for turn in CHAT]
    assert document({"conversations": turns}, "conversations") == Conversation(CHAT)
    with pytest.raises(DataError, match=r"line 7: a message is from 'narrator'; known are human, "):
        document({"conversations": [{"from": "narrator", "value": "x"}]}, "conversations")


def test_names_of_roles_stand_for_others():
    turns = [{"from": "narrator", "value": "x"}, {"from": "gpt", "value": "y"}]
    roles = {"narrator": "user"}
    expected = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    assert document({"conversations": turns}, "conversations", roles=roles) == Conversation(expected)
    with pytest.raises(
        DataError, match=r"if it is the assistant set the source's roles = \{ \"my bot\" = \"assistant\" \}"
    ):
        document({"conversations": [{"from": "my bot", "value": "x"}]}, "conversations")


def test_alpaca_is_a_question_and_its_answer():
    row = {"instruction": "Add.", "input": "2 2", "output": "4"}
    user, assistant = {"role": "user", "content": "Add.\n\n2 2"}, {"role": "assistant", "content": "4"}
    assert from_alpaca(row, "here") == {"messages": [user, assistant]}
    system = {"role": "system", "content": "Be brief."}
    assert from_alpaca(row | {"input": "", "system": "Be brief."}, "here") == {
        "messages": [system, user | {"content": "Add."}, assistant]
    }
    with pytest.raises(DataError, match=r"here has no field 'output'"):
        from_alpaca({"instruction": "Add."}, "here")
    with pytest.raises(DataError, match="here: 'input' is not a text"):
        from_alpaca(row | {"input": 4}, "here")
    with pytest.raises(DataError, match='for rows of instruction, input and output set format = "alpaca"'):
        document(row)


def test_text_parts_are_the_text_that_a_template_makes_of_them():
    from transformers.utils.chat_template_utils import render_jinja_template

    parts = [{"role": "user", "content": [{"type": "text", "text": "Hi "}, {"type": "text", "text": "there"}]}]
    source = (
        "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
        "{% for part in m.content %}{{ part.text }}{% endfor %}{% endif %}{% endfor %}"
    )
    joined = document({"text": parts})
    assert joined.messages == [{"role": "user", "content": "Hi there"}]
    expected, _ = render_jinja_template([parts], chat_template=source)
    assert render_jinja_template([joined.messages], chat_template=source)[0] == expected
    with pytest.raises(DataError, match="a part of a message's content is not a text"):
        document({"text": [{"role": "user", "content": [{"type": "image", "url": "x"}]}]})


def test_keys_of_messages_are_kept_and_missing_values_are_not():
    padded = [{**turn, "tool_calls": None, "name": None} for turn in CHAT]  # as Parquet fills rows
    assert document({"text": padded}) == Conversation(CHAT)
    assert document({"text": [*CHAT, CALL]}).messages[-1] == CALL
    without = {"role": "assistant", "tool_calls": CALL["tool_calls"], "content": None}
    assert document({"text": [without]}).messages == [{key: without[key] for key in ("role", "tool_calls")}]


def test_tools_of_a_row_belong_to_its_conversation():
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert document({"text": CHAT, "tools": tools}) == Conversation(CHAT, tools)
    assert document({"text": CHAT, "tools": json.dumps(tools)}) == Conversation(CHAT, tools)
    assert document({"text": CHAT, "tools": tools}, ignored_keys=["tools"]) == Conversation(CHAT)
    for nothing in (None, [], "", "[]"):
        assert document({"text": CHAT, "tools": nothing}) == Conversation(CHAT)
    for wrong in ("f", 7, {"name": "f"}):
        with pytest.raises(DataError, match="line 7: 'tools' is "):
            document({"text": CHAT, "tools": wrong})


@pytest.mark.parametrize(("prompt_field", "field"), [("prompt", "completion"), ("question", "answer")])
def test_a_prompt_and_its_completion_are_texts_or_messages(prompt_field, field):
    def pair(prompt, completion):
        return document({prompt_field: prompt, field: completion, "id": 3}, field, prompt_field=prompt_field)

    assert pair("The sky is", " blue.") == Completion("The sky is", " blue.")
    assert pair(CHAT[:2], CHAT[2:]) == Conversation(CHAT, prompt_messages=2)
    with pytest.raises(DataError, match="neither two texts nor two lists of messages"):
        pair("The sky is", CHAT)


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        ({"prompt": "x", "completion": "y"}, 'set field = "completion" and prompt_field = "prompt"'),
        ({"conversations": CHAT}, 'set field = "conversations"'),
        ({"messages": CHAT, "id": 1}, 'set field = "messages"'),
    ],
)
def test_a_row_without_the_field_names_the_one_to_set(row, hint):
    with pytest.raises(DataError, match=hint):
        document(row)


@pytest.fixture(scope="module")
def encoder(shared_data):
    corpus = CorpusTokenizer.load(shared_data / "smollm2-tokenizer")
    return StreamEncoder(corpus.tokenizer, corpus.separator)


@pytest.mark.parametrize(
    ("prompt", "text"),
    [("The sky is", " blue."), ("2+2=", "4"), ("Q: why? ", "because"), ("", "All of it."), ("un", "believable")],
)
def test_a_completion_is_learned_after_the_tokens_of_its_prompt(encoder, shared_data, prompt, text):
    tokenizer = CorpusTokenizer.load(shared_data / "smollm2-tokenizer").tokenizer
    stream = encoder.encode([Completion(prompt, text)])
    before = tokenizer.encode(prompt, add_special_tokens=False).ids
    tokens = stream.tokens.tolist()
    assert tokens[1 : 1 + len(before)] == before
    assert tokenizer.decode(tokens[1:-1]) == prompt + text
    mask = [True] * len(tokens) if stream.learned is None else stream.learned.tolist()
    assert mask[1:] == [False] * len(before) + [True] * (len(tokens) - 1 - len(before))  # the end of the text counts
    assert tokens[0] == tokens[-1] == tokenizer.token_to_id("<|endoftext|>")
    assert stream.documents.tolist() == [[0, len(tokens) - 1]]
