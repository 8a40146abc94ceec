"""A chat template gives transformers' prompt, and a hostile one gets no further than an error."""

from __future__ import annotations

import pytest

from runtime import Bundle, LanguageModel, SamplingOptions
from runtime.chat_template import ChatTemplate
from runtime.errors import ChatTemplateError, MissingDependencyError
from tests.runtime.files import edit_json

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
    greedy = SamplingOptions(temperature=0)
    prompt = ChatTemplate(tiny_model.bundle).render(CHATS[0])
    ids = tiny_model.tokenizer.encode(prompt, add_special_tokens=False)
    expected = tiny_model.generate(ids, sampling=greedy, max_new_tokens=20).text
    pieces = tiny_model.chat(CHATS[0], sampling=greedy, max_new_tokens=20)
    assert "".join(piece.text for piece in pieces) == expected


@pytest.mark.parametrize(
    "expression",
    [
        "messages.__class__",
        "messages.__class__.__mro__[1].__subclasses__()",
        "''.__class__.__base__.__subclasses__()",
        "cycler.__init__.__globals__.os.popen('id').read()",
        "raise_exception.__globals__['__builtins__']",
        "strftime_now.__globals__",
        "messages.append(1)",
        "'{0.__class__}'.format(messages)",
        "messages|attr('__class__')",
        "range(10 ** 9)|list",
    ],
)
def test_a_template_cannot_reach_python(expression, broken_bundle):
    template = with_template(broken_bundle, "before {{ " + expression + " }} after")
    try:
        text = template.render(CHATS[0])
    except ChatTemplateError:
        return
    assert text == "before  after"  # an attribute that the sandbox denies is undefined, and prints as nothing


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
    for call in (model.check_chat, lambda: model.chat(CHATS[0])):
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


def test_without_jinja2_the_package_is_named(tiny_bundle, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    with pytest.raises(MissingDependencyError, match="pip install jinja2"):
        ChatTemplate(Bundle.open(tiny_bundle))
