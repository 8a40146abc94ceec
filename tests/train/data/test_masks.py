"""What is learned of a conversation: generation blocks as in transformers, keys, weights, and rows without a mask."""

import json

import pytest

from train.data.chat import CHATML, ChatTemplate, UnmaskableError, encode_conversation, end_of_turn
from train.data.config import DataSection, SourceSection
from train.data.corpus import build_corpus
from train.data.documents import Conversation
from train.data.shards import TokenFolder
from train.data.tokenizer import CorpusTokenizer
from train.errors import DataError, RecipeError

HEAD = "{% for m in messages %}<|im_start|>{{ m.role }}\n"
END = "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
ASSISTANT = "{% if m.role == 'assistant' %}"
MARKED = {
    "content": HEAD
    + ASSISTANT
    + "{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}"
    + END,
    "end of turn": "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    + ASSISTANT
    + "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ m.content + '<|im_end|>' }}{% endif %}\n{% endfor %}",
    "header": "{%- for m in messages -%}"
    + ASSISTANT
    + "{%- generation -%}<|im_start|>assistant\n{{ m.content }}<|im_end|>\n{%- endgeneration -%}"
    "{%- else -%}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{%- endif -%}{%- endfor -%}",
    "within a token": HEAD + ASSISTANT + "say{% generation %}{{ m.content }}{% endgeneration %}ing"
    "{% else %}{{ m.content }}{% endif %}" + END,
    "another speaker": HEAD + "{% if m.role == 'user' %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{% else %}{{ m.content }}{% endif %}" + END,
}
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 2 + 2? Don't say 5."},
    {"role": "assistant", "content": "4."},
    {"role": "user", "content": "Are you sure? \U0001f642"},
    {"role": "assistant", "content": "Yes,\nI am: größer als 3 \U0001f642"},
]
# As Qwen3 and DeepSeek do, the reasoning of earlier turns is left out.
FORGETFUL = (
    HEAD + ASSISTANT + "{% if loop.last %}<think>\n{{ m.reasoning_content or '' }}\n</think>\n\n{% endif %}{% endif %}"
    "{{ m.content }}{% for call in m.tool_calls or [] %}<tool_call>{{ call | tojson }}</tool_call>{% endfor %}" + END
)
ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
CALLS = [{"type": "function", "function": {"name": "add", "arguments": {"x": 2, "y": 2}}}]


@pytest.fixture(scope="module")
def folder(shared_data):
    return shared_data / "smollm2-tokenizer"


@pytest.fixture(scope="module")
def tokenizer(folder):
    return CorpusTokenizer.load(folder).tokenizer


def template(source):
    return ChatTemplate(source, {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"})


def learned(tokenizer, source, messages, **options):
    ids, mask = encode_conversation(tokenizer, template(source), Conversation(messages, where="a, line 7"), **options)
    return tokenizer.decode(
        [i for i, is_learned in zip(ids, mask, strict=True) if is_learned], skip_special_tokens=False
    )


@pytest.mark.parametrize("source", MARKED.values(), ids=MARKED)
def test_generation_blocks_are_the_mask_of_transformers(folder, tokenizer, source):
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder).apply_chat_template(
        TURNS, chat_template=source, return_assistant_tokens_mask=True, return_dict=True, tokenize=True
    )
    ids, mask = encode_conversation(tokenizer, template(source), Conversation(TURNS))
    assert ids == theirs["input_ids"]
    assert list(map(int, mask)) == theirs["assistant_masks"]
    assert 0 < sum(mask) < len(mask)


def test_the_end_of_a_marked_turn_is_found_where_it_is_marked(tokenizer):
    assert end_of_turn(tokenizer, template(MARKED["content"])) is None
    broken = MARKED["end of turn"].replace("'<|im_end|>' }}{% endgeneration", "'<|im_end|>\\n' }}{% endgeneration")
    assert tokenizer.id_to_token(end_of_turn(tokenizer, template(broken))) == "<|im_end|>"
    assert tokenizer.id_to_token(end_of_turn(tokenizer, template(MARKED["end of turn"]))) == "<|im_end|>"


@pytest.mark.parametrize("source", [CHATML.read_text(), MARKED["end of turn"]], ids=["prompts", "blocks"])
def test_a_turn_of_weight_zero_is_read_and_not_learned(tokenizer, source):
    turns = [{**TURNS[2], "weight": 0}, {**TURNS[4], "weight": 1}]
    assert learned(tokenizer, source, [*TURNS[:2], turns[0], TURNS[3], turns[1]]) == TURNS[4]["content"] + "<|im_end|>"
    with pytest.raises(DataError, match=r"^a, line 7, message 3: weight must be 0 or 1, not 0\.5$"):
        learned(tokenizer, source, [*TURNS[:2], {**TURNS[2], "weight": 0.5}])
    with pytest.raises(DataError, match=r"message 2: the chat template does not use the key 'weight'"):
        learned(tokenizer, source, [TURNS[0], {**TURNS[1], "weight": 1}, TURNS[2]])


def test_messages_of_a_prompt_are_not_learned(tokenizer):
    conversation = Conversation(TURNS, prompt_messages=4)
    ids, mask = encode_conversation(tokenizer, template(CHATML.read_text()), conversation)
    assert tokenizer.decode([i for i, m in zip(ids, mask, strict=True) if m]) == TURNS[4]["content"]


@pytest.mark.parametrize(
    ("message", "key"),
    [
        ({"role": "assistant", "content": "", "tool_calls": CALLS}, "tool_calls"),
        ({"role": "assistant", "content": "4.", "reasoning_content": "Add them."}, "reasoning_content"),
        ({"role": "assistant", "content": "", "function_call": CALLS[0]["function"]}, "function_call"),
        ({"role": "assistant", "content": "4.", "name": "Ada"}, "name"),
    ],
)
def test_a_key_that_the_template_does_not_use_is_an_error(tokenizer, message, key):
    with pytest.raises(
        DataError, match=rf"^a, line 7, message 3: the chat template does not use the key '{key}'"
    ) as error:
        learned(tokenizer, CHATML.read_text(), [*TURNS[:2], message])
    assert not isinstance(error.value, UnmaskableError)  # never skipped
    for nothing in ("", [], {}):
        assert learned(tokenizer, CHATML.read_text(), [*TURNS[:2], {**TURNS[2], key: nothing}]) == "4.<|im_end|>"


def test_tools_that_the_template_does_not_use_are_an_error(tokenizer):
    conversation = Conversation(TURNS, tools=CALLS, where="a, line 7")
    with pytest.raises(DataError, match=r"^a, line 7: the chat template does not use the key 'tools'"):
        encode_conversation(tokenizer, template(CHATML.read_text()), conversation)
    using = "{% if tools %}{{ tools | tojson }}\n{% endif %}" + CHATML.read_text()
    ids, _ = encode_conversation(tokenizer, template(using), conversation)
    assert tokenizer.decode(ids).startswith(json.dumps(CALLS))


def test_keys_that_the_template_uses_are_learned_as_it_writes_them(tokenizer):
    said = learned(tokenizer, FORGETFUL, [TURNS[1], {"role": "assistant", "content": "", "tool_calls": CALLS}])
    expected = f"<think>\n\n</think>\n\n<tool_call>{json.dumps(CALLS[0])}</tool_call><|im_end|>"
    assert said == expected
    said = learned(
        tokenizer, FORGETFUL, [TURNS[1], {"role": "assistant", "content": "4.", "reasoning_content": "Add."}]
    )
    assert said == "<think>\nAdd.\n</think>\n\n4.<|im_end|>"


def test_a_turn_emptied_of_ignored_keys_does_not_teach_silence(tokenizer, tmp_path):
    rows = [{"messages": [TURNS[1], {"role": "assistant", "content": "", "tool_calls": CALLS}, *TURNS[3:]]}]
    [source] = corpus_of(tmp_path, rows * 30, CHATML.read_text(), tokenizer, ignored_keys=("tool_calls",)).sources
    [stream] = source.train
    said = tokenizer.decode(stream.tokens[1:][stream.learned[1:]].tolist(), skip_special_tokens=False)
    assert set(said.split("<|im_end|>")) == {TURNS[4]["content"], ""}
    assert said.count("<|im_end|>") == len(stream.documents)


def test_reasoning_that_is_written_in_the_last_turn_alone_counts_as_used(tokenizer):
    turns = [TURNS[1], {**TURNS[2], "reasoning_content": "Add."}, *TURNS[3:]]
    said = learned(tokenizer, FORGETFUL, turns, on_unmaskable="last_turn")
    assert said == f"<think>\n\n</think>\n\n{TURNS[4]['content']}<|im_end|>"
    with pytest.raises(
        UnmaskableError, match=r"^a, line 7, message 2: the chat template does not continue its own prompt"
    ):
        learned(tokenizer, FORGETFUL, turns)


def test_a_row_that_the_template_refuses_is_unmaskable_and_a_bound_is_not(tokenizer):
    with pytest.raises(UnmaskableError, match=r"^a, line 7: .*roles must alternate"):
        learned(tokenizer, ALTERNATING, TURNS)
    with pytest.raises(DataError, match=r"^a, line 7: .*far too large") as error:
        learned(tokenizer, "{{ 'a' * 20000000000 }}", TURNS)
    assert not isinstance(error.value, UnmaskableError)
    loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(DataError, match=r"^a, line 7: .*does too much work") as error:
        learned(tokenizer, loops, TURNS)
    assert not isinstance(error.value, UnmaskableError)


def corpus_of(tmp_path, rows, source, tokenizer, on_unmaskable="skip", **options):
    path = tmp_path / "rows.jsonl"
    heads = [{"role": "user", "content": f"{number}. {TURNS[1]['content']}"} for number in range(len(rows))]
    rows = [{"messages": [head, *row["messages"][1:]]} for head, row in zip(heads, rows, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    section = SourceSection(path=str(path), field="messages", **options)
    data = DataSection(sources=(section,), held_out=0.2, context=16, on_unmaskable=on_unmaskable)
    corpus_tokenizer = CorpusTokenizer(tokenizer, chat_template=template(source))
    corpus = build_corpus(data, corpus_tokenizer, seed=0)
    folder = TokenFolder(tmp_path / f"tokens-{on_unmaskable}")
    folder.make(data, corpus_tokenizer, 0, progress=False)
    assert folder.corpus(data, corpus_tokenizer, 0).sources[0].skipped == corpus.sources[0].skipped
    return corpus


def test_rows_that_cannot_be_masked_are_counted_and_skipped(tokenizer, tmp_path):
    rows = [{"messages": TURNS[1:3]}] * 20 + [{"messages": TURNS[1:]}] * 10  # the second kind has two turns
    [source] = corpus_of(tmp_path, rows, FORGETFUL, tokenizer).sources
    assert source.skipped.count == 10
    assert "rows.jsonl, line " in source.skipped.first
    documents = sum(len(stream.documents) for stream in (*source.train, *source.held_out))
    assert documents == 20


def test_rows_that_cannot_be_masked_learn_their_last_turn(tokenizer, tmp_path):
    [source] = corpus_of(tmp_path, [{"messages": TURNS[1:]}] * 30, FORGETFUL, tokenizer, "last_turn").sources
    assert source.skipped.count == 0
    [stream] = source.train
    said = tokenizer.decode(stream.tokens[1:][stream.learned[1:]].tolist(), skip_special_tokens=False)
    assert said == f"<think>\n\n</think>\n\n{TURNS[4]['content']}<|im_end|>" * len(stream.documents)


def test_a_row_that_cannot_be_masked_stops_the_run_if_so_configured(tokenizer, tmp_path):
    rows = [{"messages": TURNS[1:3]}] * 20 + [{"messages": TURNS[1:]}]
    with pytest.raises(UnmaskableError, match=r"rows\.jsonl, line 21, message 2"):
        corpus_of(tmp_path, rows, FORGETFUL, tokenizer, "stop")
    with pytest.raises(RecipeError, match=r"data\.on_unmaskable must be skip, last_turn or stop, not 'guess'"):
        DataSection(on_unmaskable="guess")


def test_a_corpus_of_skipped_rows_alone_says_why(tokenizer, tmp_path):
    with pytest.raises(DataError, match=r"30 conversations were skipped .*; the first: .*roles must alternate"):
        corpus_of(tmp_path, [{"messages": [TURNS[1], *TURNS[1:]]}] * 30, ALTERNATING, tokenizer)
