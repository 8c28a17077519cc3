"""python -m pytest tests/test_data.py -p no:nbval -o addopts="" """

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from helpers.data import (
    Batches,
    RowBatches,
    chat_rows,
    count_cut,
    count_windows,
    document_mask,
    encode,
    pack,
    positions,
    read_tokens,
    row_lengths,
    rows,
    split,
    windows,
    write_tokens,
)
from helpers.tokenizer import Tokenizer


class Letters:
    """A tokenizer for tests: a is 0, b is 1, ..., and 26 ends a text."""

    eot = 26

    def encode(self, text):
        return [ord(letter) - ord("a") for letter in text]


A, B, C, D, E = range(5)
END = Letters.eot


# ---------------------------------------------------------------- windows


def test_windows_worked_by_hand():
    """Seven tokens, T = 3: windows start at 0 and 3; the one at 6 would lack its targets."""
    inputs, targets = windows(torch.arange(7), T=3)
    assert inputs.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert targets.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_windows_with_a_stride_overlap():
    inputs, _ = windows(torch.arange(7), T=3, stride=1)
    assert inputs.tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5]]


def test_windows_take_a_list_or_an_array_too():
    for tokens in (list(range(7)), np.arange(7)):
        assert windows(tokens, T=3)[0].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_windows_are_views_of_the_same_memory():
    tokens = torch.arange(1000)
    inputs, targets = windows(tokens, T=64, stride=1)
    assert inputs.untyped_storage().data_ptr() == tokens.untyped_storage().data_ptr()
    assert targets.untyped_storage().nbytes() == 8 * 1000  # 936 windows, not one byte more
    tokens[1] = -5
    assert inputs[1, 0] == inputs[0, 1] == targets[0, 0] == -5


@pytest.mark.parametrize("n", range(0, 12))
@pytest.mark.parametrize(("T", "stride"), [(1, 1), (3, 1), (3, 2), (3, 3), (2, 5)])
def test_count_windows_is_how_many_starts_leave_room_for_a_window(n, T, stride):
    assert count_windows(n, T, stride) == len([s for s in range(0, n, stride) if s + T + 1 <= n])


def test_windows_are_as_many_as_counted():
    inputs, _ = windows(torch.arange(100), T=7, stride=4)
    assert len(inputs) == count_windows(100, 7, 4) == 24


# ---------------------------------------------------------------- batches


@pytest.mark.parametrize("stride", [None, 1, 3, 8])
def test_targets_are_the_tokens_that_follow_the_inputs(stride):
    inputs, targets = Batches(torch.arange(100), B=4, T=8, stride=stride).next()
    assert inputs.shape == targets.shape == (4, 8)
    assert torch.equal(targets, inputs + 1)  # the text counts upwards
    assert torch.equal(inputs, inputs[:, :1] + torch.arange(8))


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint16])
def test_every_kind_of_integer_gives_the_same_int64_batches(dtype, tmp_path):
    text = np.arange(300) % 50
    text.astype(dtype).tofile(tmp_path / "tokens.bin")
    on_disk = np.memmap(tmp_path / "tokens.bin", dtype=dtype, mode="r")
    expected = Batches(torch.arange(300) % 50, B=3, T=5).next()
    for tokens in (torch.from_numpy(text.astype(dtype)), on_disk):
        inputs, targets = Batches(tokens, B=3, T=5).next()
        assert inputs.dtype == targets.dtype == torch.int64
        assert torch.equal(inputs, expected[0]) and torch.equal(targets, expected[1])


def test_batches_share_the_memory_of_their_tokens():
    tokens = torch.arange(50)
    assert Batches(tokens, B=1, T=4).tokens.ctypes.data == tokens.data_ptr()


def test_batches_are_their_own_memory_so_that_changing_one_leaves_the_text_alone():
    tokens = torch.arange(50)
    inputs, targets = Batches(tokens, B=2, T=4).next()
    inputs.zero_(), targets.view(-1).zero_()
    assert torch.equal(tokens, torch.arange(50))


def test_random_offsets_reach_the_first_and_the_last_place_and_nothing_beyond():
    batches = Batches(torch.arange(10), B=50, T=4)
    starts = torch.cat([batches.next()[0][:, 0] for _ in range(4)])
    assert sorted(set(starts.tolist())) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(("B", "stride"), [(1, 4), (3, 4), (5, 2), (40, 4)])
def test_each_epoch_gives_every_window_once_in_another_order(B, stride):
    batches = Batches(torch.arange(45), B=B, T=4, stride=stride)
    n = batches.n_windows
    starts = torch.cat([batches.next()[0][:, 0] for _ in range(3 * n)]).tolist()
    epochs = [starts[e * n : (e + 1) * n] for e in range(3)]
    assert all(sorted(epoch) == list(range(0, 41, stride)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def some(batches, n):
    return [tensor.tolist() for _ in range(n) for tensor in batches.next()]


@pytest.mark.parametrize("stride", [None, 4])
@pytest.mark.parametrize("k", [0, 1, 3, 7])  # 10 windows in batches of 3: 3 and 7 stop inside
def test_a_new_object_goes_on_exactly_where_the_state_was_taken(stride, k):
    first = Batches(torch.arange(44), B=3, T=4, seed=5, stride=stride)
    some(first, k)
    state = json.loads(json.dumps(first.state_dict()))  # it survives a text file
    second = Batches(torch.arange(44), B=3, T=4, stride=stride)
    some(second, 2)
    second.load_state_dict(state)
    assert some(first, 12) == some(second, 12)


@pytest.mark.parametrize("stride", [None, 4])
def test_seeds_differ_and_repeat(stride):
    one, again, two = (Batches(torch.arange(99), 4, 4, seed, stride) for seed in (1, 1, 2))
    expected = some(one, 3)
    assert some(again, 3) == expected != some(two, 3)


def test_successive_random_batches_differ():
    batches = Batches(torch.arange(1000), B=4, T=4)
    assert len({str(batches.next()) for _ in range(20)}) == 20


def test_batches_can_be_looped_over():
    loop, plain = Batches(torch.arange(99), 2, 4), Batches(torch.arange(99), 2, 4)
    for _, (inputs, targets) in zip(range(3), loop):
        expected = plain.next()
        assert torch.equal(inputs, expected[0]) and torch.equal(targets, expected[1])


def test_a_state_from_other_batches_is_refused():
    state = Batches(torch.arange(99), B=2, T=4).state_dict()
    with pytest.raises(ValueError, match="the saved batches had T = 4, these have 8: make Batches"):
        Batches(torch.arange(99), B=2, T=8).load_state_dict(state)


# ---------------------------------------------------------------- batches of rows


def numbered(lengths, T=9):
    """Rows whose inputs are all their number; the targets likewise, so many as the length says."""
    inputs = torch.arange(len(lengths))[:, None].expand(-1, T).contiguous()
    return inputs, inputs.where(torch.arange(T) < torch.tensor(lengths)[:, None], -100)


def test_row_lengths_reach_to_the_last_target():
    targets = torch.tensor([[1, 2, -100], [-100, 3, -100], [-100, -100, 4], [-100] * 3])
    assert row_lengths(targets).tolist() == [2, 2, 3, 0]


def test_a_batch_of_rows_is_cut_after_its_last_target():
    inputs, targets = numbered([3, 3, 5, 5])
    batches = RowBatches(inputs, targets, B=2)
    given = [batches.next() for _ in range(2)]
    assert sorted(x.shape[1] for x, _ in given) == [3, 5]
    for x, y in given:
        chosen, longest = x[:, 0], x.shape[1]
        assert torch.equal(x, inputs[chosen, :longest])
        assert torch.equal(y, targets[chosen, :longest])


@pytest.mark.parametrize("B", [1, 4, 10])
def test_each_epoch_of_row_batches_gives_every_row_once_in_another_order(B):
    batches = RowBatches(*numbered([1 + i % 9 for i in range(20)]), B=B)
    epochs = [[r for _ in range(20 // B) for r in batches.next()[0][:, 0].tolist()] for _ in "abc"]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_rows_that_make_no_whole_batch_are_left_out_others_in_each_epoch():
    batches = RowBatches(*numbered([4] * 11), B=3)
    left_out = []
    for _ in range(20):
        given = torch.cat([batches.next()[0][:, 0] for _ in range(3)]).tolist()
        assert len(set(given)) == 9
        left_out.append(frozenset(range(11)) - set(given))
    assert len(set(left_out)) > 5


def test_rows_of_like_length_come_together_so_that_little_padding_is_left():
    lengths = [1 + 7 * i % 64 for i in range(512)]
    batches = RowBatches(*numbered(lengths, T=64), B=16)
    given = [batches.next()[1] for _ in range(32)]
    padding = sum(int((targets == -100).sum()) for targets in given)
    assert padding < 0.1 * sum(targets.numel() for targets in given)


def test_short_and_long_batches_come_mixed():
    batches = RowBatches(*numbered([1 + i % 64 for i in range(512)], T=64), B=16)
    longest = [batches.next()[0].shape[1] for _ in range(32)]
    rises = sum(a < b for a, b in pairwise(longest))
    assert 8 < rises < 23  # of 31: sorted, it would be nearly all


@pytest.mark.parametrize("k", [0, 2, 5, 9])
def test_row_batches_go_on_exactly_where_the_state_was_taken(k):
    first = RowBatches(*numbered([1 + i % 9 for i in range(20)]), B=6, seed=3)
    some(first, k)
    state = json.loads(json.dumps(first.state_dict()))
    second = RowBatches(*numbered([1 + i % 9 for i in range(20)]), B=6)
    some(second, 2)
    second.load_state_dict(state)
    assert some(first, 8) == some(second, 8)


def test_a_state_from_other_rows_is_refused():
    state = RowBatches(*numbered([3] * 8), B=2).state_dict()
    with pytest.raises(ValueError, match="had n_rows = 8, these have 9: make RowBatches with"):
        RowBatches(*numbered([3] * 9), B=2).load_state_dict(state)


# ---------------------------------------------------------------- token files


@pytest.mark.parametrize(
    ("vocab_size", "dtype"), [(27, "uint16"), (65_536, "uint16"), (65_537, "uint32")]
)
def test_a_token_file_holds_the_ids_of_encode_in_as_few_bits_as_they_need(
    tmp_path, vocab_size, dtype
):
    tokenizer = Letters()
    tokenizer.vocab_size = vocab_size
    file = tmp_path / "tokens.npy"
    assert write_tokens(file, ["ab", "c"], tokenizer) == 5
    tokens = read_tokens(file)
    assert tokens.tolist() == encode(["ab", "c"], tokenizer).tolist()
    assert isinstance(tokens, np.memmap) and tokens.dtype == dtype
    assert [*tmp_path.iterdir()] == [file]


def test_batches_leave_a_token_file_on_disk(tmp_path):
    np.save(tmp_path / "tokens.npy", np.arange(100, dtype=np.uint16))
    tokens = read_tokens(tmp_path / "tokens.npy")
    batches = Batches(tokens, B=2, T=8)
    assert np.shares_memory(batches.tokens, tokens)
    inputs, targets = batches.next()
    assert torch.equal(targets, inputs + 1)


def test_a_token_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    tokenizer = Letters()
    tokenizer.vocab_size = 27
    write_tokens(tmp_path / "t", ["abc"], tokenizer)
    monkeypatch.setattr(np, "save", lambda file, array: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_tokens(tmp_path / "t", ["de"], tokenizer)
    assert [path.name for path in tmp_path.iterdir()] == ["t"]
    assert read_tokens(tmp_path / "t").tolist() == [A, B, C, END]


def test_files_that_hold_no_tokens_are_refused_in_one_sentence(tmp_path):
    np.save(tmp_path / "wide.npy", np.zeros((2, 3), int))
    np.save(tmp_path / "real.npy", np.zeros(3))
    np.save(tmp_path / "object.npy", np.array([{}]), allow_pickle=True)
    np.save(tmp_path / "whole.npy", np.arange(1000))
    np.savez(tmp_path / "zip.npy", np.arange(1000))
    (tmp_path / "zip.npy.npz").rename(tmp_path / "zip.npy")
    (tmp_path / "cut.npy").write_bytes((tmp_path / "whole.npy").read_bytes()[:-9])
    (tmp_path / "text.npy").write_text("once upon a time")
    (tmp_path / "empty.npy").touch()
    for name in ("wide", "real", "object", "cut", "text", "empty", "zip"):
        with pytest.raises(ValueError, match=f"{name}.npy (holds|is cut short or no)") as caught:
            read_tokens(tmp_path / f"{name}.npy")
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none.npy: make it with"):
        read_tokens(tmp_path / "none.npy")


def test_documents_that_cannot_be_written_are_refused_in_one_sentence(tmp_path):
    tokenizer = Letters()
    tokenizer.vocab_size = 27
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere: make it"):
        write_tokens(tmp_path / "nowhere" / "t", ["abc"], tokenizer)
    with pytest.raises(ValueError, match="there are no documents"):
        write_tokens(tmp_path / "t", [""], tokenizer)
    assert [*tmp_path.iterdir()] == []


# ---------------------------------------------------------------- split and encode

STORIES = [f"story {i}" for i in range(50)]


@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.5, 0.999])
def test_split_keeps_every_document_whole_in_one_side_and_in_order(fraction):
    train, val = split(STORIES, fraction)
    assert sorted(train + val) == sorted(STORIES)
    assert len(val) == min(max(1, round(50 * fraction)), 49)
    assert [s for s in STORIES if s in train] == train and [s for s in STORIES if s in val] == val


def test_split_is_the_same_each_time_and_another_for_another_seed():
    assert split(STORIES) == split(STORIES) != split(STORIES, seed=1)
    assert set(split(STORIES[::-1])[1]) == set(split(STORIES)[1])


def test_split_worked_out_once_and_so_on_every_machine():
    assert split(list("abcdefghij"), 0.3)[1] == ["e", "g", "i"]


def test_copies_of_a_document_stay_on_one_side():
    train, val = split(STORIES * 3, 0.2)
    assert not set(train) & set(val)
    assert len(val) == 30


def test_encode_ends_each_document():
    tokens = encode(["ab", "c"], Letters())
    assert tokens.tolist() == [A, B, END, C, END]
    assert tokens.dtype == torch.int64


# ---------------------------------------------------------------- rows and packs


def test_rows_worked_by_hand():
    inputs, targets = rows(["ab", "abcde"], Letters(), T=4)
    assert inputs.tolist() == [[END, A, B, END], [END, A, B, C]]
    assert targets.tolist() == [[A, B, END, -100], [A, B, C, D]]


def test_count_cut_counts_the_rows_that_lost_their_end():
    _, targets = rows(["a", "abc", "abcd", "abcde"], Letters(), T=4)
    assert count_cut(targets, Letters()) == 2  # abcd keeps its letters and loses its end


def test_pack_worked_by_hand():
    inputs, targets, doc_ids = pack(["ab", "cde", "a"], Letters(), T=5)
    assert inputs.tolist() == [[END, A, B, END, C], [D, E, END, A, END]]
    assert targets.tolist() == [[A, B, END, C, D], [E, END, A, END, -100]]
    assert doc_ids.tolist() == [[0, 0, 0, 1, 1], [1, 1, 2, 2, -1]]


def test_a_pack_that_comes_out_even_has_no_padding():
    inputs, targets, _ = pack(["abc", "def"], Letters(), T=4)
    assert inputs.shape == (2, 4) and (targets >= 0).all()


def test_pack_makes_every_token_and_every_end_a_target_once():
    documents = ["abc", "d", "abcdeabcde", "bb"]
    _, targets, _ = pack(documents, Letters(), T=4)
    learnt = targets[targets != -100].tolist()
    assert learnt == encode(documents, Letters()).tolist()


def test_document_mask_worked_by_hand():
    assert document_mask(torch.tensor([[0, 0, 1]])).int().tolist() == [
        [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    ]


def test_positions_worked_by_hand():
    doc_ids = torch.tensor([[3, 3, 4, 5, 5, 5], [5, 5, 5, 5, -1, -1]])
    assert positions(doc_ids).tolist() == [[0, 1, 0, 0, 1, 2], [0, 1, 2, 3, 0, 1]]


def test_the_mask_is_causal_stays_in_the_document_and_leaves_no_one_blind():
    _, _, doc_ids = pack(["abc", "d", "abcdeabcde", "bb"], Letters(), T=6)
    mask = document_mask(doc_ids)
    rows_, queries, keys = mask.nonzero(as_tuple=True)
    assert (keys <= queries).all()
    assert torch.equal(doc_ids[rows_, queries], doc_ids[rows_, keys])
    assert mask.diagonal(dim1=1, dim2=2).all()


def tiny_attention(inputs, places, mask):
    """Logits (B, T, 27) of one attention head whose weights are always the same."""
    draw = torch.Generator().manual_seed(0)
    tok_emb, pos_emb = torch.randn(27, 8, generator=draw), torch.randn(32, 8, generator=draw)
    wq, wk, wv = torch.randn(3, 8, 8, generator=draw)
    x = tok_emb[inputs] + pos_emb[places]  # (B, T, 8)
    x = x + scaled_dot_product_attention(x @ wq, x @ wk, x @ wv, attn_mask=mask)
    return x @ tok_emb.T


def test_in_a_pack_each_document_gets_the_logits_it_gets_alone():
    documents = ["abc", "d", "eabcd"]
    inputs, _, doc_ids = pack(documents, Letters(), T=12)
    packed = tiny_attention(inputs, positions(doc_ids), document_mask(doc_ids))
    for number, document in enumerate(documents):
        alone, _, alone_ids = pack([document], Letters(), T=len(document) + 1)
        expected = tiny_attention(alone, positions(alone_ids), document_mask(alone_ids))
        torch.testing.assert_close(packed[doc_ids == number], expected[0])


def test_without_the_mask_a_document_sees_its_neighbours():
    inputs, _, doc_ids = pack(["abc", "d"], Letters(), T=6)
    causal = torch.ones(6, 6, dtype=torch.bool).tril()
    packed = tiny_attention(inputs, positions(doc_ids), document_mask(doc_ids))
    leaking = tiny_attention(inputs, positions(doc_ids), causal)
    torch.testing.assert_close(packed[doc_ids == 0], leaking[doc_ids == 0])
    assert (packed - leaking)[doc_ids == 1].abs().max() > 0.1


# ---------------------------------------------------------------- chats

BYTES_AND_SPECIALS = Tokenizer([])
USER, ASSISTANT, STOP = (
    BYTES_AND_SPECIALS.special_ids[name] for name in ("<|user|>", "<|assistant|>", "<|end|>")
)
ASKED = [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b!"}]
a, b, ask, shout = b"ab?!"


def test_chat_rows_worked_by_hand():
    inputs, targets = chat_rows([ASKED], BYTES_AND_SPECIALS, T=9)
    pad = BYTES_AND_SPECIALS.eot
    assert inputs.tolist() == [[USER, a, ask, STOP, ASSISTANT, b, shout, pad, pad]]
    assert targets.tolist() == [[-100, -100, -100, -100, b, shout, STOP, -100, -100]]


def test_chat_rows_can_learn_the_prompts_too():
    _, targets = chat_rows([ASKED], BYTES_AND_SPECIALS, T=8, learn="everything")
    assert targets.tolist() == [[a, ask, STOP, ASSISTANT, b, shout, STOP, -100]]


def test_all_answers_of_a_chat_are_learnt_each_with_its_end():
    _, targets = chat_rows([[*ASKED, *ASKED]], BYTES_AND_SPECIALS, T=20)
    learnt = targets[targets >= 0].tolist()
    assert learnt == [b, shout, STOP] * 2


def test_an_answer_that_does_not_fit_is_cut():
    inputs, targets = chat_rows([ASKED], BYTES_AND_SPECIALS, T=5)
    assert inputs.tolist() == [[USER, a, ask, STOP, ASSISTANT]]
    assert targets.tolist() == [[-100, -100, -100, -100, b]]


def test_row_batches_take_chat_rows():
    inputs, targets = chat_rows([ASKED] * 4, BYTES_AND_SPECIALS, T=30)
    batch, answers = RowBatches(inputs, targets, B=2).next()
    assert (
        batch.tolist() == inputs[:2, :7].tolist() and answers.tolist() == targets[:2, :7].tolist()
    )


@pytest.mark.parametrize(
    ("chat", "sentence"),
    [
        (ASKED[::-1], "conversation 1 starts with the assistant: let the user speak first"),
        ([{"role": "system", "content": "x"}, *ASKED[::-1]], "1 starts with the assistant"),
        (ASKED[:1], "conversation 1 has no answer"),
        ([], "conversation 1 has no answer"),
        ([ASKED[0], {"role": "assistant", "content": " "}], "conversation 1 has an empty answer"),
        ([{"role": "user", "content": "a" * 17}, ASKED[1]], "of conversation 1 has 20 tokens"),
        (ASKED[0], "conversation 1 is not a list of messages"),
        (["hello"], "message 0 is 'hello': it must be a dict"),
    ],
)
def test_a_chat_that_teaches_nothing_is_refused_by_its_number(chat, sentence):
    with pytest.raises(ValueError, match=sentence):
        chat_rows([ASKED, chat], BYTES_AND_SPECIALS, T=19)


def test_what_is_no_list_of_chats_is_refused():
    with pytest.raises(ValueError, match="learn is 'all': choose 'answers' or 'everything'"):
        chat_rows([ASKED], BYTES_AND_SPECIALS, T=9, learn="all")
    with pytest.raises(ValueError, match="there are no conversations"):
        chat_rows([], BYTES_AND_SPECIALS, T=9)
    with pytest.raises(ValueError, match="conversation 0 is not a list"):
        chat_rows(ASKED, BYTES_AND_SPECIALS, T=9)


# ---------------------------------------------------------------- bad input

TEXT = torch.arange(12)


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (lambda: windows(TEXT, T=64), "the text has 12 tokens, one window needs 65"),
        (lambda: Batches(TEXT, B=2, T=12), "the text has 12 tokens, one window needs 13"),
        (lambda: windows(TEXT, T=0), "T is 0"),
        (lambda: windows(TEXT, T=4, stride=0), "stride is 0"),
        (lambda: windows(TEXT.view(3, 4), T=2), r"tokens have shape \(3, 4\)"),
        (lambda: Batches(TEXT, B=0, T=4), "B is 0"),
        (lambda: Batches(TEXT, B=2, T=4, stride=-1), "stride is -1"),
        (lambda: Batches(TEXT, B=2, T=4, stride=0), "stride is 0"),
        (lambda: split(STORIES, 0.0), "val_fraction is 0.0"),
        (lambda: split(STORIES, 10), "val_fraction is 10"),
        (lambda: split(["one"]), "all documents are the same one"),
        (lambda: split(["one", "one"], 0.5), "all documents are the same one"),
        (lambda: split([]), "there are no documents"),
        (lambda: encode("abc", Letters()), "documents is one text: put it in a list"),
        (lambda: encode([], Letters()), "there are no documents"),
        (lambda: encode((text for text in STORIES), Letters()), "is a generator: make it a list"),
        (lambda: Batches(np.array([1.5, 2.5, 3.5]), B=1, T=1), "tokens are float64"),
        (lambda: Batches(TEXT, B=2, T=4).load_state_dict({}), "had n_tokens = None"),
        (lambda: encode(["abc", ""], Letters()), "document 1 is empty"),
        (lambda: rows(["abc", ""], Letters(), T=4), "document 1 is empty"),
        (lambda: rows(["abc"], Letters(), T=0), "T is 0"),
        (lambda: pack([], Letters(), T=4), "there are no documents"),
        (
            lambda: RowBatches(*numbered([3] * 8), B=9),
            "B is 9, and there are 8 rows: take B from 1",
        ),
        (lambda: RowBatches(*numbered([3] * 8), B=0), "B is 0"),
        (lambda: RowBatches(*numbered([3, 0, 3]), B=1), "row 1 has no target: leave it out"),
        (lambda: RowBatches(TEXT, TEXT, B=1), r"inputs have shape \(12,\) and targets \(12,\)"),
        (lambda: RowBatches(*numbered([]), B=1), "give rows"),
        (lambda: pack(["abc"], Letters(), T=0), "T is 0"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(bad, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        bad()
    assert "\n" not in str(caught.value)
