"""Chats as published models read them: templates in the language Jinja, filled in.

A template comes with a model and is a small program, so it runs in Jinja's sandbox, which gives it
nothing but the messages. Making ids of the text is not here but in `vocabulary`; lesson 08 meets
the template of a real model.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import ClassVar

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

Messages = Sequence[Mapping[str, str]]

# The chats of our own tokenizers, as Tokenizer.render_chat writes them.
OURS = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


class Generation(Extension):
    """{% generation %} and {% endgeneration %}, which some write around an answer; nothing more."""

    tags: ClassVar = {"generation"}

    def parse(self, parser) -> list[nodes.Node]:
        """What stands between the two."""
        next(parser.stream)
        return [nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True))]


def _refuse(sentence: str):
    raise TemplateError(sentence)


@lru_cache(maxsize=8)
def _compiled(template: str) -> Template:
    """The template, ready to be filled in, with the helpers that transformers gives it."""
    room = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation]
    )
    room.filters["tojson"] = _as_json
    room.globals["raise_exception"] = _refuse
    room.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return room.from_string(template)


def _as_json(value, ensure_ascii=False, **how) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **how)


def rendered(
    template: str, messages: Messages, names: Mapping[str, str], answer_next: bool = False
) -> str:
    """The text of a chat; with `answer_next`, up to where the assistant's next answer begins.

    `names` are special tokens by what they are for, such as bos_token. ValueError, in the words of
    the template, where it refuses, as some do with a system message.
    """
    try:
        return _compiled(template).render(
            messages=messages,
            tools=None,
            documents=None,
            add_generation_prompt=answer_next,
            **names,
        )
    except (
        TemplateError,
        ArithmeticError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"the model's own chat template refuses this chat: {said}") from None
