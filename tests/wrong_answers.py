"""Typical wrong answers to the exercises: what each check must answer with "no" and a hint.

The key is the exercise's, as in check("01.1", …); each value is code that could stand in the stub.
At least two per exercise: the mistakes that students make, not random ones.
"""

WRONG_ANSWERS = {
    "01.1": [
        # every pair of neighbours is looked at, so overlapping ones are merged twice
        """
def merge_pair(ids, pair, new_id):
    return [new_id if (a, b) == pair else a for a, b in zip(ids, ids[1:])]
""",
        # the last token has no right neighbour and is lost
        """
def merge_pair(ids, pair, new_id):
    merged, i = [], 0
    while i < len(ids) - 1:
        found = (ids[i], ids[i + 1]) == pair
        merged.append(new_id if found else ids[i])
        i += 2 if found else 1
    return merged
""",
        # a list is never equal to a tuple
        """
def merge_pair(ids, pair, new_id):
    merged, i = [], 0
    while i < len(ids):
        found = ids[i : i + 2] == pair
        merged.append(new_id if found else ids[i])
        i += 2 if found else 1
    return merged
""",
        # it looks beyond the end
        """
def merge_pair(ids, pair, new_id):
    merged, i = [], 0
    while i < len(ids):
        found = (ids[i], ids[i + 1]) == pair
        merged.append(new_id if found else ids[i])
        i += 2 if found else 1
    return merged
""",
        # the caller's list is changed
        """
def merge_pair(ids, pair, new_id):
    for i in range(len(ids)):
        if tuple(ids[i : i + 2]) == pair:
            ids[i : i + 2] = [new_id]
    return ids
""",
    ],
    "01.2": [
        "def fertility(text, encode): return len(text.split()) / len(encode(text))",
        "def fertility(text, encode): return len(encode(text)) / len(text.split(' '))",
        "def fertility(text, encode): return len(text) / len(text.split())",
        "def fertility(text, encode): return len(encode(text)) // len(text.split())",
        """
def fertility(text, encode):
    return sum(len(encode(word)) for word in text.split()) / len(text.split())
""",
    ],
    "01.3": [
        "def bits_per_byte(loss, n_tokens, n_bytes): return loss * n_tokens / n_bytes",
        "def bits_per_byte(loss, n_tokens, n_bytes): return loss / log(2)",
        "def bits_per_byte(loss, n_tokens, n_bytes): return loss * n_bytes / n_tokens / log(2)",
        "def bits_per_byte(loss, n_tokens, n_bytes): return loss * n_tokens / n_bytes * log(2)",
    ],
    "02.1": [
        "def shift(tokens): return tokens",
        "def shift(tokens): return tokens[:, 1:]",
        "def shift(tokens): return torch.roll(tokens, -1, dims=1)",
        "def shift(tokens): return torch.roll(tokens, 1, dims=1)",
        # the caller's tensor is changed
        """
def shift(tokens):
    tokens[:, :-1] = tokens[:, 1:].clone()
    tokens[:, -1] = -100
    return tokens
""",
        # padded with 0, which is a token
        """
def shift(tokens):
    targets = torch.zeros_like(tokens)
    targets[:, :-1] = tokens[:, 1:]
    return targets
""",
    ],
    "02.2": [
        "def passes_per_epoch(n_tokens, T, stride): return T / stride",
        "def passes_per_epoch(n_tokens, T, stride): return (n_tokens - T - 1) // stride + 1",
        "def passes_per_epoch(n_tokens, T, stride): return (n_tokens - T) // stride * T / n_tokens",
        """
def passes_per_epoch(n_tokens, T, stride):
    n_windows = (n_tokens - T - 1) // stride + 1
    return n_windows * T // n_tokens
""",
        # a window does not need its last target
        """
def passes_per_epoch(n_tokens, T, stride):
    n_windows = (n_tokens - T) // stride + 1
    return n_windows * T / n_tokens
""",
    ],
    "02.3": [
        "def document_mask(doc_ids): return doc_ids[:, :, None] == doc_ids[:, None, :]",
        "def document_mask(doc_ids): return (doc_ids[:, None] == doc_ids[:, :, None]).triu()",
        # causal only
        """
def document_mask(doc_ids):
    B, T = doc_ids.shape
    return torch.ones(B, T, T, dtype=torch.bool).tril()
""",
        # True where it may not look
        """
def document_mask(doc_ids):
    return (doc_ids[:, :, None] != doc_ids[:, None, :]).tril()
""",
    ],
}
