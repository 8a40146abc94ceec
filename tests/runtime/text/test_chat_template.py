"""A chat template gives transformers' prompt, and a hostile one gets no further than an error."""

from __future__ import annotations

import pytest

from runtime import Bundle, ChatSession, LanguageModel
from runtime.errors import ChatTemplateError, MissingDependencyError
from runtime.text.chat_template import ChatTemplate
from tests.runtime.files import edit_json
from tests.runtime.options import greedy

CHATS = [
    [{"role": "user", "content": "Hi"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who are you?"}],
    [
        {"role": "user", "content": "  two\nlines <b>&amp;</b> "},
        {"role": "assistant", "content": "né 😀"},
        {"role": "user", "content": "{{ 7 * 7 }}"},
    ],
    [{"role": "user", "content": ""}],
]
TEMPLATES = [
    None,  # the bundle's own
    "{{ bos_token }}{% for m in messages %}{{ m['role'] + ': ' + m['content'] | trim + eos_token }}{% endfor %}",
    "{%- for m in messages -%}\n  {% if loop.first %}\n    {{ m | tojson(indent=2) }}\n  {% endif %}\n{%- endfor -%}\n",
    "{{ messages | tojson }}{{ messages | tojson(ensure_ascii=True, sort_keys=True, separators=(',', ':')) }}",
    "{% if tools is not none %}tools{% else %}none{% endif %}{% if documents is none %}none{% endif %}",
    "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
    "{{ strftime_now('%Y') }}{% if add_generation_prompt %}go{% endif %}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
]


def with_template(folder, source):
    if source is not None:
        edit_json(folder / "tokenizer_config.json", chat_template=source)
    return ChatTemplate(Bundle.open(folder))


@pytest.mark.parametrize("source", TEMPLATES)
@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_the_prompt_is_that_of_transformers(source, add_generation_prompt, broken_bundle):
    transformers = pytest.importorskip("transformers")
    template = with_template(broken_bundle, source)
    oracle = transformers.AutoTokenizer.from_pretrained(broken_bundle)
    for messages in CHATS:
        expected = oracle.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
        assert template.render(messages, add_generation_prompt=add_generation_prompt) == expected


def test_the_ids_of_a_chat_are_those_of_transformers(tiny_bundle, tiny_model):
    transformers = pytest.importorskip("transformers")
    expected = transformers.AutoTokenizer.from_pretrained(tiny_bundle).apply_chat_template(
        CHATS[1], tokenize=True, add_generation_prompt=True, return_dict=False
    )
    prompt = ChatTemplate(tiny_model.bundle).render(CHATS[1])
    assert tiny_model.tokenizer.encode(prompt, add_special_tokens=False) == expected


def test_a_chat_continues_its_rendered_prompt(tiny_model):
    prompt = ChatTemplate(tiny_model.bundle).render(CHATS[0])
    ids = tiny_model.tokenizer.encode(prompt, add_special_tokens=False)
    expected = tiny_model.generate(ids, greedy(max_new_tokens=20)).text
    pieces = tiny_model.chat(CHATS[0], greedy(max_new_tokens=20))
    assert "".join(piece.text for piece in pieces) == expected


@pytest.mark.parametrize(
    "expression",
    [
        "messages.__class__",
        "messages.__class__.__mro__[1].__subclasses__()",
        "messages['__class__']",
        "messages[0]['content'].__init__",
        "''.__class__.__base__.__subclasses__()",
        "cycler.__init__.__globals__.os.popen('id').read()",
        "raise_exception.__globals__['__builtins__']",
        "strftime_now.__globals__",
        "messages.append(1)",
        "messages.pop()",
        "messages[0].update(role='x')",
        "'{0.__class__}'.format(messages)",
        "'{0.__class__}'.format_map(messages)",
        "messages|attr('__class__')",
        "messages|map(attribute='__class__')|list",
        "range(10 ** 9)|list",
    ],
)
def test_a_template_that_reaches_for_python_is_an_error(expression, broken_bundle):
    template = with_template(broken_bundle, "before {{ " + expression + " }} after")
    messages = [dict(message) for message in CHATS[0]]
    with pytest.raises(ChatTemplateError):
        template.render(messages)
    assert messages == CHATS[0]


TURNS = "{% for a in range(99999) %}{% for b in range(99999) %}BODY{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    "source",
    [
        TURNS.replace("BODY", ""),
        TURNS.replace("BODY", "x"),
        TURNS.replace("BODY", "{% if b < 0 %}x{% endif %}"),
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% for a in [1, 2] recursive %}{{ loop([1, 2]) if loop.depth < 60 }}{% endfor %}",
        "{% for a in range(9999) %}{% for b in (range(9999) | map('string')) %}{% endfor %}{% endfor %}",
    ],
    ids=["empty", "text", "condition", "macro", "recursive", "filter"],
)
def test_a_template_that_loops_is_an_error_within_seconds(source, broken_bundle, monkeypatch):
    monkeypatch.setattr("runtime.text.template_sandbox.MAX_STEPS", 20_000)
    with pytest.raises(ChatTemplateError, match="too much work"):
        with_template(broken_bundle, source).render(CHATS[0])


def test_a_template_that_takes_too_long_is_an_error_however_few_its_steps(broken_bundle, monkeypatch):
    monkeypatch.setattr("runtime.text.template_sandbox.MAX_SECONDS", 0.05)
    source = "{% set long = 'ab' * 1000000 %}{% for a in range(9999) %}{% set x = long | upper %}{% endfor %}"
    with pytest.raises(ChatTemplateError, match="too much work"):
        with_template(broken_bundle, source).render(CHATS[0])


DOUBLING = "{% set ns = namespace(x='ab') %}{% for _ in range(60) %}BODY{% endfor %}{{ ns.x }}"


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' * 10 ** 11 }}",
        "{{ [1] * 10 ** 11 }}",
        "{{ 10 ** 10000000000 }}",
        "{{ 'a' | center(10 ** 11) }}",
        "{{ 'a'.ljust(10 ** 11) }}",
        "{{ '%99999999999d' % 1 }}",
        "{{ '%99999999999d' | format(1) }}",
        "{{ '{:>99999999999}'.format(1) }}",
        "{{ ('a' * 1000000).replace('a', 'b' * 1000000) }}",
        "{{ ('a' * 1000000) | replace('a', 'b' * 1000000) }}",
        DOUBLING.replace("BODY", "{% set ns.x = ns.x ~ ns.x %}"),
        DOUBLING.replace("BODY", "{% set ns.x = ns.x + ns.x %}"),
        DOUBLING.replace("BODY", "{% set ns.x = (ns.x ~ ns.x) or '' %}"),
        DOUBLING.replace("BODY", "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}"),
        DOUBLING.replace("BODY", "{% set ns.x = [ns.x, ns.x] %}"),
        DOUBLING.replace("BODY", "{% set ns.x = (ns.x, ns.x) %}"),
        DOUBLING.replace("BODY", "{% set ns.x = {1: ns.x, 2: ns.x} %}"),
        DOUBLING.replace("BODY", "{% set ns.x = dict(a=ns.x, b=ns.x) %}"),
        DOUBLING.replace("BODY", "{% set ns.x = {1: ns.x, 2: ns.x}.items() %}"),
        DOUBLING.replace("BODY", "{% set ns.x = {1: ns.x, 2: ns.x}.values() %}"),
        DOUBLING.replace("BODY", "{% set ns.x = (ns.x.encode() if _ == 0 else ns.x + ns.x) %}"),
        DOUBLING.replace("BODY", "{% set ns.x = [ns.x] * 2 %}"),
        DOUBLING.replace("BODY", "{% set ns.x = [ns.x] + [ns.x] %}"),
        "{% macro f(x) %}{{ x }}{{ x }}{% endmacro %}" + DOUBLING.replace("BODY", "{% set ns.x = f(ns.x) %}"),
        "{% set x = 'a' * 1000000 %}{% for _ in range(99999) %}{{ x }}{% endfor %}",
        "{{ range(9999) | join('a' * 30000) }}",
        "{{ range(9999) | map('string') | join('a' * 30000) }}",
        "{{ ('a' * 30000).join(range(9999) | map('string')) }}",
        "{{ range(9999) | map('center', 30000) | list | length }}",
        "{{ ('a' * 30000).translate({97: 'b' * 10000}) }}",
        "{{ ('%(a)9999d' * 30000) | format(a=1) }}",
        "{{ '%(a)9999d' * 30000 % {'a': 1} }}",
        "{{ '%((a))99999999d' % {'(a)': 1} }}",
        "{{ '%*d' % (99999999, 1) }}",
        "{{ ('{0:9999}' * 30000).format(1) }}",
        "{{ '{:{}}'.format(1, 99999999) }}",
        "{{ [1] | batch(90000000, 'x') | list }}",
        "{{ [1] | slice(90000000) | list }}",
        "{{ (5).to_bytes(90000000, 'big') }}",
        "{{ 5 | round(90000000, 'ceil') }}",
        "{{ lipsum(1, max=10000000) }}",
        "{{ ('\t' * 30000).expandtabs(3000) }}",
        "{{ ('a\n' * 30000) | indent('x' * 3000) }}",
        "{{ ('ab ' * 30000) | wordwrap(1, wrapstring='x' * 3000) }}",
        "{{ ('http://a.b ' * 3000) | urlize(target='x' * 30000) }}",
        "{{ [[[1]]] | tojson(indent=90000000) }}",
        "{{ (range(9999) | list) | tojson(separators=('x' * 10000, 'y')) }}",
    ],
)
def test_a_template_that_makes_something_enormous_is_an_error(source, broken_bundle):
    with pytest.raises(ChatTemplateError, match="far too large"):
        with_template(broken_bundle, source).render(CHATS[0])


LONG = "é x %s {0} <|im_end|>\n" * 2000


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("1700000000 | string", "1700000000"),
        ("messages[0].time | tojson", "1700000000"),
        ("namespace(time=1700000000).time", "1700000000"),
        ("messages[0].get('none', 1700000000)", "1700000000"),
        ("'%d is %s' % (1700000000, '20240101')", "1700000000 is 20240101"),
        ("'since 20240101: {}'.format(1700000000)", "since 20240101: 1700000000"),
        ("both(messages[0].content, messages[0].content)", LONG * 2),
        ("messages[0].content | default(messages[0].content)", LONG),
        ("dict(a=messages[0].content, b=messages[0].content).b", LONG),
        ("messages[0].content.replace(messages[0].content, 'x')", "x"),
        ("messages[0].content | replace('x', messages[0].role)", LONG.replace("x", "user")),
        ("'%s and %s' | format(messages[0].content, messages[0].content)", f"{LONG} and {LONG}"),
        ("[messages[0].content, 'b'] | join(messages[0].content)", f"{LONG}{LONG}b"),
        ("messages[0].content.split(messages[0].content)", "['', '']"),
    ],
)
def test_long_texts_and_large_numbers_are_as_in_transformers(expression, expected, broken_bundle):
    source = "{% macro both(a, b) %}{{ a }}{{ b }}{% endmacro %}{{ " + expression + " }}"
    messages = [{"role": "user", "content": LONG, "time": 1700000000}]
    assert with_template(broken_bundle, source).render(messages) == expected


def test_what_namespaces_hold_is_not_printed(broken_bundle):
    body = "{% set n = namespace() %}{% set n.a = ns.x %}{% set n.b = ns.x %}{% set ns.x = n %}"
    assert with_template(broken_bundle, DOUBLING.replace("BODY", body)).render(CHATS[0]) == "<Namespace>"


def test_a_long_list_may_grow_one_by_one(broken_bundle):
    source = "{% set ns = namespace(x=range(2000) | list) %}{% for _ in range(400) %}{% set ns.x = ns.x + [1] %}"
    assert with_template(broken_bundle, source + "{% endfor %}{{ ns.x | length }}").render(CHATS[0]) == "2400"


def test_a_long_conversation_is_far_from_the_bounds(broken_bundle):
    template = with_template(broken_bundle, None)
    messages = [{"role": ("user", "assistant")[n % 2], "content": "a word " * 500} for n in range(2000)]
    assert len(template.render(messages)) > 2000 * 3500
    assert template.render(CHATS[0]) == template.render(CHATS[0])  # each rendering has a budget of its own


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ nothing.at.all }}", "undefined"),
        ("{{ messages[9].content }}", "no element 9|undefined"),
        ("{% include 'other' %}", "fails on these messages"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    ],
)
def test_a_template_that_fails_says_why(source, words, broken_bundle):
    with pytest.raises(ChatTemplateError, match=words):
        with_template(broken_bundle, source).render(CHATS[0])


@pytest.mark.parametrize("source", ["{% for %}", "{{ a b }}", "{% unknown %}", "{{", "{% if 1 %}"])
def test_a_template_that_does_not_parse_is_refused_at_opening(source, broken_bundle):
    with pytest.raises(ChatTemplateError, match="does not parse"):
        with_template(broken_bundle, source)


@pytest.mark.parametrize("value", [None, 7, [], [3], [{}], [{"name": "tools", "template": "x"}], [{"name": "default"}]])
def test_a_bundle_without_a_template_says_that_it_cannot_chat(value, broken_bundle):
    edit_json(broken_bundle / "tokenizer_config.json", chat_template=value)
    model = LanguageModel.load(broken_bundle)
    for call in (lambda: model.chat_template, lambda: model.chat(CHATS[0]), lambda: ChatSession(model)):
        with pytest.raises(ChatTemplateError, match="no chat template"):
            call()


def test_of_several_templates_the_default_one_is_taken_and_a_file_goes_first(broken_bundle):
    named = [{"name": "tools", "template": "no"}, {"name": "default", "template": "yes"}]
    assert with_template(broken_bundle, named).render(CHATS[0]) == "yes"
    (broken_bundle / "chat_template.jinja").write_text("file")
    assert with_template(broken_bundle, named).render(CHATS[0]) == "file"
    (broken_bundle / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(ChatTemplateError, match=r"chat_template\.jinja is not UTF-8"):
        with_template(broken_bundle, named)


def test_a_conversation_with_tools_takes_the_template_for_tools(broken_bundle):
    source = [{"name": "tool_use", "template": "{{ tools | tojson }}"}, {"name": "default", "template": "{{ tools }}"}]
    transformers = pytest.importorskip("transformers")
    template = with_template(broken_bundle, source)
    oracle = transformers.AutoTokenizer.from_pretrained(broken_bundle)
    for tools in (None, [], [{"type": "function", "function": {"name": "é"}}]):
        assert template.render(CHATS[0], tools=tools) == oracle.apply_chat_template(
            CHATS[0], tools=tools, tokenize=False
        )


def test_an_empty_conversation_is_refused(broken_bundle):
    with pytest.raises(ChatTemplateError, match="conversation is empty"):
        with_template(broken_bundle, "{{ messages }}").render([])


def test_without_jinja2_the_package_is_named(tiny_bundle, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    with pytest.raises(MissingDependencyError, match="pip install jinja2"):
        ChatTemplate(Bundle.open(tiny_bundle))
