"""Tunes the story model of both languages to answer: story_chat.safetensors, and its card.

    python assets/story_chat.py            # tune and score: about half an hour of one core
    python assets/story_chat.py score      # score what is there, and write the card anew

A run that is stopped goes on from its checkpoint when it is started again. What the model scores is
kept in story_chat.json, from which the card, story_chat.md, is written.
"""

import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import torch

from helpers import weights
from helpers.data import RowBatches, chat_rows
from helpers.generate import GREEDY, Sampling, reply
from helpers.model import Decoder
from helpers.tasks import KINDS, LANGUAGES, Request, is_right, messages, requests
from helpers.tokenizer import Tokenizer
from helpers.train import Recipe, train
from helpers.world import World, rates

ASSETS = Path(__file__).parent
FACTS = ASSETS / "story_chat.json"
N_RECORDS = {  # of each language; most for what is learnt late
    "write": 24_000,
    "continue": 6_000,
    "shorten": 8_000,
    "who": 4_000,
    "where": 12_000,
    "colour": 4_000,
    "translate": 16_000,
    "greet": 2_000,
    "refuse": 1_500,
}
ABOUT_STORIES = ("continue", "shorten", "who", "where", "colour")
TRAIN_SEED, VAL_SEED, TEST_SEED = 5, 999, 2_077
N_TESTED, N_DRAWN = 100, 400
SHARP = 0.7  # the temperature that becomes 1: stray words are rarer below it, stories as different
T = 160  # no chat is longer
STEPS = 16_000
RECIPE = {"optimizer": "muon", "muon_lr": 0.02, "lr": 0.02, "schedule": "wsd", "decay": 0.4}
RECIPE |= {"weight_decay": 0.0}


def chats(n_of_kind: dict[str, int], seed: int) -> list[list[dict]]:
    """So many chats of each kind, in both languages; each kind has stories of its own."""
    return [
        messages(request.record)
        for language in LANGUAGES
        for i, (kind, n) in enumerate(n_of_kind.items())
        for request in requests(n, language, [kind], seed + i)
    ]


def rows_to_learn(tokenizer: Tokenizer) -> list[torch.Tensor]:
    """[inputs, targets] of all chats: answers, and the prompts too where they hold a story."""
    n_short = {kind: N_RECORDS[kind] for kind in KINDS if kind not in ABOUT_STORIES}
    n_long = {kind: N_RECORDS[kind] for kind in ABOUT_STORIES}
    short = chat_rows(chats(n_short, TRAIN_SEED), tokenizer, T, learn="answers")
    long = chat_rows(chats(n_long, TRAIN_SEED + len(KINDS)), tokenizer, T, learn="everything")
    return [torch.cat(both) for both in zip(short, long)]


def tune() -> None:
    """Tunes the model, writes its file, and keeps what that took."""
    torch.manual_seed(0)
    model, tokenizer = weights.story_model("both")
    batches = RowBatches(*rows_to_learn(tokenizer), B=16)
    validation = chat_rows(chats(dict.fromkeys(KINDS, 20), VAL_SEED), tokenizer, T)
    recipe = Recipe(steps=STEPS, eval_every=STEPS // 10, **RECIPE)
    unfinished, start = ASSETS / "story_chat.unfinished", time.process_time()
    records = train(model, batches, recipe, validation, say, unfinished, checkpoint_every=250)
    minutes = (time.process_time() - start) / 60
    weights.save(sharpened(model).half(), ASSETS / "story_chat.safetensors")
    keep({"tokens": records[-1].tokens, "cpu_minutes": round(minutes, 1)})
    unfinished.unlink()


def sharpened(model: Decoder) -> Decoder:
    """The model with logits so much larger that temperature 1 draws as SHARP drew before."""
    with torch.no_grad():
        model.norm.weight /= SHARP
    return model


def say(record, model) -> None:
    """One line for each measurement."""
    if record.val_loss is not None:
        print(f"step {record.step}: {record.tokens:,} tokens, {record.val_loss:.4f}", flush=True)


def score() -> None:
    """Keeps what the model as shipped, and the one before it, score on held-out requests."""
    base, tokenizer = weights.story_model("both")
    tuned, _ = weights.chat_model()
    keep({"base": right_shares(base, tokenizer), "tuned": right_shares(tuned, tokenizer)})
    keep({"tuned_new_words": right_shares(tuned, tokenizer, new_words=True)})
    for language in LANGUAGES:
        asked = requests(N_DRAWN, language, ["write"], TEST_SEED, held_out=True)
        keep({f"drawn {language}": drawn_stories(tuned, tokenizer, asked)})
    write_card(json.loads(FACTS.read_text()))


def right_shares(model: Decoder, tokenizer: Tokenizer, new_words: bool = False) -> dict:
    """The shares of right answers to held-out requests of each kind and language."""
    found = {}
    for kind in KINDS:
        for language in LANGUAGES:
            asked = requests(N_TESTED, language, [kind], TEST_SEED, True, new_words)
            answers = answered(model, tokenizer, asked)
            found[f"{kind} {language}"] = share(map(is_right, asked, answers))
    return found


def answered(model: Decoder, tokenizer: Tokenizer, asked: list[Request]) -> list[str]:
    """Answers of the likeliest tokens; where many answers are right, of tokens that are drawn."""
    one_is_right = all(request.accepted for request in asked)
    prompts, seeds = [request.prompt for request in asked], list(range(len(asked)))
    sampling = GREEDY if one_is_right else Sampling()
    return reply(model, tokenizer, prompts, sampling=sampling, seed=seeds)


def drawn_stories(model: Decoder, tokenizer: Tokenizer, asked: list[Request]) -> dict:
    """Of the stories drawn at temperature 1: the shares that are right, a story, and happy."""
    texts = answered(model, tokenizer, asked)
    world = World(asked[0].language)
    stories = [world.parse(text) for text in texts if world.tells(text)]
    return {
        "right": share(map(is_right, asked, texts)),
        "grammatical": round(rates(texts, world.language).grammatical, 3),
        "consistent": round(len(stories) / len(texts), 3),
        "happy": share(story.happy for story in stories),
        "different": len(set(texts)),
    }


def share(true: Iterable[bool]) -> float:
    """How many are true, as a share."""
    true = list(true)
    return round(sum(true) / len(true), 3) if true else 0.0


def keep(facts: dict) -> None:
    """Adds to the facts that are kept."""
    known = json.loads(FACTS.read_text()) if FACTS.exists() else {}
    FACTS.write_text(json.dumps(known | facts, indent=1) + "\n")


def write_card(facts: dict) -> None:
    """The card: how the model was made, how long that took, how good it is."""
    asked = [
        [kind, language, *(f"{facts[name][f'{kind} {language}']:.0%}" for name in SCORES)]
        for kind in KINDS
        for language in LANGUAGES
    ]
    drawn = [
        [language, *(f"{facts[f'drawn {language}'][name]:.0%}" for name in SHARES)]
        for language in LANGUAGES
    ]
    tables = {
        "asked": table(["asked for", "in", "base", "tuned", "tuned, new words"], asked),
        "drawn": table(["in", *SHARES], drawn),
    }
    (ASSETS / "story_chat.md").write_text(CARD.format(**tables, **CARD_NUMBERS, **facts))


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows])


SCORES = ("base", "tuned", "tuned_new_words")
SHARES = ("right", "consistent", "grammatical", "happy")
CARD_NUMBERS = {
    "kinds": ", ".join(f"{n:,} {kind}" for kind, n in N_RECORDS.items()),
    "steps": f"{STEPS:,}",
    "recipe": ", ".join(f"{key} = {value}" for key, value in RECIPE.items()),
    "train_seed": TRAIN_SEED,
    "test_seed": TEST_SEED,
    "n": N_TESTED,
    "n_drawn": N_DRAWN,
    "sharp": SHARP,
}
CARD = """# The chat model

The story model of both languages ([story_models.md](story_models.md)), tuned to answer requests
about the small world: 0.8 million parameters, stored in 16 bits. It and this page were written by
`python assets/story_chat.py`.

**How it was tuned.** On chats made of the records of `helpers.tasks.requests`, seed {train_seed}:
of each language {kinds}. Where a prompt holds a story, it was learnt like the answer.
{steps} steps of 16 chats, seed 0, {recipe}: {tokens:,} tokens learnt,
{cpu_minutes:.0f} minutes of one CPU core. At the end its logits were divided by {sharp} for good,
so that temperature 1 draws as {sharp} drew before, with fewer stray words. (Its losses are
therefore not the lowest that it could have.)

**How good it is.** The share of {n} held-out requests of each kind (seed {test_seed}) that it
answers rightly by rule: with the likeliest token each time or, where many stories are right
(write, continue), with tokens drawn at temperature 1. Held-out requests speak of combinations that
tuning never saw; the last column words them in a way that it never saw either.

{asked}

**The stories that it draws** at temperature 1 for {n_drawn} held-out requests in each language.
*Right* is a whole and consistent story about what was asked for; *happy* is the share of the
consistent ones that end well, as about half of the world's do.

{drawn}

**What it is not for.** It knows one small world and a few ways to ask about it. Anything else it
should decline, and it can only tell by the topics that it was shown.
"""


def main(wanted: list[str]) -> None:
    """Tunes and scores, or scores alone."""
    if wanted not in ([], ["score"]):
        sys.exit(f"there is no {' '.join(wanted)!r}: give nothing, or score")
    if not wanted:
        tune()
    score()


if __name__ == "__main__":
    main(sys.argv[1:])
