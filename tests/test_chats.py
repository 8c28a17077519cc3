"""python -m pytest tests/test_chats.py -p no:nbval -o addopts="" """

from datetime import datetime

import pytest

from helpers import chats
from helpers.tokenizer import Tokenizer

ASK = [{"role": "user", "content": "é <b>?"}]


def test_a_template_is_filled_in():
    template = "{% for m in messages %}\n[{{ m.role }}] {{ m['content'] }}{% endfor %}\n"
    assert chats.rendered(template, ASK, {}) == "[user] é <b>?"
    assert chats.rendered("{{ bos_token }}{{ nothing }}", ASK, {"bos_token": "<s>"}) == "<s>"
    assert chats.rendered("{{ add_generation_prompt }}", ASK, {}, answer_next=True) == "True"


def test_the_white_space_around_a_block_is_no_part_of_the_chat():
    template = "  {% if true %}\n  a\n  {% endif %}\n  b"
    assert chats.rendered(template, ASK, {}) == "  a\n  b"


def test_it_has_the_helpers_that_transformers_gives_it():
    assert chats.rendered("{{ messages[0] | tojson }}", ASK, {}) == (
        '{"role": "user", "content": "é <b>?"}'
    )
    year = str(datetime.now().year)
    assert chats.rendered("{{ strftime_now('%Y') }}", ASK, {}) == year
    loop = "{% for n in range(9) %}{% if n == 2 %}{% break %}{% endif %}{{ n }}{% endfor %}"
    assert chats.rendered(loop, ASK, {}) == "01"
    marked = "{% generation %}{% set a = 1 %}{{ a }}{% endgeneration %}{{ a }}"
    assert chats.rendered(marked, ASK, {}) == "1"


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('no\nsystem') }}",
        "{{ messages[0].role + 1 }}",
        "{{ 1 / 0 }}",
        "{% if %}",
        "{{ nothing.at.all }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ range(10 ** 9) | list }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_what_cannot_be_filled_in_is_refused_in_one_line(template):
    """Among them programs that would reach out of their sandbox, or change the messages."""
    with pytest.raises(ValueError, match=r"^the model's own chat template refuses this chat: .+$"):
        chats.rendered(template, ASK, {})


def test_our_own_chats_are_a_template():
    tokenizer = Tokenizer([])
    messages = [{"role": "system", "content": "a"}, {"role": "user", "content": " b\n"}]
    text = tokenizer.decode(tokenizer.chat_prompt(messages))
    assert chats.rendered(chats.OURS, messages, {}, answer_next=True) == text
