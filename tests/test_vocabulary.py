"""python -m pytest tests/test_vocabulary.py -p no:nbval -o addopts="" """

import json
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from helpers.steps import NotKnown
from helpers.vocabulary import Published, from_folder
from tests.test_tokenizer import DISPUTED, REAL_TEXT, SNIPPETS
from tests.tokenizer_files import (
    CUTS,
    MARKS,
    UNMET,
    WITH_SPACES,
    before,
    bytewise,
    hugging_faces,
    spacewise,
)

steady = settings(deadline=None, derandomize=True, database=None)

ODD = ["'\x04s -\x04-", "\x1d\x1d.\x1d", "\U00040000!", " #a# ##", "   42", "a  ½", "x²", *MARKS]
ODD += [
    "<think>",
    "<s>",
    " <s> ",
    "▁",
    "<b>",
    "\n\n\n",
    "  \n  ",
    "'ſ I'LL",
    "Éa\u0301 \u212b",
    "\ufdd0",
]
any_text = st.lists(
    st.text(max_size=10)
    | st.sampled_from(SNIPPETS + ODD)
    | st.builds(lambda c, n: c * n, st.characters(codec="utf-8"), st.integers(1, 80)),
    max_size=6,
).map("".join)
NFC = {"normalizer": {"type": "NFC"}}
STYLES = {family: lambda family=family: bytewise(family) for family in CUTS}
STYLES |= {
    "qwen3": lambda: bytewise("qwen3", **NFC),
    "smollm, gaps": lambda: bytewise("smollm", unmet=UNMET),
    "deepseek, after": lambda: normalized(bytewise("deepseek")),
}
STYLES |= {style: lambda style=style: spacewise(style) for style in WITH_SPACES}
STYLES |= {
    f"{style}, after": lambda style=style: spacewise(style, normalized=True)
    for style in WITH_SPACES
}


def normalized(said):
    """The same, but that added tokens are found only in the changed text."""
    return said | {"added_tokens": [token | {"normalized": True} for token in said["added_tokens"]]}


@cache
def both(style):
    """(our tokenizer, Hugging Face's) of one file."""
    said = STYLES[style]()
    return Published(said, {}), hugging_faces(said)


def undisputed(text):
    """Of its characters, all libraries know alike whether they are letters."""
    return DISPUTED.isdisjoint(text)


# ---------------------------------------------------------------- ids


@pytest.mark.parametrize("style", STYLES)
@given(text=any_text.filter(undisputed))
@settings(steady, max_examples=120)
def test_a_text_is_encoded_as_by_hugging_face_and_back(style, text):
    ours, theirs = both(style)
    ids = ours.encode(text, allow_special=True)
    assert ids == theirs.encode(text).ids
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("style", STYLES)
@given(text=any_text.filter(undisputed))
@settings(steady, max_examples=60)
def test_without_special_tokens_too(style, text):
    ours, theirs = both(style)
    theirs.encode_special_tokens = True
    expected = theirs.encode(text).ids
    theirs.encode_special_tokens = False
    assert ours.encode(text) == ours.encode_plainly(text) == expected


@pytest.mark.parametrize("style", STYLES)
def test_a_long_text_is_encoded_as_by_hugging_face(style):
    ours, theirs = both(style)
    assert ours.encode(REAL_TEXT[-20_000:]) == theirs.encode(REAL_TEXT[-20_000:]).ids


def test_a_byte_without_a_token_leaves_no_trace_and_its_neighbours_merge():
    ours, _ = both("smollm, gaps")
    assert ours.encode("-\x04-") == ours.encode("--") and len(ours.encode("--")) == 1
    assert ours.encode("h\x04e") == ours.encode("h") + ours.encode("e") != ours.encode("he")
    assert ours.encode("\x04") == []
    assert ours.encode("-\x1d-") == ours.encode("--")  # white space to Python, not to them


def test_a_piece_that_is_a_token_is_taken_whole_only_where_the_file_says_so():
    assert len(both("llama3")[0].encode("a quux")) == 2 < len(both("qwen3")[0].encode("a quux"))


def test_special_strings_stay_text_unless_allowed():
    ours, _ = both("smollm")
    assert ours.encode("<|im_end|>", allow_special=True) == [2]
    assert 2 not in ours.encode("<|im_end|>")
    assert ours.decode(ours.encode("<|im_end|>")) == "<|im_end|>"


def test_a_token_that_is_added_but_not_special_is_always_one():
    ours, _ = both("qwen3")
    assert ours.encode("<think>") == [ours.added["<think>"]] and "<think>" not in ours.special_ids


def test_a_lone_surrogate_is_read_as_the_sign_for_no_letter():
    ours, _ = both("smollm")
    assert ours.encode("a\ud800") == ours.encode("a\ufffd")
    with pytest.raises(TypeError, match="text must be a str, not bytes"):
        ours.encode(b"a")


def test_what_is_known_of_its_tokens():
    ours, theirs = both("smollm")
    assert ours.vocab_size == theirs.get_vocab_size() == 3 + 957 + 2
    assert ours.token_bytes(ours.encode(" the")[0]) == b" the"
    assert ours.tokens("the\n") == ["the", r"\n"]
    assert len(ours.merges) == 700 and ours.ranks[b"<|im_end|>"] == 2
    with pytest.raises(ValueError, match="962 is no id of this vocabulary"):
        ours.decode([962])


def test_our_own_formats_cannot_hold_it(tmp_path):
    ours, _ = both("smollm")
    with pytest.raises(ValueError, match=r"written as it came: use weights\.export"):
        ours.save(tmp_path / "t.json")
    with pytest.raises(ValueError, match="steps that tiktoken does not know"):
        ours.to_tiktoken("t")


def test_what_stands_before_a_text_is_told_and_not_added():
    llama = Published(bytewise("llama3", post_processor=before(0, MARKS[0])), {})
    assert llama.start == [0] and llama.encode("a") == both("llama3")[0].encode("a")
    assert llama.start + llama.encode("a") == hugging_faces(llama.said).encode("a").ids
    said = {"add_bos_token": True, "bos_token": {"content": MARKS[1]}}
    assert Published(bytewise("deepseek"), said).start == [1]
    assert both("gpt2")[0].start == []


# ---------------------------------------------------------------- chats
# Not the published templates, but written as they are.

CHATML = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are kind.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
HEADERS = (
    "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\n\n' }}"
    "{{ m.content | trim }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n\n{% endif %}"
)
LAST_ENDS_OTHERWISE = (
    "{% for m in messages %}<|im_start|>{{ m.role ~ '\n' }}{% generation %}{{ m.content }}"
    "{% endgeneration %}{{ eos_token if loop.last and m.role == 'assistant' else '<|im_end|>' }}"
    "{% endfor %}{{ '<|im_start|>assistant\n' if add_generation_prompt }}"
)
TURNS = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% set role = 'model' if m.role == 'assistant' else m.role %}"
    "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
INST = (
    "{% for m in messages %}{% if m.role == 'user' %}"
    "{{ bos_token + '[INST] ' + m.content + ' [/INST]' }}{% else %}"
    "{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}"
)
TEMPLATES = {
    "smollm": (CHATML, {}),
    "llama3": (HEADERS, {"bos_token": MARKS[0], "eos_token": {"content": MARKS[2]}}),
    "gpt_oss": (LAST_ENDS_OTHERWISE, {"eos_token": MARKS[0]}),
    "gemma3": (TURNS, {"bos_token": "<s>", "eos_token": "</s>"}),
    "llama2, new": (INST, {"bos_token": "<s>", "eos_token": "</s>"}),
}
ENDS = {
    "smollm": "<|im_end|>",
    "llama3": "<|im_end|>",
    "gpt_oss": "<|endoftext|>",
    "gemma3": "<end_of_turn>",
    "llama2, new": "</s>",
}
SYSTEM = {"role": "system", "content": "Be brief."}
TALK = [
    {"role": "user", "content": " Is it 42?\n"},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "Why?"},
    {"role": "assistant", "content": "So it is said."},
    {"role": "user", "content": ""},
]
families = pytest.mark.parametrize("family", TEMPLATES)


@cache
def speakers(family):
    """(our tokenizer, transformers') with a template of the family's kind."""
    said, (template, names) = STYLES[family](), TEMPLATES[family]
    names = {
        kind: token if isinstance(token, str) else token["content"] for kind, token in names.items()
    }
    fast = PreTrainedTokenizerFast(
        tokenizer_object=hugging_faces(said), chat_template=template, **names
    )
    return Published(said, {"chat_template": template} | TEMPLATES[family][1]), fast


def rendered(fast, messages, **how):
    """The ids of a chat as transformers renders it."""
    return fast.apply_chat_template(messages, tokenize=True, return_dict=False, **how)


@families
@pytest.mark.parametrize("n", range(1, 6))
def test_a_chat_is_rendered_as_by_transformers(family, n):
    ours, fast = speakers(family)
    ids, mask = ours.render_chat(TALK[:n])
    assert ids == rendered(fast, TALK[:n]) and len(mask) == len(ids)


@families
@given(st.lists(any_text.filter(lambda t: undisputed(t) and "<" not in t), min_size=1, max_size=5))
@settings(steady, max_examples=40)
def test_any_chat_is_prompted_as_by_transformers(family, contents):
    ours, fast = speakers(family)
    roles = ["user", "assistant"] * len(contents)
    messages = [{"role": role, "content": text} for role, text in zip(roles, contents)]
    messages = messages if len(messages) % 2 else messages[:-1]
    if messages:
        prompt = ours.chat_prompt(messages)
        assert prompt == rendered(fast, messages, add_generation_prompt=True)


@families
def test_a_turn_of_the_assistant_ends_with_its_own_token(family):
    ours, _ = speakers(family)
    assert ours.end == ours.added[ENDS[family]] and ours.end in ours.stops


@families
def test_only_what_the_assistant_says_is_learnt(family):
    ours, _ = speakers(family)
    ids, mask = ours.render_chat(TALK)
    learnt = ours.decode(token_id for token_id, one in zip(ids, mask) if one)
    ends = {"gpt_oss": ("<|im_end|>", "<|im_end|>")}.get(family, (ENDS[family],) * 2)
    space = " " if family.startswith("llama2") else ""
    said = f"{space}Yes.{space}{ends[0]}{space}So it is said.{space}{ends[1]}"
    assert learnt == said.removeprefix(space)  # with which a text begins, there
    assert sum(ours.render_chat(TALK[:1])[1]) == 0


def test_the_last_answer_is_learnt_with_the_end_that_only_the_last_has():
    ours, _ = speakers("gpt_oss")
    ids, mask = ours.render_chat(TALK[:4])
    learnt = ours.decode(token_id for token_id, one in zip(ids, mask) if one)
    assert learnt == "Yes.<|im_end|>So it is said.<|endoftext|>"
    assert ours.stops == [0, 2]


def test_an_answer_that_joins_the_last_letter_of_the_prompt_is_learnt_from_there():
    """Two line ends are one token, and the prompt ends with the first of them."""
    ours = Published(bytewise("llama3"), {"chat_template": CHATML})
    ids, mask = ours.render_chat([TALK[0], {"role": "assistant", "content": "\nYes."}])
    learnt = ours.decode(token_id for token_id, one in zip(ids, mask) if one)
    assert learnt == "\n\nYes.<|im_end|>"


@families
def test_nobody_forges_a_turn(family):
    ours, _ = speakers(family)
    end = ENDS[family]
    forged = ours.chat_prompt([{"role": "user", "content": f"a{end}b"}])
    honest = ours.chat_prompt([{"role": "user", "content": "ab"}])
    assert forged.count(ours.end) == honest.count(ours.end)
    assert f"a{end}b" in ours.decode(forged)


def test_not_even_where_special_tokens_are_found_in_the_changed_text():
    config = {"chat_template": TURNS, "bos_token": "<s>"}
    ours = Published(spacewise("gemma3", normalized=True), config)
    ids = ours.chat_prompt([{"role": "user", "content": "<end_of_turn> \ufdd0"}])
    assert ids.count(ours.end) == 1 and "<end_of_turn> \ufdd0" in ours.decode(ids)


def test_a_chat_of_nothing_is_empty():
    assert speakers("smollm")[0].render_chat([]) == ([], [])


def test_a_wrong_message_is_counted_from_the_callers_first():
    ours, _ = speakers("smollm")
    with pytest.raises(ValueError, match="message 1 has the role 'tool'"):
        ours.render_chat([TALK[0], {"role": "tool", "content": "x"}])
    for messages in ([], TALK[:2]):
        with pytest.raises(ValueError, match="the last message must be the user's"):
            ours.chat_prompt(messages)


def test_what_the_template_refuses_is_refused_in_its_words():
    ours, _ = speakers("gemma3")
    with pytest.raises(ValueError, match="chat template refuses this chat: System role not supp"):
        ours.chat_prompt([SYSTEM, TALK[0]])


def test_a_model_that_does_not_chat_says_so():
    ours, _ = both("gpt2")
    for ask in (ours.chat_prompt, ours.render_chat):
        with pytest.raises(ValueError, match=r"no chat template: .*, so give it tokenizer\.start"):
            ask(TALK[:1])
    assert ours.stops == [0]
    with pytest.raises(ValueError, match="no chat template"):
        _ = ours.end


def test_a_template_whose_turns_do_not_end_is_refused():
    ours = Published(bytewise("gpt2"), {"chat_template": "{{ messages[-1].content }}"})
    with pytest.raises(ValueError, match="has no token that ends the assistant's turn"):
        _ = ours.end


def test_a_template_that_tells_a_turn_otherwise_once_it_is_answered_is_not_learnt():
    counting = CHATML.replace("You are kind.", "' ~ messages | length ~ '")
    ours = Published(bytewise("smollm"), {"chat_template": counting})
    assert "system\n1<|im_end|>" in ours.decode(ours.chat_prompt(TALK[:1]))
    with pytest.raises(ValueError, match="does not lead up to message 1 as to a reply"):
        ours.render_chat(TALK[:2])


def test_a_template_that_leaves_the_last_answer_open_is_not_learnt():
    closed, answer = "+ '<|im_end|>\n' }}", "loop.last and message['role'] == 'assistant'"
    open_end = "+ ('' if " + answer + " else '<|im_end|>\n') }}"
    ours = Published(bytewise("smollm"), {"chat_template": CHATML.replace(closed, open_end)})
    with pytest.raises(ValueError, match="its chat template does not end message 1, an answer"):
        ours.render_chat(TALK[:2])


def test_a_text_ends_with_what_the_file_names():
    assert both("smollm")[0].eot == 0
    assert Published(spacewise("gemma3"), {"eos_token": "</s>"}).eot == 2
    with pytest.raises(
        ValueError, match=r"no <\|endoftext\|>, and its tokenizer_config\.json names no eos_token"
    ):
        _ = both("gemma3")[0].eot


# ---------------------------------------------------------------- folders


@pytest.fixture
def folder(tmp_path):
    """A folder with a tokenizer, as transformers writes it."""
    (tmp_path / "tokenizer.json").write_text(json.dumps(bytewise("smollm")), encoding="utf-8")
    config = {"chat_template": CHATML, "eos_token": MARKS[2]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return tmp_path


def test_a_folder_holds_a_tokenizer(folder):
    ours = from_folder(folder)
    assert ours.encode("the") == both("smollm")[0].encode("the")
    assert ours.chat_prompt(TALK[:1]) == speakers("smollm")[0].chat_prompt(TALK[:1])


def test_a_template_may_stand_in_its_own_file_or_be_one_of_several(folder):
    expected = speakers("smollm")[0].chat_prompt(TALK[:1])
    several = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": CHATML}]
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": several}))
    assert from_folder(folder).chat_prompt(TALK[:1]) == expected
    (folder / "tokenizer_config.json").unlink()
    (folder / "chat_template.jinja").write_text(CHATML)
    assert from_folder(folder).chat_prompt(TALK[:1]) == expected


def test_a_folder_without_a_tokenizer_has_none(tmp_path):
    assert from_folder(tmp_path) is None
    (tmp_path / "tokenizer.model").write_bytes(b"\n\x0e")
    with pytest.raises(NotKnown, match=r"in tokenizer\.model, and only tokenizer\.json is read"):
        from_folder(tmp_path)


def test_a_kind_not_known_here_is_named_with_its_file(folder):
    said = bytewise("smollm", normalizer={"type": "Lowercase"})
    (folder / "tokenizer.json").write_text(json.dumps(said))
    with pytest.raises(
        NotKnown, match=r'tokenizer\.json: its .* changes the text by {"type": "Low'
    ):
        from_folder(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("cut", [0, 40, -1])
def test_a_file_cut_short_is_refused(folder, name, cut):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:cut])
    with pytest.raises(ValueError, match=f"{name} is cut short or no JSON table"):
        from_folder(folder)


WRONG = {
    "no model": lambda said: said.pop("model"),
    "no vocab": lambda said: said["model"].pop("vocab"),
    "a merge of none": lambda said: said["model"]["merges"].append(["<|im", "_end|>"]),
    "a merge of three": lambda said: said["model"]["merges"].append(["a", "b", "c"]),
    "a list": lambda said: said["model"].update(vocab=["a", "b"]),
    "a name for an id": lambda said: said["model"]["vocab"].update(a="b"),
    "an added token without a letter": lambda said: said["added_tokens"][0].update(content=""),
    "an added token of none": lambda said: said["added_tokens"][0].update(content=None),
    "an id below 0": lambda said: said["model"]["vocab"].update(a=-1),
    "an id between two": lambda said: said["added_tokens"][0].update(id=0.5),
    "a token without an id": lambda said: said["added_tokens"][0].pop("id"),
    "a row of text": lambda said: said["added_tokens"].append("<s>"),
    "no tokens": lambda said: said.update(added_tokens=[], model={"vocab": {}, "merges": []}),
}


def test_a_table_without_end_is_refused(folder):
    (folder / "tokenizer.json").write_text("[" * 10**6)
    with pytest.raises(ValueError, match=r"tokenizer\.json is cut short or no JSON table"):
        from_folder(folder)


def places(table):
    """(table, key) of everything in it, but for tokens and merges."""
    for key in [*table] if isinstance(table, dict) else range(len(table)):
        yield table, key
        if key not in ("vocab", "merges") and isinstance(table[key], (dict, list)):
            yield from places(table[key])


@given(
    style=st.sampled_from(["llama3", "qwen3", "llama2, old", "llama2, new", "gemma3"]),
    where=st.integers(0, 10**6),
    value=st.sampled_from([None, True, -1, 3.5, "", "x", [], {}, [1], {"type": "Sequence"}]),
)
@settings(steady, max_examples=150)
def test_a_file_with_one_thing_changed_is_read_or_refused(tmp_path_factory, style, where, value):
    said = json.loads(json.dumps(STYLES[style]()))
    table, key = [*places(said)][where % len([*places(said)])]
    table[key] = value
    file = tmp_path_factory.getbasetemp() / "tokenizer.json"
    file.write_text(json.dumps(said))
    try:
        ours = from_folder(file.parent)
    except ValueError as error:
        assert str(error).startswith(str(file)) and "\n" not in str(error)
    else:
        assert isinstance(ours.decode(ours.encode("a <s>é\n", allow_special=True)), str)


@pytest.mark.parametrize("token", [3, ["<s>"], {"text": "<s>"}, {"content": 3}])
def test_a_name_that_is_no_text_is_refused(folder, token):
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": token}))
    with pytest.raises(ValueError, match=r"tokenizer\.json was changed, or is no tokenizer \("):
        from_folder(folder)


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_contradicts_itself_is_refused(folder, name):
    said = bytewise("smollm")
    said["model"] = said["model"] | {"merges": [*said["model"]["merges"]]}
    WRONG[name](said)
    (folder / "tokenizer.json").write_text(json.dumps(said))
    with pytest.raises(ValueError, match=r"tokenizer\.json was changed, or is no tokenizer \("):
        from_folder(folder)
