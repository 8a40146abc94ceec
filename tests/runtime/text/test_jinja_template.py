"""A template's source renders as transformers renders it; its generation blocks have transformers' places."""

from __future__ import annotations

import copy
import tracemalloc

import pytest

from runtime.errors import ChatTemplateError
from runtime.text.jinja_template import JinjaTemplate

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi 😀"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Hello."},
    {"role": "assistant", "content": "  né\n"},
]
HEAD = "{% for m in messages %}<{{ m.role }}>"
MARKED = {
    "plain": HEAD + "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<end>{% endgeneration %}"
    "{% else %}{{ m.content }}{% endif %}\n{% endfor %}",
    "trimming": HEAD + "{%- if m.role == 'assistant' -%} {%- generation -%}  {{- m.content + '<end>' -}}  "
    "{%- endgeneration -%} {%- else -%} {{ m.content }} {%- endif -%} {%- endfor -%}",
    "inner statements": HEAD + "{% generation %}{% if m.role == 'assistant' %}{% for c in m.content %}{{ c }}"
    "{% endfor %}{% set x = 1 %}{% endif %}{% endgeneration %}{% endfor %}",
    "empty": HEAD + "{% generation %}{% endgeneration %}{% endfor %}",
    "none": HEAD + "{{ m.content }}{% endfor %}",
    "on lines of their own": HEAD + "\n    {% generation %}\n  {{ m.content }}\n    {% endgeneration %}\n{% endfor %}",
}


def transformers_renders(source, messages, **options):
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    texts, spans = utils.render_jinja_template([messages], chat_template=source, **options)
    return texts[0], [tuple(span) for found in spans for span in found]


@pytest.mark.parametrize("source", MARKED.values(), ids=MARKED)
def test_generation_blocks_have_the_places_that_transformers_notes(source):
    expected = transformers_renders(source, CHAT, return_assistant_tokens_mask=True)
    rendered = JinjaTemplate(source, {}).render(CHAT, add_generation_prompt=False)
    assert (rendered.text, rendered.generation_spans()) == expected


def test_a_template_tells_whether_it_marks_generation():
    marks = {name: JinjaTemplate(source, {}).marks_generation for name, source in MARKED.items()}
    assert marks == {name: name != "none" for name in MARKED}
    assert not JinjaTemplate("{# {% generation %} #}{{ '{% generation %}' }}", {}).marks_generation


@pytest.mark.parametrize(
    "source",
    [
        "start {% macro f() %}ab{% generation %}x{% endgeneration %}{% endmacro %}{{ f() }}",
        "start {% set y %}ab{% generation %}x{% endgeneration %}{% endset %}{{ y }}",
        "{% generation %}x{% generation %}x{% endgeneration %}{% endgeneration %}",
    ],
)
def test_a_nested_block_renders_and_has_no_span(source):
    rendered = JinjaTemplate(source, {}).render(CHAT, add_generation_prompt=False)
    assert rendered.text == transformers_renders(source, CHAT)[0]
    with pytest.raises(ChatTemplateError, match="place cannot be told"):
        rendered.generation_spans()


@pytest.mark.parametrize(
    "source",
    [
        "{% generation %}",
        "{% endgeneration %}",
        "{% break %}",
        "{% for a in messages %}{% generation %}{% break %}{% endgeneration %}{% endfor %}",
        "{% for a in b %}" * 30 + "{% endfor %}" * 30,
    ],
)
def test_what_jinja_or_python_cannot_compile_does_not_parse(source):
    with pytest.raises(Exception):  # noqa: B017, PT011 - Jinja's or Python's
        transformers_renders(source, CHAT)
    with pytest.raises(ChatTemplateError, match="does not parse"):
        JinjaTemplate(source, {})


@pytest.mark.parametrize(
    "body",
    [
        "{% macro f() %}TURNS{% endmacro %}{{ f() | length }}",
        "{% set y %}TURNS{% endset %}{{ y | length }}",
        "{% filter length %}TURNS{% endfilter %}",
        "{% macro f() %}{{ caller() }}{% endmacro %}{% call f() %}TURNS{% endcall %}",
        "{% generation %}TURNS{% endgeneration %}",
    ],
)
def test_a_block_that_would_be_enormous_is_refused_before_it_exists(body):
    source = "{% set x = 'a' * 1000000 %}" + body.replace("TURNS", "{% for _ in range(300) %}{{ x }}{% endfor %}")
    template = JinjaTemplate(source, {})
    tracemalloc.start()
    try:
        with pytest.raises(ChatTemplateError, match="far too large"):
            template.render(CHAT, add_generation_prompt=False)
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "source",
    [
        "{% set n = dict.update(messages[0], role='x') %}",
        "{% set n = dict.update(messages[0]['content'][0], text='x') %}",
        "{% set n = dict.pop(messages[0], 'role') %}",
        "{% set n = namespace(_x=1) %}",
        "{% set n = namespace(__class__=1) %}",
        "{% set n = namespace() %}{% set n._x = 1 %}",
        "{{ messages[0].content[1].image.save('x') }}",
        "{{ tool.open() }}",
        "{{ messages | tojson(default=range) }}",
    ],
)
def test_what_transformers_does_not_let_a_template_do_is_an_error(source):
    class Tool:
        def open(self):
            raise AssertionError

    image = Tool()
    messages = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image", "image": image}]}]
    before = copy.copy(messages[0]["content"][0])
    with pytest.raises(Exception):  # noqa: B017, PT011 - of many kinds
        transformers_renders(source, messages, tool=Tool())
    with pytest.raises(ChatTemplateError):
        JinjaTemplate(source, {}).render(messages, add_generation_prompt=False, tool=Tool())
    assert messages[0]["content"][0] == before


@pytest.mark.parametrize(
    "source",
    [
        "{{ dict(a=1, b=[2]) }}{{ dict.fromkeys(['a', 'b'], 0) }}{{ dict([['a', 1]]) }}",
        "{{ messages[0].content[1].image }}{{ messages | length }}",
        "{% set n = namespace(self=1, other=2) %}{{ n.self + n.other }}{% set n.self = 5 %}{{ n.self }}",
        "{% set n = namespace({'a': 1}, b=2) %}{{ n.a + n.b }}",
        "{{ strftime_now('%Y %B [%Z] [%z]') }}",
        "{{ messages | tojson(indent=2, separators=(',', ':'), sort_keys=true) }}",
        "{{ nothing }}{{ switch }}{{ flag and 1 }}",
    ],
)
def test_what_transformers_gives_a_template_is_there(source):
    messages = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image", "image": {1, 2}}]}]
    names = {"switch": 3, "flag": False}
    expected = transformers_renders(source, messages, **names)[0]
    assert JinjaTemplate(source, {}).render(messages, add_generation_prompt=False, **names).text == expected


@pytest.mark.parametrize(
    ("messages", "options", "words"),
    [
        (CHAT, {"tools": ["search"]}, "tools must be a list of objects"),
        (CHAT, {"documents": ["text"]}, "documents must be a list of objects"),
        ([CHAT[0], "Hi"], {}, "message 2 is a str"),
        ([{"role": "assistant", "content": None}], {"continue_final_message": True}, "no last message with text"),
        ([], {"continue_final_message": True}, "no last message with text"),
    ],
)
def test_what_is_no_conversation_is_refused_in_its_own_words(messages, options, words):
    source = "{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(Exception):  # noqa: B017, PT011 - of many kinds
        transformers_renders(source, messages, **options)
    with pytest.raises(ChatTemplateError, match=words):
        JinjaTemplate(source, {}).render(messages, add_generation_prompt=False, **options)


def test_a_last_message_that_the_template_drops_cannot_be_continued():
    with pytest.raises(ChatTemplateError, match="cannot be continued"):
        JinjaTemplate("{{ 'content' }}", {}).render(CHAT, add_generation_prompt=False, continue_final_message=True)
