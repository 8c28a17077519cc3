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
    "03.1": [
        "def masked_softmax(scores, mask): return scores.softmax(dim=-1) * mask",
        "def masked_softmax(scores, mask): return (scores * mask).softmax(dim=-1)",
        "def masked_softmax(scores, mask): return scores.masked_fill(mask, -math.inf).softmax(-1)",
        "def masked_softmax(scores, mask): return scores.masked_fill(~mask, -math.inf).softmax(0)",
        "def masked_softmax(scores, mask): return scores.masked_fill(~mask, -math.inf).softmax()",
        "def masked_softmax(scores, mask): return scores.masked_fill(-mask, -math.inf).softmax(-1)",
        # right for small scores; large ones overflow
        """
def masked_softmax(scores, mask):
    grown = scores.exp() * mask
    return grown / grown.sum(dim=-1, keepdim=True)
""",
        # the caller's tensor is changed
        """
def masked_softmax(scores, mask):
    scores[~mask.expand_as(scores)] = -math.inf
    return scores.softmax(dim=-1)
""",
    ],
    "03.2": [
        # the other way round
        """
def rotate(x, angles):
    a, b = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([a * cos + b * sin, b * cos - a * sin], dim=-1)
""",
        # one number where there are many
        """
def rotate(x, angles):
    a, b = x.chunk(2, dim=-1)
    cos, sin = math.cos(angles), math.sin(angles)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)
""",
        # pairs of neighbours
        """
def rotate(x, angles):
    a, b = x[:, 0::2], x[:, 1::2]
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(1)
""",
        # b sees the new a
        """
def rotate(x, angles):
    a, b = x.chunk(2, dim=-1)
    a = a * angles.cos() - b * angles.sin()
    b = b * angles.cos() + a * angles.sin()
    return torch.cat([a, b], dim=-1)
""",
        # halves taken apart, but put together as neighbours
        """
def rotate(x, angles):
    a, b = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(1)
""",
    ],
    "03.3": [
        "def block_parameters(C, F): return 4 * C * C + 2 * C * F",
        "def block_parameters(C, F): return 4 * (C * C + C) + 2 * C * F + F + C",
        "def block_parameters(C, F): return 4 * (C * C + C) + 2 * C * F + F + C + 2 * C",
        "def block_parameters(C, F): return 3 * (C * C + C) + 2 * C * F + F + C + 4 * C",
        "def block_parameters(C, F): return 4 * (C * C + C) + 8 * C * C + 5 * C + 4 * C",
    ],
    "03.4": [
        "crossing = 3072",
        "crossing = 12288",
        "crossing = 8 * 768 * 12",
        "crossing = '6143'",
    ],
    "04.1": [
        # every position is looked up, and the mean is over all
        """
def mean_loss(logits, targets):
    logps = logits.log_softmax(dim=-1)
    return -sum(logps[t, target] for t, target in enumerate(targets.tolist())) / len(targets)
""",
        # left out of the sum, but not of the count
        """
def mean_loss(logits, targets):
    logps = logits.log_softmax(dim=-1)
    kept = [logps[t, y] for t, y in enumerate(targets.tolist()) if y != -100]
    return -sum(kept) / len(targets)
""",
        # a gather that meets -100
        """
def mean_loss(logits, targets):
    return -logits.log_softmax(dim=-1).gather(1, targets[:, None]).mean()
""",
        # logits taken for log-probabilities
        """
def mean_loss(logits, targets):
    kept = targets != -100
    return -logits[kept, targets[kept]].mean()
""",
        # the mean first, then the logarithm
        """
def mean_loss(logits, targets):
    kept = targets != -100
    return -logits.softmax(dim=-1)[kept, targets[kept]].mean().log()
""",
    ],
    "04.2": [
        # the token that crosses the line is thrown out
        """
def top_p(probs, p):
    sorted_probs, order = probs.sort(descending=True)
    kept = torch.zeros_like(probs)
    inside = sorted_probs.cumsum(0) <= p
    inside[0] = True
    kept[order[inside]] = sorted_probs[inside]
    return kept / kept.sum()
""",
        # never made to sum to 1
        """
def top_p(probs, p):
    sorted_probs, order = probs.sort(descending=True)
    kept = torch.zeros_like(probs)
    inside = sorted_probs.cumsum(0) - sorted_probs < p
    kept[order[inside]] = sorted_probs[inside]
    return kept
""",
        # in sorted order
        """
def top_p(probs, p):
    sorted_probs, order = probs.sort(descending=True)
    kept = torch.where(sorted_probs.cumsum(0) - sorted_probs < p, sorted_probs, 0.0)
    return kept / kept.sum()
""",
        # each by itself
        "def top_p(probs, p): return torch.where(probs >= p, probs, 0.0)",
    ],
    "04.3": [
        "def training_days(N, D, n, f, u): return 2 * N * D / (n * f * u) / 86400",
        "def training_days(N, D, n, f, u): return 6 * N * D / (n * f) / 86400",
        "def training_days(N, D, n, f, u): return 6 * N * D * u / (n * f) / 86400",
        "def training_days(N, D, n, f, u): return 6 * N * D / (n * f * u) / 3600",
        "def training_days(N, D, n, f, u): return 6 * N * D / (f * u) / 86400",
    ],
    "04.4": [
        "def training_bytes(N, B, T, V): return 16 * N",
        "def training_bytes(N, B, T, V): return 16 * N + 4 * B * T * V",
        "def training_bytes(N, B, T, V): return 4 * N + 8 * B * T * V",
        "def training_bytes(N, B, T, V): return 12 * N + 8 * B * T * V",
        "def training_bytes(N, B, T, V): return 16 * N + 2 * B * T * V",
    ],
    "03b.1": [
        # windows are forgotten
        """
def kv_bytes(T, reaches, n_kv_heads, head_dim):
    return len(reaches) * T * 2 * n_kv_heads * head_dim * 2
""",
        # more slots than there are tokens
        """
def kv_bytes(T, reaches, n_kv_heads, head_dim):
    return sum(reach or T for reach in reaches) * 2 * n_kv_heads * head_dim * 2
""",
        # keys without values
        """
def kv_bytes(T, reaches, n_kv_heads, head_dim):
    return sum(min(T, reach or T) for reach in reaches) * n_kv_heads * head_dim * 2
""",
        # None is compared with a number
        """
def kv_bytes(T, reaches, n_kv_heads, head_dim):
    return sum(min(T, reach) for reach in reaches) * 4 * n_kv_heads * head_dim
""",
    ],
    "03b.2": [
        # ahead, too
        """
def chunk_mask(T, chunk):
    places = torch.arange(T)
    return places[:, None] // chunk == places[None, :] // chunk
""",
        # a window
        """
def chunk_mask(T, chunk):
    places = torch.arange(T)
    query, key = places[:, None], places[None, :]
    return (key <= query) & (key > query - chunk)
""",
        # positions from 1
        """
def chunk_mask(T, chunk):
    places = torch.arange(1, T + 1)
    query, key = places[:, None], places[None, :]
    return (key <= query) & (key // chunk == query // chunk)
""",
    ],
    "03b.3": [
        "def route(logits, k): return logits.softmax(dim=-1)",
        # a softmax over all, then the choice
        """
def route(logits, k):
    best, chosen = logits.softmax(dim=-1).topk(k, dim=-1)
    return torch.zeros_like(logits).scatter(-1, chosen, best)
""",
        # 0 is a logit like any other
        """
def route(logits, k):
    best, chosen = logits.topk(k, dim=-1)
    return torch.zeros_like(logits).scatter(-1, chosen, best).softmax(dim=-1)
""",
        # the weights without their places
        """
def route(logits, k):
    return logits.topk(k, dim=-1).values.softmax(dim=-1)
""",
    ],
    "05.1": [
        "def best_before_stop(val_losses, patience): return val_losses.index(min(val_losses))",
        "def best_before_stop(val_losses, patience): return min(val_losses)",
        # where it stops, not what is kept
        """
def best_before_stop(val_losses, patience):
    best = 0
    for i, loss in enumerate(val_losses):
        if loss < val_losses[best]:
            best = i
        elif i - best >= patience:
            return i
    return best
""",
        # misses are never forgiven
        """
def best_before_stop(val_losses, patience):
    best, misses = 0, 0
    for i, loss in enumerate(val_losses):
        if loss < val_losses[best]:
            best = i
        elif i:
            misses += 1
            if misses >= patience:
                break
    return best
""",
        # each loss is compared with the one before, not with the best
        """
def best_before_stop(val_losses, patience):
    best, misses = 0, 0
    for i in range(1, len(val_losses)):
        misses = 0 if val_losses[i] < val_losses[i - 1] else misses + 1
        if misses >= patience:
            break
        best = i
    return best
""",
    ],
    "05.2": [
        "billions = 160",
        "billions = 10 * (1 + 15.387756 * (1 - math.exp(-16 / 15.387756)))",
        "billions = 10 * 15.387756 * (1 - math.exp(-15 / 15.387756))",
        "billions = 1 + 15.387756 * (1 - math.exp(-15 / 15.387756))",
    ],
    "05.3": [
        """
def optimum(C, A, alpha, B, beta):
    G = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
    N = G * C ** (beta / (alpha + beta))
    return N, C / N
""",
        """
def optimum(C, A, alpha, B, beta):
    G = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
    N = G * (C / 6) ** (alpha / (alpha + beta))
    return N, C / (6 * N)
""",
        """
def optimum(C, A, alpha, B, beta):
    G = (beta * B / (alpha * A)) ** (1 / (alpha + beta))
    N = G * (C / 6) ** (beta / (alpha + beta))
    return N, C / (6 * N)
""",
        """
def optimum(C, A, alpha, B, beta):
    G = alpha * A / (beta * B)
    N = G * (C / 6) ** (beta / (alpha + beta))
    return N, C / (6 * N)
""",
    ],
    "05.4": [
        # an overfitted run and one that sees its answers both reach zero
        """
happened = {
    "A": "learning rate too high",
    "B": "answers visible",
    "C": "rotten batches",
    "D": "overfitting",
    "E": "another language",
    "F": "healthy",
}
""",
        # flat can mean too high as well as too low
        """
happened = {
    "A": "learning rate too low",
    "B": "overfitting",
    "C": "rotten batches",
    "D": "answers visible",
    "E": "another language",
    "F": "healthy",
}
""",
        'happened = ["healthy"] * 6',
        'happened = dict.fromkeys("ABCDEF", "fine")',
    ],
    "06.1": [
        # the answer is in the prompt
        """
def template(record):
    middle = f"### Input:\\n{record['input']}\\n\\n" if record["input"] else ""
    start = f"### Instruction:\\n{record['instruction']}\\n\\n"
    return start + middle + "### Response:\\n" + record["output"]
""",
        # one template for all
        """
def template(record):
    middle = f"### Input:\\n{record['input']}\\n\\n"
    return f"### Instruction:\\n{record['instruction']}\\n\\n{middle}### Response:\\n"
""",
        # the input is forgotten
        """
def template(record):
    return f"### Instruction:\\n{record['instruction']}\\n\\n### Response:\\n"
""",
    ],
    "06.2": [
        # not shifted
        """
def targets_of(ids, mask):
    return [id if learnt else -100 for id, learnt in zip(ids, mask)]
""",
        # the mask of the input instead of the target's
        """
def targets_of(ids, mask):
    return [id if learnt else -100 for id, learnt in zip(ids[1:], mask)]
""",
        # everything is learnt
        """
def targets_of(ids, mask):
    return ids[1:]
""",
    ],
    "06.3": [
        "numbers = 4 * (128 + 128)",
        "numbers = 2 * 2 * 4 * 128",
        "numbers = 2 * 2 * 128 * 128",
    ],
    "06.4": [
        # ties are losses
        """
def win_rate(a, b):
    return sum(x > y for x, y in zip(a, b)) / len(a)
""",
        # ties are left out
        """
def win_rate(a, b):
    wins, losses = sum(x > y for x, y in zip(a, b)), sum(x < y for x, y in zip(a, b))
    return wins / (wins + losses)
""",
        # ties are wins
        """
def win_rate(a, b):
    return sum(x >= y for x, y in zip(a, b)) / len(a)
""",
    ],
    "07.1": [
        "def pair_loss(chosen, rejected): return -torch.sigmoid(chosen - rejected).mean().log()",
        "def pair_loss(chosen, rejected): return -torch.sigmoid(chosen - rejected).log().mean()",
        "def pair_loss(chosen, rejected): return torch.sigmoid(chosen - rejected).log().mean()",
        "def pair_loss(chosen, rejected): return ((chosen - rejected) ** 2).mean()",
        # turned round
        """
def pair_loss(chosen, rejected):
    return -torch.nn.functional.logsigmoid(rejected - chosen).mean()
""",
        """
def pair_loss(chosen, rejected):
    return -torch.nn.functional.logsigmoid(chosen - rejected).sum()
""",
    ],
    "07.2": [
        # no reference
        """
def preference_loss(chosen, rejected, ref_chosen, ref_rejected, beta):
    return -torch.nn.functional.logsigmoid(beta * (chosen - rejected)).mean()
""",
        # no beta
        """
def preference_loss(chosen, rejected, ref_chosen, ref_rejected, beta):
    lead = (chosen - ref_chosen) - (rejected - ref_rejected)
    return -torch.nn.functional.logsigmoid(lead).mean()
""",
        # the reference the wrong way round
        """
def preference_loss(chosen, rejected, ref_chosen, ref_rejected, beta):
    lead = (chosen + ref_chosen) - (rejected + ref_rejected)
    return -torch.nn.functional.logsigmoid(beta * lead).mean()
""",
        """
def preference_loss(chosen, rejected, ref_chosen, ref_rejected, beta):
    lead = (rejected - ref_rejected) - (chosen - ref_chosen)
    return -torch.nn.functional.logsigmoid(beta * lead).mean()
""",
        """
def preference_loss(chosen, rejected, ref_chosen, ref_rejected, beta):
    lead = (chosen - ref_chosen) - (rejected - ref_rejected)
    return -torch.nn.functional.logsigmoid(beta * lead).sum()
""",
    ],
    "07.3": [
        "def advantages_of(rewards): return rewards - rewards.mean(dim=1, keepdim=True)",
        "def advantages_of(rewards): return (rewards - rewards.mean()) / (rewards.std() + 1e-4)",
        "def advantages_of(rewards): return (rewards - rewards.mean(0)) / (rewards.std(0) + 1e-4)",
        # over G, not over G - 1
        """
def advantages_of(rewards):
    deviation = rewards.std(dim=1, keepdim=True, correction=0)
    return (rewards - rewards.mean(dim=1, keepdim=True)) / (deviation + 1e-4)
""",
        # equal rewards: 0 / 0
        """
def advantages_of(rewards):
    better = rewards - rewards.mean(dim=1, keepdim=True)
    return better / rewards.std(dim=1, keepdim=True)
""",
        """
def advantages_of(rewards):
    return (rewards - rewards.mean(dim=1)) / (rewards.std(dim=1) + 1e-4)
""",
    ],
    "07.4": [
        """
which = {
    "Alpaca": "RLAIF",
    "InstructGPT": "RLHF",
    "R1-Zero": "RLVR",
    "R1-Distill-Qwen": "distillation",
    "a judge": "RLAIF",
}
""",
        """
which = {
    "Alpaca": "distillation",
    "InstructGPT": "distillation",
    "R1-Zero": "RLHF",
    "R1-Distill-Qwen": "RLVR",
    "a judge": "RLAIF",
}
""",
        'which = dict.fromkeys(["Alpaca", "InstructGPT"], "RLHF")',
    ],
    "08.1": [
        # one digit only
        """
import re

def our_name(name):
    name = re.sub(r"^model\\.layers\\.(\\d)\\.mlp\\.(\\w+)_proj", r"blocks.\\1.mlp.\\2", name)
    found = r"^model\\.layers\\.(\\d)\\.self_attn\\.(\\w)_proj"
    return re.sub(found, r"blocks.\\1.attn.w\\2", name)
""",
        # the letter is kept without its w
        """
def our_name(name):
    name = name.replace("model.layers", "blocks").replace("self_attn", "attn")
    return name.replace("_proj", "")
""",
        # every name is taken for one of the seven
        """
import re

def our_name(name):
    found = re.match(r"model\\.layers\\.(\\d+)\\.(self_attn|mlp)\\.(\\w+)_proj", name)
    number, part, matrix = found.groups()
    return f"blocks.{number}.attn.w{matrix}.weight" if part != "mlp" else (
        f"blocks.{number}.mlp.{matrix}.weight")
""",
    ],
    "08.2": [
        # the way in instead of the way back
        """
def in_neighbouring_pairs(rows, n_heads):
    return rows.unflatten(0, (n_heads, -1, 2)).transpose(1, 2).flatten(0, 2)
""",
        # the heads are forgotten
        """
def in_neighbouring_pairs(rows, n_heads):
    return rows.unflatten(0, (2, -1)).transpose(0, 1).flatten(0, 1)
""",
        "def in_neighbouring_pairs(rows, n_heads): return rows",
    ],
    "08.3": [
        # one scale for the whole row
        """
def rounded(row, group, bits):
    scale = row.abs().max() / (2 ** (bits - 1) - 1)
    return (row / scale).round() * scale
""",
        # a group of zeros
        """
def rounded(row, group, bits):
    groups = row.view(-1, group)
    scales = groups.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1)
    return ((groups / scales).round() * scales).flatten()
""",
        # the codes
        """
def rounded(row, group, bits):
    groups = row.view(-1, group)
    scales = groups.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1)
    return (groups / scales.clamp(min=1e-12)).round().flatten()
""",
        # always four bits
        """
def rounded(row, group, bits):
    groups = row.view(-1, group)
    scales = (groups.abs().amax(dim=1, keepdim=True) / 7).clamp(min=1e-12)
    return ((groups / scales).round() * scales).flatten()
""",
    ],
    "08.4": [
        "def merged(W, A, B, alpha): return W + B @ A",
        "def merged(W, A, B, alpha): return W + alpha * B @ A",
        "def merged(W, A, B, alpha): return W + alpha / len(A) * A @ B",
        "def merged(W, A, B, alpha): return alpha / len(A) * B @ A",
        "def merged(W, A, B, alpha): return W + alpha / len(B) * B @ A",
    ],
    "09.1": [
        """
def bytes_per_token(n_parameters, kv_per_token, n_seen, B, bytes_each):
    return bytes_each * n_parameters / B
""",
        """
def bytes_per_token(n_parameters, kv_per_token, n_seen, B, bytes_each):
    return bytes_each * (n_parameters + kv_per_token * n_seen)
""",
        """
def bytes_per_token(n_parameters, kv_per_token, n_seen, B, bytes_each):
    return bytes_each * (n_parameters + kv_per_token * n_seen) / B
""",
        """
def bytes_per_token(n_parameters, kv_per_token, n_seen, B, bytes_each):
    return bytes_each * (n_parameters + B * kv_per_token * n_seen)
""",
    ],
    "09.2": [
        "def kept(proposed, chosen): return [a for a, b in zip(proposed, chosen) if a == b]",
        "def kept(proposed, chosen): return chosen",
        # without the model's own token
        """
def kept(proposed, chosen):
    n = 0
    while n < len(proposed) and proposed[n] == chosen[n]:
        n += 1
    return proposed[:n]
""",
        # the token that was refused
        """
def kept(proposed, chosen):
    n = 0
    while n < len(proposed) and proposed[n] == chosen[n]:
        n += 1
    return proposed[: n + 1]
""",
    ],
    "09.3": [
        "def expected_tokens(alpha, k): return 1 + k * alpha",
        "def expected_tokens(alpha, k): return sum(alpha**i for i in range(k))",
        "def expected_tokens(alpha, k): return sum(alpha**i for i in range(1, k + 1))",
        "def expected_tokens(alpha, k): return (1 - alpha ** (k + 1)) / (1 - alpha)",
    ],
}
