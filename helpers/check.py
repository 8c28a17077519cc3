"""Checks for the exercises: `check("01.1", answer)` prints one line, and never a traceback.

The line says `not yet` while nothing is written, then `yes`, or `no` with the first case that
differs and a hint at the likely mistake. How that is found is in `cases`; the solutions stand in
the lessons.
"""

import math

import torch

from helpers.cases import Case, Cases, Labels, NotYet, Value, raised


def check(key: str, answer) -> None:
    """Prints whether `answer`, a function or a value, solves the exercise: one line."""
    try:
        line = _verdict(key, answer)
    except NotYet as gap:
        line = f"not yet: {gap}"
    except Exception as problem:
        line = f"no: the check could not read this answer ({raised(problem)})"
    print(" ".join(line.splitlines()))


def _verdict(key: str, answer) -> str:
    if key not in EXERCISES:
        return f"no: there is no exercise {key!r}; there are {', '.join(EXERCISES)}"
    if answer is None or answer is ...:
        raise NotYet("put your answer in place of the dots")
    problem = EXERCISES[key](answer)
    return "yes: right" if problem is None else f"no: {problem}"


# ---------------------------------------------------------------- the exercises


def utf8(text: str) -> list[int]:
    """The simplest encoding: one token per byte."""
    return list(text.encode())


def threes(text: str) -> list[int]:
    """An encoding with one token for every three characters."""
    return list(range(0, len(text), 3))


DOC_IDS = torch.tensor([[0, 0, 1], [2, 2, 2]])
SAME_DOCUMENT = DOC_IDS[:, :, None] == DOC_IDS[:, None, :]  # (2, 3, 3)
CAUSAL = torch.ones(2, 3, 3, dtype=torch.bool).tril()
FIRST_COMES_BACK = "the first token comes back at the end: the last target is unknown, -100"
WRONG_SIDE = "that is the left neighbour: the target of a token comes after it"
LAST = "the last token has no right neighbour, but it stays"
SCORES = torch.tensor([[1.0, 2.0, 3.0], [0.0, 2.0, 1.0], [2.0, 0.0, 1.0]])
PAST = torch.ones(3, 3, dtype=torch.bool).tril()
SHARES = SCORES.softmax(dim=-1)  # as if there were no mask
FOUR = torch.tensor([[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]])
QUARTER_AND_HALF = torch.tensor([[0.0, 0.0], [math.pi / 2, math.pi]])  # turns of the two pairs
# Probabilities of three tokens at three positions; as logits, each row is moved by some number.
CHANCES = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]])
MOVED = CHANCES.log() + torch.tensor([[1.0], [0.0], [-2.0]])
NO_INDEX = "-100 is no token: leave those positions out before you look anything up"
UNSORTED = torch.tensor([0.1, 0.5, 0.15, 0.25])
DAYS = 6 * 1e9 * 20e9 / (8 * 1e15 * 0.4) / 86400
PLACES = torch.arange(5)
IN_TWOS = (PLACES[:, None] // 2 == PLACES[None, :] // 2).tril()  # chunks of 2
FROM_ONE = ((PLACES[:, None] + 1) // 2 == (PLACES[None, :] + 1) // 2).tril()
ROUTED = torch.tensor([[2.0, 1.0, 0.0, -1.0], [0.0, 0.5, 3.0, 3.0]])
TWO_BEST = torch.tensor([[True, True, False, False], [False, False, True, True]])
CHOSEN_ONLY = ROUTED.masked_fill(~TWO_BEST, -math.inf).softmax(dim=-1)
ROWS_OF_ONE_HEAD = torch.arange(12.0).view(6, 2)  # a matrix of queries, or of keys
ROWS_OF_TWO_HEADS = torch.arange(8.0).view(8, 1)
UNEQUAL = torch.tensor([[8.0, 0.0, 0.0, 0.0], [2.0, 4.0, 6.0, 8.0]])  # rewards of two groups

EXERCISES = {
    # merge_pair(ids, pair, new_id): the ids, every occurrence of the pair replaced by new_id
    "01.1": Cases(
        Case(
            ([1, 2, 3, 1, 2], (1, 2), 9),
            [9, 3, 9],
            [
                ([9, 3, 1, 2], "only the first occurrence is merged: go on to the end"),
                ([9, 2, 3, 9, 2], "after a merge, step over both of its tokens"),
                ([1, 2, 3, 1, 2], "nothing is merged: a slice of a list is never equal to a tuple"),
                (IndexError, LAST),
            ],
        ),
        Case(
            ([1, 1, 1], (1, 1), 9),
            [9, 1],
            [
                ([1, 9], "where occurrences overlap, the left one counts"),
                ([9, 9], "a token can be in one merge only: step over both of its tokens"),
                ([9], LAST),
                (IndexError, LAST),
            ],
        ),
        Case(([1, 2, 1], (1, 2), 9), [9, 1], [([9], LAST), (IndexError, LAST)]),
        Case(([2, 1, 3], (1, 2), 9), [2, 1, 3], [([9, 3], "a pair has an order: 2 1 is not 1 2")]),
        Case(([1, 1, 2], (1, 2), 9), [1, 9]),
        Case(([11, 2, 1, 2], (1, 2), 9), [11, 2, 9]),
        Case(([], (1, 2), 9), []),
    ),
    # fertility(text, encode): tokens per word; words are what white space parts
    "01.2": Cases(
        Case(
            ("one two three", utf8),
            13 / 3,
            [
                (3 / 13, "tokens per word, not words per token"),
                (13 // 3, "divide with /, not with //"),
                (11 / 3, "encode the whole text: the spaces cost tokens too"),
                (13, "that is the number of tokens: divide by the number of words"),
            ],
        ),
        Case(("não é", utf8), 7 / 2, [(5 / 2, "count tokens, not characters")]),
        Case(("don't go", utf8), 8 / 2, [(8 / 3, "a word is what white space parts: use split()")]),
        Case(("um  dois", utf8), 8 / 2, [(8 / 3, "two spaces part two words: use split()")]),
        Case(("um dois", threes), 3 / 2, [(7 / 2, "use the `encode` that is given, not bytes")]),
        Case(("um\ndois", utf8), 7 / 2, [(7, "a line's end parts words too: use split()")]),
    ),
    # bits_per_byte(loss, n_tokens, n_bytes): loss in nats per token
    "01.3": Cases(
        Case(
            (2.0, 300, 1200),
            2.0 * 300 / 1200 / math.log(2),
            [
                (2.0 * 300 / 1200, "that is nats per byte: a bit is log(2) = 0.693 nats"),
                (2.0 * 300 / 1200 * math.log(2), "a nat is more than one bit: divide by log(2)"),
                (2.0 / math.log(2), "that is bits per token: how many tokens are there per byte?"),
                (2.0 * 1200 / 300 / math.log(2), "times tokens per byte, not bytes per token"),
                (2.0 * 300 / math.log(2), "those are the bits of the whole text: divide by bytes"),
            ],
        ),
        Case((math.log(256), 50, 50), 8.0),
    ),
    # shift(tokens): targets (B, T) of tokens (B, T), -100 where there is no next token
    "02.1": Cases(
        Case(
            (torch.tensor([[5, 6, 7, 8], [1, 2, 3, 4]]),),
            torch.tensor([[6, 7, 8, -100], [2, 3, 4, -100]]),
            [
                (torch.tensor([[6, 7, 8, 5], [2, 3, 4, 1]]), FIRST_COMES_BACK),
                (torch.tensor([[6, 7, 8, 1], [2, 3, 4, 5]]), "each row has an end of its own"),
                (torch.tensor([[8, 5, 6, 7], [4, 1, 2, 3]]), WRONG_SIDE),
                (torch.tensor([[-100, 5, 6, 7], [-100, 1, 2, 3]]), WRONG_SIDE),
                (torch.tensor([[5, 6, 7, 8], [1, 2, 3, 4]]), "it would learn to copy"),
                (torch.tensor([[5, 6, 7, -100], [1, 2, 3, -100]]), "it would learn to copy"),
                (torch.tensor([[6, 7, 8, 0], [2, 3, 4, 0]]), "0 is a token too: use -100"),
                (torch.tensor([[6, 7, 8, 8], [2, 3, 4, 4]]), "no token follows the last one: -100"),
                (torch.tensor([[6, 7, 8], [2, 3, 4]]), "keep the shape: the last target is -100"),
                (torch.tensor([[7, 8, -100, -100], [3, 4, -100, -100]]), "shifted twice"),
            ],
        ),
        Case((torch.tensor([[9]]),), torch.tensor([[-100]])),
    ),
    # passes_per_epoch(n_tokens, T, stride): inputs of all windows, over the tokens of the text
    "02.2": Cases(
        Case(
            (21, 5, 2),
            8 * 5 / 21,
            [
                (9 * 5 / 21, "a window needs T + 1 tokens: the last target too"),
                (7 * 5 / 21, "the window that starts at 0 counts too: + 1"),
                (8.5 * 5 / 21, "half a window is none: count windows with //"),
                (10 * 5 / 21, "the last of these windows would reach beyond the text"),
                (8 * 6 / 21, "a window has T inputs: its last token is only a target"),
                (5 / 2, "true of an endless text; count the windows of this one"),
                (8, "that is the number of windows: each has T inputs"),
                (8 / 21, "each window has T inputs"),
                (21 / (8 * 5), "tokens read over tokens of the text, not the other way round"),
                (1, "divide with /: half a pass counts"),
            ],
        ),
        Case((9, 4, 4), 8 / 9, [(4 / 9, "the window that ends with the text's last token fits")]),
        Case((2001, 32, 1), 1969 * 32 / 2001, [(32, "nearly: near both ends there are fewer")]),
    ),
    # document_mask(doc_ids): (B, T) to (B, T, T) bool, True where the query may look at the key
    "02.3": Cases(
        Case(
            (DOC_IDS,),
            SAME_DOCUMENT & CAUSAL,
            [
                (SAME_DOCUMENT, "a token may not look ahead: use tril()"),
                (SAME_DOCUMENT.triu(), "that looks ahead: tril(), not triu()"),
                (CAUSAL, "causal, but a document sees the one before it"),
                (SAME_DOCUMENT.tril(-1), "a token may look at itself: the diagonal is True"),
                (~(SAME_DOCUMENT & CAUSAL), "True means that it *may* look"),
                (NotImplementedError, "bools and floats do not combine with &: .bool() first"),
                ((SAME_DOCUMENT & CAUSAL).float(), "leave the comparison's bools as they are"),
                ((SAME_DOCUMENT & CAUSAL).int(), "leave the comparison's bools as they are"),
                ((SAME_DOCUMENT & CAUSAL)[0], "one mask for each row of the batch"),
            ],
        ),
        Case((torch.tensor([[7, 7, 3, 3]]),), torch.block_diag(*2 * [CAUSAL[0, :2, :2]])[None]),
    ),
    # masked_softmax(scores, mask): weights of the same shape, 0 where the mask is False
    "03.1": Cases(
        Case(
            (SCORES, PAST),
            SCORES.masked_fill(~PAST, -math.inf).softmax(dim=-1),
            [
                (SHARES, "the mask is not used: the future gets weight"),
                (SHARES * PAST, "a row must sum to 1: mask the scores before the softmax"),
                ((SCORES * PAST).softmax(dim=-1), "e to the 0 is 1: a score of 0 is still a look"),
                (
                    SCORES.masked_fill(PAST, -math.inf).softmax(dim=-1),
                    "the other way round: the mask is True where a query may look",
                ),
                (
                    SCORES.masked_fill(~PAST, -math.inf).softmax(dim=0),
                    "each row is one query: softmax over the keys, dim=-1",
                ),
                (SCORES.masked_fill(~PAST, -math.inf), "those are the scores: now the softmax"),
                (TypeError, "masked_fill needs a mask and a value, softmax needs dim=-1"),
                (RuntimeError, "~ turns a mask of bools round; `not` and - do not"),
            ],
        ),
        Case(
            (torch.tensor([[[1000.0, 999.0], [0.0, 0.0]]]), PAST[:2, :2]),
            torch.tensor([[[1.0, 0.0], [0.5, 0.5]]]),
            [
                (
                    torch.tensor([[[math.nan, math.nan], [0.5, 0.5]]]),
                    "e to the 1000 is too large for a float: use torch's softmax",
                )
            ],
        ),
    ),
    # rotate(x, angles): x (T, D), its pair (x[i], x[i + D/2]) turned by angles (T, D/2)
    "03.2": Cases(
        Case(
            (torch.tensor([[1.0, 0.0]]), torch.tensor([[math.pi / 2]])),
            torch.tensor([[0.0, 1.0]]),
            [
                (torch.tensor([[0.0, -1.0]]), "the other way round: a·cos − b·sin, b·cos + a·sin"),
                (torch.tensor([[0.0, 0.0]]), "b needs the a from before the turn: keep it"),
                (ValueError, "chunk(2, dim=-1) cuts each row in two; chunk(2) cuts the rows apart"),
            ],
        ),
        Case(
            (FOUR, QUARTER_AND_HALF),
            torch.tensor([[1.0, 2.0, 3.0, 4.0], [-3.0, -2.0, 1.0, -4.0]]),
            [
                (
                    torch.tensor([[1.0, 2.0, 3.0, 4.0], [-2.0, 1.0, -3.0, -4.0]]),
                    "those pairs are neighbours: here a is the first half of x, b the second",
                ),
                (
                    torch.tensor([[1.0, 2.0, 3.0, 4.0], [-3.0, -2.0, -3.0, -4.0]]),
                    "b needs the a from before the turn: keep it",
                ),
                (
                    torch.tensor([[1.0, 3.0, 2.0, 4.0], [-3.0, 1.0, -2.0, -4.0]]),
                    "join the halves end to end: torch.cat, not torch.stack",
                ),
                (ValueError, "math.cos takes one number; angles.cos() takes them all"),
            ],
        ),
    ),
    # block_parameters(C, F): the numbers of one GPT-2 block, d_model C and d_ff F
    "03.3": Cases(
        Case(
            (10, 40),
            4 * (10 * 10 + 10) + (2 * 10 * 40 + 40 + 10) + 2 * 2 * 10,
            [
                (4 * 10 * 10 + 2 * 10 * 40, "those are the matrices: biases and norms count too"),
                (4 * 10 * 10 + 2 * 10 * 40 + 40, "each of the six matrices has a bias"),
                (4 * 110 + 2 * 10 * 40 + 40 + 10, "and the two LayerNorms"),
                (4 * 110 + 850 + 2 * 10, "a LayerNorm has a weight and a bias for each of C"),
                (3 * 110 + 850 + 40, "attention has four matrices: wq, wk, wv and wo"),
                (4 * 110 + 820 + 40, "up has F biases, down has C"),
                (4 * 110 + 880 + 40, "up has F biases, down has C"),
                (12 * 110 + 850 + 40, "heads share out C: more heads are not more numbers"),
            ],
        ),
        Case((3, 7), 4 * 12 + 52 + 12, [(4 * 12 + 87 + 12, "F need not be 4C: use F")]),
    ),
    # the T at which looking back costs as much as the MLPs, in GPT-2 124M
    "03.4": Value(
        6143,
        tolerance=1.5,
        mistakes=[
            (3072, "on average a query of a row sees (T + 1) / 2 keys, not T"),
            (
                12288,
                "count alike: 8 C² pairs of operations in an MLP, 2 C pairs for each key "
                "(q·k, and the mean of the values)",
            ),
            (768, "C is not the answer, but near: how many C² does an MLP have?"),
            (1024, "at T = 1024 looking still costs far less: compare the lines in the figure"),
        ],
    ),
    # mean_loss(logits, targets): (T, V) and (T,) to nats per token; targets of -100 do not count
    "04.1": Cases(
        Case(
            (MOVED, torch.tensor([0, -100, 1])),
            -(math.log(0.5) + math.log(0.2)) / 2,
            [
                (IndexError, NO_INDEX),
                (RuntimeError, NO_INDEX),
                (-math.log(0.1) / 3, "divide by the number of targets that count, two here"),
                (-math.log(0.1), "that is the sum: the loss is the mean"),
                (math.log(0.1) / 2, "a loss is -log p: turn the sign"),
                ((1 - math.log(0.1)) / 2, "logits are no log-probabilities yet: log_softmax"),
                (-math.log2(0.1) / 2, "nats: the natural logarithm, log and not log2"),
                (-math.log(0.35), "first the logarithm of each probability, then the mean"),
                (-math.log(0.5 * 0.1) / 2, NO_INDEX),
            ],
        ),
        Case((MOVED, torch.tensor([0, 1, 2])), -math.log(0.5 * 0.8 * 0.6) / 3),
        Case((1000 * MOVED[:1], torch.tensor([0])), 0.0),
    ),
    # top_p(probs, p): (V,) to (V,), the likeliest that together reach p, made to sum to 1
    "04.2": Cases(
        Case(
            (UNSORTED, 0.7),
            torch.tensor([0.0, 2 / 3, 0.0, 1 / 3]),
            [
                (torch.tensor([0.0, 1.0, 0.0, 0.0]), "the token that reaches p stays, too"),
                (torch.tensor([0.0, 0.5, 0.0, 0.25]), "what stays must sum to 1 again"),
                (torch.tensor([2 / 3, 1 / 3, 0.0, 0.0]), "each token keeps its place: undo sort()"),
                (torch.tensor([0.5, 0.25]), "keep the shape: the others get probability 0"),
                (torch.tensor([2 / 3, 1 / 3]), "keep the shape: the others get probability 0"),
                (torch.zeros(4), "p is what they reach together, not each by itself"),
                (torch.zeros(4) / 0, "p is what they reach together, not each by itself"),
                (torch.tensor([0.1, 0.5, 0.15, 0.0]) / 0.75, "begin with the likeliest: sort"),
            ],
        ),
        Case((UNSORTED, 0.3), torch.tensor([0.0, 1.0, 0.0, 0.0])),
        Case(
            (UNSORTED, 0.5),
            torch.tensor([0.0, 1.0, 0.0, 0.0]),
            [(torch.tensor([0.0, 2 / 3, 0.0, 1 / 3]), "0.5 is reached by the first alone")],
        ),
        Case((UNSORTED, 1.0), UNSORTED),
    ),
    # training_days(n_parameters, n_tokens, n_gpus, flops_per_second, utilisation)
    "04.3": Cases(
        Case(
            (1e9, 20e9, 8, 1e15, 0.4),
            DAYS,
            [
                (DAYS / 3, "2 forward and 4 backward: 6 FLOP per parameter and token"),
                (DAYS * 2 / 3, "the forward pass counts, too: 6 and not 4"),
                (DAYS * 0.4, "at a utilisation of 0.4 it takes longer than at 1"),
                (DAYS * 0.4**2, "a low utilisation makes it longer: divide by it"),
                (DAYS * 8, "the GPUs work at the same time: divide by their number"),
                (DAYS * 64, "more GPUs, fewer days: divide by their number"),
                (DAYS * 86400, "those are seconds: a day has 24 * 60 * 60"),
                (DAYS * 24, "those are hours: a day has 24"),
            ],
        ),
        Case((124e6, 10e9, 1, 100e12, 1.0), 6 * 124e6 * 10e9 / 100e12 / 86400),
    ),
    # training_bytes(n_parameters, B, T, vocab_size): float32, AdamW, and the logits
    "04.4": Cases(
        Case(
            (1000, 2, 3, 50),
            16 * 1000 + 2 * 4 * 2 * 3 * 50,
            [
                (16 * 1000 + 4 * 2 * 3 * 50, "the logits have a gradient, as large as they are"),
                (16 * 1000, "the logits: B·T·V numbers, and their gradient"),
                (4 * 1000 + 2 * 4 * 300, "gradients and Adam's two moments are numbers, too"),
                (8 * 1000 + 2 * 4 * 300, "Adam keeps two numbers for each parameter"),
                (12 * 1000 + 2 * 4 * 300, "weight, gradient, m and v: four numbers each"),
                (4 * 1000 + 2 * 300, "those are numbers: each takes 4 bytes"),
                (16 * 1000 + 2 * 300, "the logits' numbers take 4 bytes, too"),
            ],
        ),
        Case((124_439_808, 8, 1024, 50_257), 16 * 124_439_808 + 8 * 8 * 1024 * 50_257),
    ),
    # kv_bytes(T, reaches, n_kv_heads, head_dim): 2-byte numbers; reach None: all
    "03b.1": Cases(
        Case(
            (10, [None, 4], 2, 8),
            14 * 2 * 2 * 8 * 2,
            [
                (20 * 2 * 2 * 8 * 2, "a layer with a reach keeps no more than it can see"),
                (14 * 2 * 8 * 2, "a key and a value, and for each of their numbers 2 bytes"),
                (14 * 2 * 8, "a key and a value, each number in 2 bytes"),
                (14 * 2 * 2 * 8 * 4, "2 bytes for each number, not 4"),
                (4 * 2 * 2 * 8 * 2, "the layer that sees all keeps T tokens"),
                (TypeError, "None cannot be compared: treat the layers that see all apart"),
            ],
        ),
        Case((3, [None, 4], 2, 8), 6 * 2 * 2 * 8 * 2, [(448, "never more than T tokens are kept")]),
        Case((100, [None], 1, 3), 100 * 2 * 3 * 2),
    ),
    # chunk_mask(T, chunk): (T, T) bool, True where the query may look at the key
    "03b.2": Cases(
        Case(
            (5, 2),
            IN_TWOS,
            [
                (IN_TWOS | IN_TWOS.mT, "a token may not look ahead: key <= query"),
                (IN_TWOS.mT, "query down, key across: this is the other way round"),
                (torch.ones(5, 5, dtype=torch.bool).tril(), "causal, but the chunks are missing"),
                (
                    torch.ones(5, 5, dtype=torch.bool).tril().triu(-1),
                    "that is a window: it slides along, a chunk does not",
                ),
                (FROM_ONE, "positions count from 0: the first chunk is 0 to chunk - 1"),
                (IN_TWOS & ~torch.eye(5).bool(), "a token may look at itself"),
                (~IN_TWOS, "True means that it *may* look"),
                (IN_TWOS.int(), "leave the comparison's bools as they are"),
                (IN_TWOS.float(), "leave the comparison's bools as they are"),
            ],
        ),
        Case((3, 3), PAST),
        Case((2, 1), torch.eye(2).bool()),
    ),
    # route(logits, k): (N, E) weights, a softmax over the k best, 0 elsewhere
    "03b.3": Cases(
        Case(
            (ROUTED, 2),
            CHOSEN_ONLY,
            [
                (
                    ROUTED.softmax(dim=-1) * TWO_BEST,
                    "the softmax is over the chosen ones alone: choose first",
                ),
                (ROUTED.softmax(dim=-1), "each token visits only k experts: 0 for the others"),
                (
                    (ROUTED * TWO_BEST).softmax(dim=-1),
                    "e to the 0 is 1: a logit of 0 is still chosen",
                ),
                (ROUTED * TWO_BEST, "those are logits: now the softmax"),
                (TWO_BEST.float(), "that says who is chosen: how much does each weigh?"),
                (TWO_BEST / 2, "the better of the two weighs more: a softmax over them"),
                (ROUTED.topk(2).values.softmax(dim=-1), "give a weight to every expert, (N, E)"),
            ],
        ),
        Case((ROUTED[:1], 1), torch.tensor([[1.0, 0.0, 0.0, 0.0]])),
        Case((ROUTED[:, :3], 3), ROUTED[:, :3].softmax(dim=-1)),
    ),
    # best_before_stop(val_losses, patience): the place, from 0, of the model to keep
    "05.1": Cases(
        Case(
            ([3.0, 2.5, 2.6, 2.7, 2.0], 2),
            1,
            [
                (
                    4,
                    "the run stopped before it could see the last one: two in a row were no better",
                ),
                (3, "that is where the run stops: which model is kept?"),
                (2.5, "give the place of the best loss, not the loss"),
                (2, "places count from 0"),
            ],
        ),
        Case(
            ([3.0, 2.0, 2.1, 1.9, 1.95, 1.96, 1.5], 2),
            3,
            [
                (1, "one loss that is no better is not yet two in a row: the count begins anew"),
                (6, "the run stopped before it could see the last one"),
            ],
        ),
        Case(([2.0, 1.5, 1.0], 3), 2),
        Case(([3.0, 3.1, 2.0, 2.1, 1.0], 2), 4, [(2, "a better loss wipes out the misses before")]),
        Case(
            ([2.0, 1.0, 1.0, 0.5], 2),
            3,
            [(1, "an equal loss counts against patience, but this was only one of them")],
        ),
        Case(([2.0, 1.0, 1.0, 1.0, 0.5], 2), 1, [(4, "a loss as good as the best is no better")]),
        Case(([2.0], 1), 0),
    ),
    # the fresh tokens, in billions, that 16 epochs of 10 billion are worth
    "05.2": Value(
        10 * (1 + 15.387756 * (1 - math.exp(-15 / 15.387756))),
        tolerance=0.5,
        mistakes=[
            (160, "that is what is read: repeated text is worth less than fresh text"),
            (
                10 * (1 + 15.387756 * (1 - math.exp(-16 / 15.387756))),
                "the first reading repeats nothing: R is 15",
            ),
            (
                10 * 15.387756 * (1 - math.exp(-15 / 15.387756)),
                "the first reading counts as well: 1 + …",
            ),
            (10.59, "that many times the text: how many billion tokens is it?"),
            (163.88, "that is the most that any number of epochs could give"),
        ],
    ),
    # optimum(C, A, alpha, B, beta): (N, D) with 6ND = C and the lowest A/N**alpha + B/D**beta
    "05.3": Cases(
        Case(
            (6e6, 8.0, 0.5, 8.0, 0.5),
            (1e3, 1e3),
            [
                ((6e6**0.5, 6e6**0.5), "C is 6ND, not ND"),
                ((1e3, 6e3), "D is C / (6N)"),
            ],
        ),
        Case(
            (6e12, 2.0, 0.25, 1.0, 0.75),
            ((2 / 3) * 1e12**0.75, 1e12 / ((2 / 3) * 1e12**0.75)),
            [
                (
                    ((2 / 3) * 1e12**0.25, 1e12 / ((2 / 3) * 1e12**0.25)),
                    "N grows with beta / (alpha + beta): the other term's exponent",
                ),
                (
                    (1.5 * 1e12**0.75, 1e12 / (1.5 * 1e12**0.75)),
                    "G is alpha A over beta B, not the other way round",
                ),
                ((2 * 1e12**0.75, 1e12 / (2 * 1e12**0.75)), "G has alpha and beta as factors, too"),
            ],
        ),
        Case(
            (6e12, 16.0, 0.25, 1.0, 0.25),
            (256 * 1e6, 1e6 / 256),
            [((16 * 1e6, 1e6 / 16), "G is a power: 1 / (alpha + beta)")],
        ),
    ),
    # what happened in each of six runs
    "05.4": Labels(
        {
            "A": "learning rate too high",
            "B": "overfitting",
            "C": "rotten batches",
            "D": "answers visible",
            "E": "another language",
            "F": "healthy",
        },
        choices=(
            "healthy",
            "overfitting",
            "learning rate too high",
            "learning rate too low",
            "rotten batches",
            "answers visible",
            "another language",
        ),
        hints={
            "learning rate too high": "it hardly gets going, though it takes the largest steps",
            "overfitting": "training and validation part, and training goes below the floor",
            "rotten batches": "something leaps, and passes: before and after, it learns as ever",
            "answers visible": "no text can be learnt to zero so fast: what need not be learnt?",
            "another language": "from one moment on it learns something else, and forgets",
            "healthy": "nothing leaps, nothing parts, and it comes closest to the floor",
        },
    ),
    # template(record): the prompt of an Alpaca record, the part ### Input only where there is one
    "06.1": Cases(
        Case(
            ({"instruction": "Who is it?", "input": "Ana had a ball.", "output": "Ana."},),
            "### Instruction:\nWho is it?\n\n### Input:\nAna had a ball.\n\n### Response:\n",
            [
                (
                    "### Instruction:\nWho is it?\n\n### Input:\nAna had a ball.\n\n"
                    "### Response:\nAna.",
                    "the answer is what the model has to write: stop before it",
                ),
                (
                    "### Instruction:\nWho is it?\n\n### Response:\n",
                    "there is an input here, and without it nobody can answer",
                ),
                (
                    "### Instruction:\nWho is it?\n### Input:\nAna had a ball.\n### Response:\n",
                    "an empty line parts the sections: \\n\\n",
                ),
                (
                    "### Instruction:\nWho is it?\n\n### Input:\nAna had a ball.\n\n### Response:",
                    "the answer begins on a new line: end with \\n",
                ),
            ],
        ),
        Case(
            ({"instruction": "Say hello.", "input": "", "output": "Hello!"},),
            "### Instruction:\nSay hello.\n\n### Response:\n",
            [
                (
                    "### Instruction:\nSay hello.\n\n### Input:\n\n\n### Response:\n",
                    "where the input is empty, its section is left out: a second template",
                ),
            ],
        ),
    ),
    # targets_of(ids, mask): what each id but the last is to predict, -100 where nothing is learnt
    "06.2": Cases(
        Case(
            ([7, 20, 21, 8, 30, 9], [0, 0, 0, 0, 1, 1]),
            [-100, -100, -100, 30, 9],
            [
                ([-100, -100, -100, -100, 30, 9], "a target stands one place before its id: shift"),
                ([-100, -100, -100, -100, 30], "the mask belongs to the target, not to the input"),
                ([20, 21, 8, 30, 9], "what the user says is not learnt: -100 there"),
                ([0, 0, 0, 30, 9], "0 is an id like others: what is not learnt is -100"),
                ([-100, -100, -100, 30, -100], "the end is learnt, too, or the model never stops"),
                ([-100, -100, -100, -100, 9], "the id before an answer predicts its first word"),
                ([30, 9], "keep a place for each input, -100 where nothing is learnt"),
                ([-100, -100, -100, 30, 9, -100], "nothing follows the last id: it has no target"),
            ],
        ),
        Case(([5, 6, 7], [0, 1, 0]), [6, -100]),
        Case(([5, 6], [1, 1]), [6]),
    ),
    # the numbers in adapters of rank 4 on wq and wv, 128 x 128 each, of two blocks
    "06.3": Value(
        2 * 2 * 4 * (128 + 128),
        mistakes=[
            (2 * 4 * (128 + 128), "count both: two blocks with two matrices each"),
            (2 * 2 * 4 * 128, "an adapter is two matrices: A, 4 x 128, and B, 128 x 4"),
            (2 * 2 * 128 * 128, "those are the matrices that stay as they are"),
            (2 * 2 * 4 * 128 * 128, "A and B are thin: 4 x 128 and 128 x 4"),
        ],
    ),
    # win_rate(a, b): the share of questions on which a's answer is better, a tie counting half
    "06.4": Cases(
        Case(
            ([1, 1, 0, 0, 1], [0, 1, 1, 0, 0]),
            0.6,
            [
                (0.4, "a tie is half a win: 1 and 1, 0 and 0"),
                (2 / 3, "ties count as well: divide by all questions"),
                (0.8, "a tie is only half a win"),
                (3.0, "that is the number of wins: which share of the questions?"),
            ],
        ),
        Case(([1, 1], [1, 1]), 0.5, [(0.0, "who is always as good wins half"), (1.0, "no: half")]),
        Case(([0, 0, 0, 1], [1, 1, 1, 1]), 0.125),
        Case(([3.0], [2.5]), 1.0, [(0.5, "grades need not be 0 and 1: the higher one wins")]),
    ),
    # pair_loss(chosen, rejected): the mean of -log sigmoid(chosen - rejected)
    "07.1": Cases(
        Case(
            (torch.tensor([math.log(3.0), 0.0]), torch.tensor([0.0, math.log(3.0)])),
            (math.log(4 / 3) + math.log(4)) / 2,
            [
                (math.log(4 / 3) + math.log(4), "that is the sum: the loss is the mean"),
                (-(math.log(4 / 3) + math.log(4)) / 2, "a loss is -log p: turn the sign"),
                (0.5, "that is the mean probability: the loss is -log of each"),
                (math.log(2), "first -log sigmoid of each pair, then the mean"),
                ((math.log(3) ** 2), "no grades and no squares: -log sigmoid of the difference"),
            ],
        ),
        Case(
            (torch.tensor([math.log(3.0)]), torch.tensor([0.0])),
            math.log(4 / 3),
            [(math.log(4), "chosen minus rejected, not the other way round")],
        ),
        Case(
            (torch.tensor([0.0]), torch.tensor([1000.0])),
            1000.0,
            [(math.inf, "sigmoid(-1000) is rounded to 0, and its log is -inf: logsigmoid")],
        ),
        Case((torch.tensor([5.0, 5.0]), torch.tensor([5.0, 5.0])), math.log(2)),
    ),
    # preference_loss(chosen, rejected, ref_chosen, ref_rejected, beta): DPO, summed logps (B,)
    "07.2": Cases(
        Case(
            (
                torch.tensor([-10.0]),
                torch.tensor([-12.0]),
                torch.tensor([-11.0]),
                torch.tensor([-11.0]),
                math.log(3.0) / 2,
            ),
            math.log(4 / 3),
            [
                (math.log(4), "chosen minus rejected, each minus its reference"),
                (-math.log(4 / 3), "a loss is -log p: turn the sign"),
                (math.log1p(math.exp(-2.0)), "beta is missing: it multiplies the difference"),
                (3 / 4, "that is the probability: the loss is -log of it"),
            ],
        ),
        Case(
            (
                torch.tensor([-10.0, -30.0]),
                torch.tensor([-20.0, -10.0]),
                torch.tensor([-10.0, -30.0]),
                torch.tensor([-20.0, -10.0]),
                0.1,
            ),
            math.log(2),
            [
                (
                    (math.log1p(math.exp(-1.0)) + math.log1p(math.exp(2.0))) / 2,
                    "the reference is missing: only how far the policy has moved counts",
                ),
                (
                    (math.log1p(math.exp(-2.0)) + math.log1p(math.exp(4.0))) / 2,
                    "the reference is taken off: log p minus log p_ref",
                ),
                (2 * math.log(2), "that is the sum: the loss is the mean"),
            ],
        ),
        Case(
            (
                torch.tensor([0.0]),
                torch.tensor([0.0]),
                torch.tensor([-4.0]),
                torch.tensor([-2.0]),
                0.5,
            ),
            math.log1p(math.exp(-1.0)),
            [(math.log1p(math.exp(1.0)), "the reference is taken off: log p minus log p_ref")],
        ),
    ),
    # advantages_of(rewards): (P, G), each reward minus its group's mean, over its group's std
    "07.3": Cases(
        Case(
            (torch.tensor([[8.0, 0.0, 0.0, 0.0]]),),
            torch.tensor([[1.5, -0.5, -0.5, -0.5]]),
            [
                (torch.tensor([[6.0, -2.0, -2.0, -2.0]]), "divide by the group's torch.std, too"),
                (torch.tensor([[3.0, -1.0, -1.0, -1.0]]) / 3**0.5, "torch.std divides by G - 1"),
                (torch.tensor([[2.0, 0.0, 0.0, 0.0]]), "first take off the group's mean"),
                (torch.full((1, 4), math.nan), "a group is a row: dim=1"),
            ],
        ),
        Case(
            (UNEQUAL,),
            torch.tensor([[1.5, -0.5, -0.5, -0.5], [-3.0, -1.0, 1.0, 3.0]])
            / torch.tensor([[1.0], [(20 / 3) ** 0.5]]),
            [
                (
                    (UNEQUAL - UNEQUAL.mean()) / UNEQUAL.std(),
                    "each group has its own mean and its own deviation: dim=1, keepdim=True",
                ),
                (
                    (UNEQUAL - UNEQUAL.mean(dim=0)) / UNEQUAL.std(dim=0),
                    "a group is a row, the answers to one prompt: dim=1",
                ),
                (
                    (UNEQUAL - UNEQUAL.mean(dim=1, keepdim=True)) / UNEQUAL.std(),
                    "the deviation, too, is that of the group",
                ),
                (RuntimeError, "keepdim=True keeps a column of means, one for each group"),
            ],
        ),
        Case(
            (torch.tensor([[5.0, 5.0, 5.0]]),),
            torch.zeros(1, 3),
            [(torch.full((1, 3), math.nan), "0 / 0: add a little, 1e-4, to the deviation")],
        ),
    ),
    # what happened in each of five: who wrote what is learnt, and who says how good it is
    "07.4": Labels(
        {
            "Alpaca": "distillation",
            "InstructGPT": "RLHF",
            "R1-Zero": "RLVR",
            "R1-Distill-Qwen": "distillation",
            "a judge": "RLAIF",
        },
        choices=("distillation", "RLHF", "RLAIF", "RLVR"),
        hints={
            "distillation": "it imitates texts that another model wrote, and none of its own",
            "RLHF": "it learns from its own answers, and people compare them",
            "RLAIF": "it learns from its own answers, and who compares them is no person",
            "RLVR": "it learns from its own answers, and a rule verifies them",
        },
    ),
    # our_name(name): transformers' name of one of a block's seven matrices to ours
    "08.1": Cases(
        Case(
            ("model.layers.3.self_attn.q_proj.weight",),
            "blocks.3.attn.wq.weight",
            [
                ("model.layers.3.self_attn.q_proj.weight", "nothing is replaced: is it a match?"),
                ("blocks.3.attn.q.weight", "ours is wq: a w stands before the letter"),
                ("blocks.3.attn.q_proj.weight", "q_proj is wq with us"),
                ("blocks.3.self_attn.wq.weight", "self_attn is attn with us"),
                ("model.blocks.3.attn.wq.weight", "with us no `model.` stands first"),
            ],
        ),
        Case(
            ("model.layers.12.mlp.gate_proj.weight",),
            "blocks.12.mlp.gate.weight",
            [
                ("model.layers.12.mlp.gate_proj.weight", "a block's number may have two digits"),
                ("blocks.1.mlp.gate.weight", "a block's number may have two digits: \\d+"),
                ("blocks.12.mlp.wgate.weight", "the MLP's matrices have no w: gate, up, down"),
                ("blocks.12.mlp.gate_proj.weight", "_proj goes in the MLP, too"),
            ],
        ),
        Case(("model.layers.0.self_attn.o_proj.weight",), "blocks.0.attn.wo.weight"),
        Case(("model.layers.29.mlp.down_proj.weight",), "blocks.29.mlp.down.weight"),
        Case(
            ("model.norm.weight",),
            "model.norm.weight",
            [
                ("norm.weight", "leave a name that is none of the seven as it is"),
                (AttributeError, "where nothing matches, re.match gives None"),
            ],
        ),
    ),
    # in_neighbouring_pairs(rows, n_heads): our rows (n_heads * D, in) in the order of the file
    "08.2": Cases(
        Case(
            (ROWS_OF_ONE_HEAD, 1),
            ROWS_OF_ONE_HEAD[[0, 3, 1, 4, 2, 5]],
            [
                (ROWS_OF_ONE_HEAD, "nothing has moved: our row 3 turns with row 0, so it is next"),
                (
                    ROWS_OF_ONE_HEAD[[0, 2, 4, 1, 3, 5]],
                    "that is the way in: this is the way back, row 0 and then row 3",
                ),
            ],
        ),
        Case(
            (ROWS_OF_TWO_HEADS, 2),
            ROWS_OF_TWO_HEADS[[0, 2, 1, 3, 4, 6, 5, 7]],
            [
                (
                    ROWS_OF_TWO_HEADS[[0, 4, 1, 5, 2, 6, 3, 7]],
                    "each head's rows stay together: use n_heads",
                ),
                (
                    ROWS_OF_TWO_HEADS.view(2, 2, 2, 1).transpose(1, 2).reshape(8),
                    "give (rows, in) again: flatten the first three axes only",
                ),
            ],
        ),
    ),
    # rounded(row, group, bits): each group to whole multiples of max|w| / (2**(bits-1) - 1)
    "08.3": Cases(
        Case(
            (torch.tensor([7.0, 3.4, -2.6, 0.2, 0.7, 0.34, -0.26, 0.02]), 4, 4),
            torch.tensor([7.0, 3.0, -3.0, 0.0, 0.7, 0.3, -0.3, 0.0]),
            [
                (
                    torch.tensor([7.0, 3.0, -3.0, 0.0, 1.0, 0.0, 0.0, 0.0]),
                    "each group has a scale of its own",
                ),
                (
                    torch.tensor([7.0, 3.0, -3.0, 0.0, 7.0, 3.0, -3.0, 0.0]),
                    "those are the codes: multiply them by the scale",
                ),
                (
                    torch.tensor([[7.0, 3.0, -3.0, 0.0], [0.7, 0.3, -0.3, 0.0]]),
                    "give back one row: flatten()",
                ),
                (
                    torch.tensor([7.0, 3.0, -2.0, 0.0, 0.7, 0.3, -0.2, 0.0]),
                    "round to the nearest: .round(), not int or trunc",
                ),
            ],
        ),
        Case(
            (torch.tensor([-3.0, 1.4]), 2, 3),
            torch.tensor([-3.0, 1.0]),
            [
                (torch.tensor([-3.0, 1.2857143]), "the scale depends on bits: 2**(bits - 1) - 1"),
                (torch.tensor([-2.8, 1.4]), "the largest by absolute value: .abs() first"),
            ],
        ),
        Case(
            (torch.tensor([0.0, 0.0, 3.0, 1.0]), 2, 3),
            torch.tensor([0.0, 0.0, 3.0, 1.0]),
            [
                (
                    torch.tensor([math.nan, math.nan, 3.0, 1.0]),
                    "0 / 0: a group of zeros has the scale 0, so keep the divisor above it",
                )
            ],
        ),
    ),
    # merged(W, A, B, alpha): the one matrix (out, in) that does what W and its adapter do
    "08.4": Cases(
        Case(
            (
                torch.tensor([[1.0, 2.0], [0.0, 1.0]]),
                torch.tensor([[1.0, 1.0]]),
                torch.tensor([[3.0], [0.0]]),
                2.0,
            ),
            torch.tensor([[7.0, 8.0], [0.0, 1.0]]),
            [
                (torch.tensor([[4.0, 5.0], [0.0, 1.0]]), "the correction is scaled: alpha / rank"),
                (torch.tensor([[6.0, 6.0], [0.0, 0.0]]), "that is the correction: add it to W"),
                (RuntimeError, "B (out, rank) times A (rank, in): B stands left"),
                (torch.tensor([[7.0, 8.0], [6.0, 7.0]]), "a matrix product is @, not *"),
            ],
        ),
        Case(
            (torch.zeros(3, 2), torch.ones(2, 2), torch.ones(3, 2), 4.0),
            torch.full((3, 2), 4.0),
            [
                (torch.full((3, 2), 8.0), "divide alpha by the rank, the number of A's rows"),
                (torch.full((3, 2), 2.0), "the correction is scaled: alpha / rank"),
                (torch.full((3, 2), 8 / 3), "the rank is the number of A's rows, not of B's"),
            ],
        ),
    ),
    # bytes_per_token(n_parameters, kv_per_token, n_seen, B, bytes_each)
    "09.1": Cases(
        Case(
            (1000, 10, 50, 1, 4),
            6000,
            [
                (4000, "attention reads the cache as well: kv_per_token numbers of each token"),
                (4040, "the cache holds the numbers of all n_seen tokens, not of one"),
                (1500, "those are numbers: each takes bytes_each bytes"),
            ],
        ),
        Case(
            (1000, 10, 50, 4, 4),
            3000,
            [
                (6000, "the weights are read once for all B texts: each token costs a B-th"),
                (12000, "that is a whole step, which makes B tokens"),
                (1500, "only the weights are shared: each text has a cache of its own"),
            ],
        ),
        Case((1000, 10, 50, 4, 0.5), 375),
        Case((1000, 10, 0, 8, 2), 250),
    ),
    # kept(proposed, chosen): the tokens that a step of greedy speculation gives
    "09.2": Cases(
        Case(
            ([5, 7, 9], [5, 7, 9, 2]),
            [5, 7, 9, 2],
            [([5, 7, 9], "the model also chose what follows the last one: that token is free")],
        ),
        Case(
            ([5, 7, 9], [5, 8, 9, 2]),
            [5, 8],
            [
                ([5], "where they disagree, the model's own token counts: a step never gives none"),
                ([5, 7], "where they disagree, the model's own token counts, not the draft's"),
                ([5, 9], "stop at the first disagreement"),
                ([5, 9, 2], "stop at the first disagreement"),
                ([5, 8, 9], "what the model chose after a wrong token follows a text that is not"),
                ([5, 8, 9, 2], "what it chose after a wrong token follows a text that is not"),
            ],
        ),
        Case(([5, 7, 9], [1, 7, 9, 2]), [1], [([], "a step gives at least the model's own token")]),
        Case(([], [4]), [4]),
    ),
    # expected_tokens(alpha, k): of one step, each of k proposals being accepted with alpha
    "09.3": Cases(
        Case(
            (0.8, 4),
            1 + 0.8 + 0.8**2 + 0.8**3 + 0.8**4,
            [
                (4.2, "a proposal only counts if all before it were accepted: powers of alpha"),
                (3.2, "a proposal only counts if all before it were accepted: powers of alpha"),
                (0.8 + 0.8**2 + 0.8**3 + 0.8**4, "the model's own token comes on top: 1 + …"),
                (1 + 0.8 + 0.8**2 + 0.8**3, "all k proposals may be accepted: up to alpha**k"),
                (5 * 0.8**4, "that is only the case in which all are accepted"),
            ],
        ),
        Case((0.0, 3), 1),
        Case((1.0, 3), 4, [(ZeroDivisionError, "with alpha = 1 add up the powers, one by one")]),
        Case((0.5, 1), 1.5),
    ),
}
