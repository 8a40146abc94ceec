"""Templates of the kinds that public models bring: ours renders what transformers renders, and fails where it fails.

The templates beside this file were written for it, after the manner of the models that their names say.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime import Bundle
from runtime.errors import ChatTemplateError
from runtime.text.chat_template import ChatTemplate
from runtime.text.jinja_template import JinjaTemplate
from tests.runtime.files import edit_json

FOLDER = Path(__file__).parent / "templates"
TEMPLATES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.jinja"))}

SYSTEM = {"role": "system", "content": " Be brief. /no_think\n"}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a town, by its name: sun, rain, 'snow' & <wind>, or é.",
        "parameters": {
            "type": "object",
            "properties": {"town": {"type": "string"}, "days": {"type": ["integer", "null"]}, "at": {"type": "array"}},
            "required": ["town"],
        },
    },
}
CALL = {"id": "abcdef123", "type": "function", "function": {"name": "weather", "arguments": {"town": "Zürich"}}}
TOOL_TURNS = [
    {"role": "user", "content": "What is the weather in Zürich?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": '{"sun": true}', "tool_call_id": "abcdef123", "name": "weather"},
]
# As OpenAI's API has them: several calls at once, their arguments as text.
PARALLEL_CALLS = [
    {"id": f"call_{place}_xyz", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    for place, arguments in enumerate(['{"town": "Bergen", "days": 2}', "", '{"at": [1, {"x": null}]}'])
]
TYPES = {
    "type": "object",
    "properties": {
        "kind": {"type": "string", "enum": ["a", "b"], "description": "Which."},
        "many": {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}, "nullable": True},
        "deep": {"type": "object", "properties": {"n": {"type": "number", "default": 1.5}}, "required": ["n"]},
        "either": {"oneOf": [{"type": "string", "description": "a text"}, {"type": "boolean"}]},
        "map": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}
TYPED_TOOL = {"type": "function", "function": {"name": "f", "description": " Many types.\n", "parameters": TYPES}}
BARE_TOOL = {"type": "function", "function": {"name": "g", "description": "", "parameters": {"properties": {}}}}
SWITCHES = {
    "enable_thinking": True,
    "thinking": True,
    "thinking_budget": 600,
    "builtin_tools": ["weather", "code_interpreter"],
    "date_string": "1 Jan 2020",
    "keep_past_thinking": True,
    "add_vision_id": True,
    "safety_mode": "strict",
    "categories": {"A": "all"},
}
# Of each: the messages, and what else the template is given.
CONVERSATIONS = {
    "one question": ([{"role": "user", "content": "Who are you?"}], {}),
    "system": ([SYSTEM, {"role": "user", "content": "  Hi  \n"}], {}),
    "turns, in unicode": (
        [
            SYSTEM,
            {"role": "user", "content": "日本語 😀 <b>&amp;</b> {{ 7 * 7 }}"},
            {"role": "assistant", "content": "<think>\nhm\n</think>\n\n né\n"},
            {"role": "user", "content": "<|im_end|>"},
        ],
        {},
    ),
    "turns": (
        [
            {"role": "user", "content": "A mouse?"},
            {"role": "assistant", "content": "  A cat.\n"},
            {"role": "user", "content": "\nNo."},
            {"role": "assistant", "content": "A dog."},
        ],
        {},
    ),
    "tools": (TOOL_TURNS, {"tools": [WEATHER]}),
    "tools, answered": ([SYSTEM, *TOOL_TURNS, {"role": "assistant", "content": "Sunny."}], {"tools": [WEATHER] * 2}),
    "a beginning of the answer": (
        [{"role": "user", "content": "Say a b c"}, {"role": "assistant", "content": "a b "}],
        {"continue_final_message": True},
    ),
    "parts": (
        [
            {"role": "user", "content": [{"type": "text", "text": "What is"}, {"type": "text", "text": " this?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "A text."}]},
            {"role": "user", "content": [{"type": "text", "text": "Oh."}]},
        ],
        {},
    ),
    "a beginning in parts": (
        [
            {"role": "user", "content": [{"type": "text", "text": "a"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]},
        ],
        {"continue_final_message": True},
    ),
    "reasoning": (
        [
            {"role": "user", "content": "2 + 2?"},
            {"role": "assistant", "reasoning": "two and two", "content": "4"},
            {"role": "user", "content": "3 + 3?"},
            {"role": "assistant", "reasoning_content": "three and three", "content": "6"},
        ],
        {"enable_thinking": False, "reasoning_effort": "high"},
    ),
    "documents": (
        [{"role": "user", "content": "Which?"}],
        {"documents": [{"title": "one", "text": "1"}, {"text": "2"}], "controls": {"citations": True}},
    ),
    "calls side by side": (
        [
            {"role": "user", "content": "And there?"},
            {"role": "assistant", "content": "", "tool_calls": PARALLEL_CALLS},
            *({"role": "tool", "content": f"{n} °C", "tool_call_id": f"call_{n}_xyz"} for n in range(3)),
        ],
        {"tools": [TYPED_TOOL, WEATHER, BARE_TOOL]},
    ),
    "arguments of every type": (
        [
            TOOL_TURNS[0],
            {
                "role": "assistant",
                "content": "I ask.",
                "reasoning_content": " Where? ",
                "tool_calls": [
                    {
                        "function": {
                            "name": "f",
                            "arguments": {"a": 1.0, "b": None, "c": [True, "é"], "d": {"z": 1, "a": ""}},
                        }
                    }
                ],
            },
            {"role": "tool", "content": [{"type": "text", "text": "rain"}], "name": "f"},
            {"role": "assistant", "content": "<think>\nwet\n</think>\n\nIt rains.\n"},
            {"role": "user", "content": "Thanks /think"},
        ],
        {"tools": [TYPED_TOOL], "documents": []},
    ),
    "switches": (TOOL_TURNS, SWITCHES | {"tools": [WEATHER]}),
    "no budget": ([{"role": "user", "content": "Quick! /no_think"}], {"thinking_budget": 0, "enable_thinking": False}),
    "a developer, a name, functions": (
        [
            {"role": "developer", "content": "Obey."},
            {"role": "system", "content": "Also.", "functions": "[f]", "tools": "[g]"},
            {"role": "user", "content": "a", "name": "Ann"},
            {"role": "assistant", "content": "b", "function_calls": "f()", "prefix": True},
        ],
        {},
    ),
    "a picture": (
        [
            {
                "role": "user",
                "content": [
                    {"type": "image"},
                    {"type": "text", "text": " What? "},
                    {"type": "image", "image": "x.png"},
                ],
            }
        ],
        {"add_vision_id": True},
    ),
    "two users": ([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}], {}),
    "another role": ([{"role": "narrator", "content": "Once"}], {}),
    "no role": ([{"content": "a"}], {}),
    "nothing": ([], {}),
}


@pytest.fixture(scope="module")
def oracle(tiny_bundle):
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(tiny_bundle)


def outcome(render):
    """The text, or the error where the template refuses the conversation."""
    try:
        return render()
    except Exception as error:  # noqa: BLE001 - transformers raises Jinja's, and Python's own
        return error


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_public_template_renders_as_in_transformers(name, oracle, broken_bundle):
    source, texts = TEMPLATES[name], []
    edit_json(broken_bundle / "tokenizer_config.json", chat_template=source)
    template = ChatTemplate(Bundle.open(broken_bundle))
    for title, (messages, options) in CONVERSATIONS.items():
        for prompt in (True, False):
            expected = outcome(
                lambda messages=messages, options=options, prompt=prompt: oracle.apply_chat_template(
                    messages, chat_template=source, tokenize=False, add_generation_prompt=prompt, **options
                )
            )
            found = outcome(
                lambda messages=messages, options=options, prompt=prompt: template.render(
                    messages, add_generation_prompt=prompt, **options
                )
            )
            if isinstance(expected, str):
                assert found == expected, title
                texts.append(found)
            else:
                assert isinstance(found, ChatTemplateError), (title, expected, found)
    assert len(set(texts)) >= 5  # of 42: the test compares texts, and not only errors


@pytest.mark.parametrize("name", ["lfm2_tools", "phi4", "phi4_reasoning", "smollm3", "trl_generation"])
def test_public_generation_blocks_are_those_of_transformers(name):
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    template = JinjaTemplate(TEMPLATES[name], {})
    assert template.marks_generation
    for title in ("turns", "turns, in unicode", "tools, answered"):
        messages = [message for message in CONVERSATIONS[title][0] if message["content"] is not None]
        (text,), (spans,) = utils.render_jinja_template(
            [messages], chat_template=TEMPLATES[name], return_assistant_tokens_mask=True
        )
        rendered = template.render(messages, add_generation_prompt=False)
        assert (rendered.text, rendered.generation_spans()) == (text, spans)
        assert spans


def test_the_templates_are_of_many_kinds():
    assert len(TEMPLATES) >= 60
