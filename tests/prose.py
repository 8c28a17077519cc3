"""Are the numbers in a lesson's prose true? Each must stand in some output or in the code.

Looked at: decimal numbers, percentages and whole numbers of four digits or more, in Markdown cells,
outside code blocks and outside cells tagged `facts`. Not looked at: smaller whole numbers, words,
years (1950 to 2030, no comma), link targets and names ("Llama 3.1", "Section 4.2", "arXiv:...").

A number is proven by one that rounds to its printed digits: 0.37 by 0.3658 or 36.6%, 37% by 0.3658,
5.06 million by 5,062,345. After "about" and the like, the zeros that end a whole number are not
digits: "about 905,000" is proven by 905,123. Signs are not compared.
"""

import re
from bisect import bisect_left
from typing import NamedTuple

from tests.save import code_cells, tags

NUMBER = re.compile(
    r"""(?<![\w.])(?<!\w-)                       # not inside a word, a version, a date
    (?P<digits>[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)? | [0-9]*\.?[0-9]+)(?!\.?[0-9])
    (?:[eE](?P<exponent>[-+]?[0-9]+))?
    (?P<percent>\ ?(?:%|percent\b))?""",
    re.VERBOSE,
)
SCALES = {"k": 1e3, "thousand": 1e3, "kB": 1e3, "M": 1e6, "million": 1e6, "MB": 1e6}
SCALES |= {"B": 1e9, "billion": 1e9, "GB": 1e9, "T": 1e12, "trillion": 1e12}
SCALE = re.compile(rf"\s?({'|'.join(SCALES)})(?![\w-])")
ABOUT = re.compile(r"(?:about|some|roughly|nearly|almost|around|over|under|than|~|≈)\s*$")
NAME = re.compile(
    r"""(?:§|\b(?:Llama|Gemma|GPT|Qwen|DeepSeek|Python|PyTorch|CUDA|BY|Apache|arXiv|[Vv]ersion
    |[Ll]esson|[Ee]xercise|[Ss]ection|[Cc]hapter|[Ff]igure|[Tt]able|[Ee]q|[Ee]quation)s?)
    [\s.:]*(?:[0-9.]+\s*(?:,|and|to|–)\s*)*$""",
    re.VERBOSE,
)


class Number(NamedTuple):
    """A printed number: its value, half a unit of its last digit, is it in percent."""

    value: float
    half: float
    percent: bool


class Claim(NamedTuple):
    """A number of the prose to be proven, its scale (1e6 for "million") and the words around it."""

    number: Number
    scale: float
    context: str


def unproven(notebook):
    """The complaints: each number of the prose that nothing in the notebook shows."""
    known, percents = evidence(notebook)
    return [
        f"{cell.id}: no output and no code shows the number in «{claim.context}»"
        for cell in notebook.cells
        if cell.cell_type == "markdown" and "facts" not in tags(cell)
        for claim in claims(cell.source)
        if not is_proven(claim, known, percents)
    ]


# --- what is claimed ----------------------------------------------------------------------------


def claims(markdown):
    """The Claims of a Markdown text."""
    text = plain(markdown)
    return [claim(text, match) for match in NUMBER.finditer(text) if is_claim(text, match)]


def plain(markdown):
    """The text without code blocks, HTML tags, comments, link targets and bare addresses."""
    text = re.sub(r"(?ms)^\s*```.*?^\s*```\s*$", " ", markdown)
    text = re.sub(r"(?s)\]\([^)]*\)|https?://\S+|<!--.*?-->|</?[a-zA-Z][^>]*>", " ", text)
    return text.replace("\N{MINUS SIGN}", "-").replace(r"\%", "%")


def is_claim(text, match):
    """False for names, years and small whole numbers."""
    digits = match["digits"]
    if NAME.search(text[: match.start()]):
        return False
    if "." in digits or match["exponent"] or match["percent"]:
        return True
    is_year = "," not in digits and 1950 <= int(digits) <= 2030
    return len(digits.replace(",", "")) >= 4 and not is_year


def claim(text, match):
    """The Claim that a match of NUMBER makes."""
    number = parsed(match)
    if ABOUT.search(text[: match.start()]) and "." not in match["digits"]:
        whole = match["digits"].replace(",", "")
        number = number._replace(half=0.5 * 10.0 ** (len(whole) - len(whole.rstrip("0"))))
    scale = SCALE.match(text, match.end())
    context = text[max(0, match.start() - 40) : match.end() + 20]
    return Claim(number, SCALES[scale[1]] if scale else 1, " ".join(context.split()))


def parsed(match):
    """The Number that a match of NUMBER spells."""
    power = 10.0 ** int(match["exponent"] or 0)
    digits = match["digits"].replace(",", "")
    half = 0.5 * 10.0 ** -len(digits.partition(".")[2])
    return Number(float(digits) * power, half * power, bool(match["percent"]))


# --- what is shown ------------------------------------------------------------------------------


def evidence(notebook):
    """Two sorted lists of values: of all numbers in outputs and code, of those in percent."""
    texts = [cell.source for cell in code_cells(notebook)]
    for cell in code_cells(notebook):
        texts += [text for out in cell.outputs for text in output_texts(out)]
    # In code, 1_000_000 is one number.
    text = re.sub(r"(?<=[0-9])_(?=[0-9])", "", "\n".join(texts))
    shown = [parsed(match) for match in NUMBER.finditer(text)]
    return sorted({n.value for n in shown}), sorted({n.value for n in shown if n.percent})


def output_texts(out):
    """What one output says in words: streams, plain text, Markdown, HTML without its tags."""
    data = out.get("data", {})
    html = re.sub(r"<[^>]+>", " ", data.get("text/html", ""))
    return [out.get("text", ""), data.get("text/plain", ""), data.get("text/markdown", ""), html]


def is_proven(claim, known, percents):
    """True when a known value rounds to the claim: as it is, scaled, or as its hundredfold."""
    number = claim.number
    factors = [1, claim.scale, 1 / 100] if number.percent else [1, claim.scale]
    if any(has(known, number, factor) for factor in factors):
        return True
    return not number.percent and has(percents, number, 100)


def has(values, number, factor):
    """True when the sorted values hold one within half a unit of `factor` times the number."""
    center, slack = number.value * factor, number.half * factor * (1 + 1e-6)
    at = bisect_left(values, center - slack)
    return at < len(values) and values[at] <= center + slack
