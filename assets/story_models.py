"""Trains what the lessons start from: the course's tokenizer and its three models of stories.

    python assets/story_models.py                 # everything: about an hour of one core
    python assets/story_models.py tokenizer en    # some of: tokenizer en pt both scores card

A run that is stopped goes on from its checkpoint when it is started again. What each model scores
is kept in story_models.json, from which the card, story_models.md, is written.
"""

import json
import sys
import time
from pathlib import Path

import torch

from helpers import weights
from helpers.config import ModelConfig
from helpers.data import RowBatches, rows
from helpers.generate import Sampling, generate
from helpers.model import Decoder
from helpers.tokenizer import Tokenizer
from helpers.train import Recipe, evaluate, train
from helpers.world import World, rates

ASSETS = Path(__file__).parent
TOKENIZER, FACTS = ASSETS / "story_tokenizer.json", ASSETS / "story_models.json"
LANGUAGES = {"en": ["en"], "pt": ["pt"], "both": ["en", "pt"]}
N_STORIES = 60_000  # to learn from, of each language
TRAIN_SEED, VAL_SEED, TOKENIZER_SEED = 5, 999, 1
T = 120  # no story is longer
MIN_P = 0.02  # a token that is less than this share as likely as the likeliest is not drawn
STEPS = {"en": 4_000, "pt": 4_000, "both": 6_000}
RECIPE = {"optimizer": "muon", "muon_lr": 0.02, "lr": 0.02, "schedule": "wsd", "weight_decay": 0.0}


def stories(languages: list[str], n: int, seed: int) -> list[str]:
    """n stories of each language."""
    return [story for language in languages for story in World(language).stories(n, seed)]


def train_tokenizer() -> None:
    """One vocabulary for both languages; it stops by itself when every word is one token."""
    documents = stories(["en", "pt"], 4_000, TOKENIZER_SEED)
    Tokenizer.train(documents, vocab_size=2_048).save(TOKENIZER)


def config(tokenizer: Tokenizer) -> ModelConfig:
    """A small decoder of today: RMSNorm, rotary positions, SwiGLU."""
    return ModelConfig(
        vocab_size=tokenizer.vocab_size,
        context_length=256,
        n_layers=2,
        d_model=128,
        n_heads=4,
        n_kv_heads=4,
        head_dim=32,
        d_ff=352,
    )


def train_model(name: str) -> None:
    """Trains one model, writes its file, and keeps what it scores."""
    torch.manual_seed(0)
    tokenizer, languages = Tokenizer.load(TOKENIZER), LANGUAGES[name]
    model = Decoder(config(tokenizer))
    batches = RowBatches(*rows(stories(languages, N_STORIES, TRAIN_SEED), tokenizer, T), B=16)
    validation = rows(stories(languages, 300, VAL_SEED), tokenizer, T)
    recipe = Recipe(steps=STEPS[name], eval_every=STEPS[name] // 10, **RECIPE)
    unfinished, start = ASSETS / f"story_{name}.unfinished", time.process_time()
    records = train(model, batches, recipe, validation, say, unfinished, checkpoint_every=500)
    minutes = (time.process_time() - start) / 60
    weights.save(model.half(), ASSETS / f"story_{name}.safetensors")
    keep(name, {"tokens": records[-1].tokens, "cpu_minutes": round(minutes, 1)} | scores(name))
    unfinished.unlink()


def say(record, model) -> None:
    """One line for each measurement."""
    if record.val_loss is not None:
        print(f"step {record.step}: {record.tokens:,} tokens, {record.val_loss:.4f}", flush=True)


def scores(name: str) -> dict:
    """Of the model as shipped: losses and floors, nats per token; shares of stories drawn."""
    model, tokenizer = weights.story_model(name)
    found = {"parameters": sum(p.numel() for p in model.parameters())}
    for ending, sampling in {"": Sampling(), "_min_p": Sampling(min_p=MIN_P)}.items():
        texts = drawn(model, tokenizer, sampling)
        told = [rates(texts, language) for language in LANGUAGES[name]]
        found[f"grammatical{ending}"] = round(sum(rate.grammatical for rate in told), 3)
        found[f"consistent{ending}"] = round(sum(rate.consistent for rate in told), 3)
    for language in LANGUAGES[name]:
        found |= losses(model, tokenizer, language)
    return found


def drawn(model: Decoder, tokenizer: Tokenizer, sampling: Sampling, n: int = 500) -> list[str]:
    """n stories as the model tells them."""
    seeds = list(range(n))
    told = generate(model, [[tokenizer.eot]] * n, T, sampling, [tokenizer.eot], seeds)
    return [tokenizer.decode(ids) for ids in told]


def losses(model: Decoder, tokenizer: Tokenizer, language: str) -> dict[str, float]:
    """Loss and floor on 1,000 held-out stories, their ends included."""
    held_out = stories([language], 1_000, VAL_SEED)
    inputs, targets = rows(held_out, tokenizer, T)
    nats = -sum(map(World(language).log_prob, held_out))
    n_targets = int((targets >= 0).sum())
    return {
        f"loss_{language}": round(evaluate(model, inputs, targets), 4),
        f"floor_{language}": round(nats / n_targets, 4),
    }


def score_again() -> None:
    """Measures once more whatever is shipped."""
    for name in json.loads(FACTS.read_text()):
        keep(name, scores(name))


def keep(name: str, facts: dict) -> None:
    """Adds the facts of one model to those that are kept."""
    known = json.loads(FACTS.read_text()) if FACTS.exists() else {}
    known[name] = known.get(name, {}) | facts
    known = {each: known.get(each) for each in LANGUAGES}
    FACTS.write_text(json.dumps({k: v for k, v in known.items() if v}, indent=1) + "\n")


def write_card() -> None:
    """The card: how the models were made, how long that took, how good they are."""
    facts = json.loads(FACTS.read_text())
    rows_of_card = [row for name, known in facts.items() for row in card_rows(name, known)]
    names = "model, reads, loss, floor, above, grammatical, consistent, with min-p, tokens, CPU min"
    head = f"| {names.replace(', ', ' | ')} |"
    table = [head, "|---" * head.count(" | ") + "|---|", *rows_of_card]
    (ASSETS / "story_models.md").write_text(CARD.format(table="\n".join(table), **CARD_NUMBERS))


def card_rows(name: str, known: dict) -> list[str]:
    """A row for each language that the model speaks."""
    shares = f"{known['grammatical']:.1%} | {known['consistent']:.1%}"
    shares += f" | {known['grammatical_min_p']:.1%}, {known['consistent_min_p']:.1%}"
    work = f"{known['tokens']:,} | {known['cpu_minutes']:.0f}"
    found = []
    for language in LANGUAGES[name]:
        loss, floor = known[f"loss_{language}"], known[f"floor_{language}"]
        found.append(
            f"| {name} | {language} | {loss:.4f} | {floor:.4f} | {loss - floor:.4f} "
            f"| {shares} | {work} |"
        )
    return found


CARD_NUMBERS = {
    "n_stories": f"{N_STORIES:,}",
    "t": T,
    "min_p": MIN_P,
    "train_seed": TRAIN_SEED,
    "val_seed": VAL_SEED,
    "recipe": ", ".join(f"{key} = {value}" for key, value in RECIPE.items()),
}
CARD = """# The models of stories

Three small decoders that tell stories of the small world (`assets/world.txt`): one in English, one
in Portuguese, one in both. Lessons start from them where training would take too long. They and
this page were written by `python assets/story_models.py`.

**What they are.** 2 blocks, `d_model` 128, 4 heads, SwiGLU, RMSNorm, rotary positions; trained in
32 bits, stored in 16. One tokenizer serves all three, `story_tokenizer.json`: every word of both
worlds is one token.

**How they were trained.** On {n_stories} stories of each language (`World(language).stories`, seed
{train_seed}), one story in a row, 16 rows a batch, seed 0, {recipe}.

**How good they are.** Loss and floor are nats per token on 1,000 stories of seed {val_seed}, which
training never saw: of more than 10^18 stories, none came twice. The floor is exact: no model can
expect less. Grammatical and consistent (`helpers.world.rates`) are shares of 500 stories drawn at
temperature 1, whole, as they came; then both once more with `min_p` {min_p}, which never draws what
is less than {min_p:.0%} as likely as the likeliest token.

{table}

**What they are not for.** They know the first {t} tokens of one small world, and nothing else.
"""


def main(wanted: list[str]) -> None:
    """Makes what is asked for, or everything."""
    known = ["tokenizer", *LANGUAGES, "scores", "card"]
    if set(wanted) - set(known):
        sys.exit(f"there is no {min(set(wanted) - set(known))!r}: choose from {', '.join(known)}")
    for name in wanted or known:
        if name == "tokenizer":
            train_tokenizer()
        elif name == "scores":
            score_again()
        elif name in LANGUAGES:
            train_model(name)
    write_card()


if __name__ == "__main__":
    main(sys.argv[1:])
