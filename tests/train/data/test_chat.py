"""The loss mask as a law: what is learned is what the assistant says, its end of turn in, and nothing else."""

import pytest

from runtime.errors import ChatTemplateError
from train.data.chat import CHATML, ChatTemplate, encode_conversation, end_of_turn
from train.data.documents import Conversation
from train.data.streams import StreamEncoder
from train.data.tokenizer import CorpusTokenizer
from train.errors import DataError

LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}"
)
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}"
    "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 2 + 2? Don't say 5."},
    {"role": "assistant", "content": "4."},
    {"role": "user", "content": "Are you sure? \U0001f642"},
    {"role": "assistant", "content": "Yes,\nI am: größer als 3 \U0001f642"},
    {"role": "user", "content": "Thanks"},
]


def template(source, **tokens):
    return ChatTemplate(source, tokens)


def said(tokenizer, chat, messages):
    """The learned stretches of a conversation, as text."""
    ids, learned = encode_conversation(tokenizer, chat, Conversation(messages))
    stretches, before = [], False
    for token_id, is_learned in zip(ids, learned, strict=True):
        if is_learned and not before:
            stretches.append([])
        if is_learned:
            stretches[-1].append(token_id)
        before = is_learned
    return [tokenizer.decode(stretch, skip_special_tokens=False) for stretch in stretches]


@pytest.fixture(scope="session")
def smollm2(shared_data):
    return CorpusTokenizer.load(shared_data / "smollm2-tokenizer")


@pytest.fixture(scope="session")
def chatml():
    return template(CHATML.read_text())


@pytest.mark.parametrize("source", [CHATML.read_text(), SMOLLM2], ids=["chatml", "smollm2"])
def test_what_the_assistant_says_is_learned_and_its_end_of_turn(smollm2, source):
    expected = ["4.<|im_end|>", "Yes,\nI am: größer als 3 \U0001f642<|im_end|>"]
    assert said(smollm2.tokenizer, template(source), TURNS) == expected


def test_a_template_without_turn_tokens_learns_what_stands_after_the_prompt(smollm2):
    chat = template(LLAMA2, bos_token="<|im_start|>", eos_token="<|endoftext|>")
    turns = [TURNS[1], TURNS[2], TURNS[3], TURNS[4]]
    learned = said(smollm2.tokenizer, chat, turns)
    assert learned == [" 4. <|endoftext|>", " Yes,\nI am: größer als 3 \U0001f642 <|endoftext|>"]


def test_what_another_speaker_says_never_matters(smollm2, chatml):
    other = [{**turn, "content": "Something else."} if turn["role"] != "assistant" else turn for turn in TURNS]
    assert said(smollm2.tokenizer, chatml, other) == said(smollm2.tokenizer, chatml, TURNS)


def test_words_like_those_of_the_template_are_learned_when_the_assistant_says_them(smollm2, chatml):
    turns = [{"role": "user", "content": "assistant"}, {"role": "assistant", "content": "assistant\nuser"}]
    assert said(smollm2.tokenizer, chatml, turns) == ["assistant\nuser<|im_end|>"]


def test_the_mask_is_the_one_that_transformers_makes(smollm2, shared_data):
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(shared_data / "smollm2-tokenizer")
    marked = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{% else %}{{ m.content + '<|im_end|>' }}"
        "{% endif %}{{ '\n' }}{% endfor %}"
    )
    encoded = theirs.apply_chat_template(
        TURNS, chat_template=marked, return_assistant_tokens_mask=True, return_dict=True, tokenize=True
    )
    ids, learned = encode_conversation(smollm2.tokenizer, template(CHATML.read_text()), Conversation(TURNS))
    assert ids == encoded["input_ids"]
    assert [int(is_learned) for is_learned in learned] == encoded["assistant_masks"]


def test_a_stream_learns_the_assistants_tokens_alone(smollm2, chatml):
    encoder = StreamEncoder(smollm2.tokenizer, smollm2.separator, chatml)
    stream = encoder.encode(["A text.", Conversation(TURNS), "Another."])
    tokenizer = smollm2.tokenizer
    learned = tokenizer.decode(stream.tokens[1:][stream.learned[1:]].tolist(), skip_special_tokens=False)
    conversation = "4.<|im_end|>Yes,\nI am: größer als 3 \U0001f642<|im_end|>"
    assert learned == f"A text.<|endoftext|>{conversation}Another.<|endoftext|>"
    assert [tokenizer.decode(ids) for ids in stream.texts()][::2] == ["A text.", "Another."]


def test_a_conversation_in_which_nobody_answers_is_left_out(smollm2, chatml):
    encoder = StreamEncoder(smollm2.tokenizer, smollm2.separator, chatml)
    assert len(encoder.encode([Conversation(TURNS[:2]), Conversation(TURNS[:3])]).documents) == 1


def test_the_end_of_a_turn_is_found(smollm2, chatml):
    assert smollm2.tokenizer.id_to_token(end_of_turn(smollm2.tokenizer, chatml)) == "<|im_end|>"
    plain = template("{% for m in messages %}{{ m.content + '\n' }}{% endfor %}")
    assert end_of_turn(smollm2.tokenizer, plain) is None


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("{{ messages[99].content.x.y }}", "the chat template fails on these messages"),
        ("{{ raise_exception('no system') }}", "no system"),
        ("{% for m in messages %}{{ m.role }}{% endfor %}{{ messages | length }}", "does not continue its own prompt"),
        ("{{ ().__class__.__bases__ }}", "which it may not"),
    ],
)
def test_a_template_that_will_not_do_is_an_error(smollm2, source, complaint):
    with pytest.raises(DataError, match=complaint):
        encode_conversation(smollm2.tokenizer, template(source), Conversation(TURNS))


def test_a_template_that_does_not_parse_is_an_error(smollm2):
    with pytest.raises(ChatTemplateError, match="does not parse"):
        encode_conversation(smollm2.tokenizer, template("{% for m in messages %}"), Conversation(TURNS))


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'a' * 20000000000 }}",
        "{% set ns = namespace(s='a') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
        "{{ '%99999999999d' % 1 }}",
    ],
    ids=["loops", "product", "doubling", "format"],
)
def test_a_template_without_bounds_is_one_clear_error(smollm2, source):
    with pytest.raises(DataError, match=r"template (does too much work|makes something far too large)") as error:
        encode_conversation(smollm2.tokenizer, template(source), Conversation(TURNS))
    assert "\n" not in str(error.value)


def test_conversations_without_a_template_are_an_error(smollm2):
    with pytest.raises(DataError, match=r"set tokenizer\.chat_template"):
        StreamEncoder(smollm2.tokenizer, smollm2.separator).encode([Conversation(TURNS)])
