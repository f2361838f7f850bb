"""The model card: what the demo model is, how it was made, what it measures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from demo.model.data import SHARES
from demo.tokenizer import CONTEXT

_HEAD = """\
# The demo model of MoE Lens

A small DeepSeekMoE language model, trained from scratch on seven kinds of text so that an
instrument for MoE models has something real to look at. Its experts specialised by
themselves; its prose is not worth reading.

**It is** a model for demonstrations, tutorials and tests of meaning. It takes the very code
path of deepseek-moe-16b-base: same `model_type`, same checkpoint keys.
**It is not** a useful text generator, a source of facts, or evidence about large models:
what holds here is shown at {million:.1f} million parameters and {tokens:.1f} million tokens.

## Shape

First layer dense, then four MoE layers of 64 routed experts (top 6, softmax, no
renormalisation) and 2 shared ones; d_model 160, 5 heads, experts of width 64, {context} tokens of
context, byte-level BPE of 8,192 entries with single digits. {parameters:,} parameters,
{megabytes:.1f} MB in bfloat16.

## Training

`{command}`

{steps:,} steps, {tokens:.1f} million tokens, {hours:.2f} hours of training time (device: {device},
processes: {workers}, matrix products in {precision}, torch {torch}, transformers {transformers}).
Each step holds 16 rows of {context} tokens: {shares}.
Muon for matrices, AdamW for the rest; the learning rate falls to zero from step {decay_start:,}
on. Expert-level balance loss of the DeepSeekMoE paper over each half of a step (alpha 0.01).
Documents in a row do not see each other. Curves, data hashes and versions are in `training.json`;
`routing_snapshots.safetensors` keeps the expert ids of a fixed sample of held-out text over
training.

Sources and licences of the text: `../NOTICE.md`. No excerpt was trained on.

"""


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def _quality(result: Mapping[str, Any]) -> str:
    columns = ["model", "1-gram", "5-gram", "gzip -9", "xz -9"]
    table = result["bits_per_byte"]
    rows = [
        [domain, *(f"{table[domain][c]:.3f}" for c in columns), f"{ppl:.1f}"]
        for domain, ppl in result["perplexity"].items()
    ]
    behind = {
        rival: [d for d in table if table[d]["model"] >= table[d][rival]]
        for rival in ("xz -9", "5-gram")
    }
    verdicts = [
        f"The model beats `{rival}` on every domain."
        if not domains
        else f"The model does **not** beat `{rival}` on: {', '.join(domains)}."
        for rival, domains in behind.items()
    ]
    return (
        "## Held-out quality\n\nBits per byte on the shipped excerpts (about 125 KB a domain), "
        "windows of 512 tokens\nthat overlap by half; perplexity per token. The n-grams "
        "(Witten-Bell) saw all of the\ndomain's training text, the compressors only the "
        "excerpts.\n\n"
        + _table(["domain", *columns, "perplexity"], rows)
        + "\n"
        + " ".join(verdicts)
        + "\n"
    )


def _specialisation(result: Mapping[str, Any]) -> str:
    values = result["specialisation"]
    per_layer = zip(
        values["mutual_information_bits"],
        values["shuffled_bits"],
        values["max_load_over_mean"],
        strict=True,
    )
    rows = [
        [layer, f"{bits:.3f}", f"{control:.3f}", f"{load:.2f}"]
        for layer, (bits, control, load) in enumerate(per_layer, start=1)
    ]
    n50 = ", ".join(f"{domain} {value:.1f}" for domain, value in result["n50"].items())
    return (
        "## Specialisation\n\nMutual information of domain and chosen expert, beside the same with "
        "documents' domains\nshuffled; busiest expert's load over the mean.\n\n"
        + _table(["layer", "bits", "shuffled", "max load / mean"], rows)
        + f"\nn50, experts that take half of a domain's decisions (uniform: 32): {n50}.\n"
    )


def _fewer_experts(result: Mapping[str, Any]) -> str:
    domains = list(result["perplexity"])
    rows = [
        [
            k,
            *(f"{r[d]['value']:.4f} [{r[d]['low']:.4f}, {r[d]['high']:.4f}]" for d in domains),
        ]
        for k, r in result["perplexity_ratio"].items()
    ]
    return (
        "## Fewer active experts\n\nPerplexity with k experts over that with 6, weights as they "
        "are; 95 % intervals from\nresampling documents.\n\n" + _table(["k", *domains], rows)
    )


def steps(result: Mapping[str, Any]) -> str:
    """Where one expert less costs perplexity, does not tell, or gains; each step by itself."""
    found: dict[str, list[str]] = {"rises": [], "tells nothing": [], "falls": []}
    for k, by_domain in result["perplexity_step"].items():
        for domain, step in by_domain.items():
            where = f"{domain} at {int(k) + 1} to {k}"
            if step["low"] > 1:
                found["rises"].append(where)
            else:
                found["falls" if step["high"] < 1 else "tells nothing"].append(where)
    count = sum(map(len, found.values()))
    text = (
        f"\nOf {count} steps of one expert less ({count // len(result['perplexity'])} in each of "
        f"{len(result['perplexity'])} domains), perplexity rises beyond\nthe step's own 95 % "
        f"interval in {len(found['rises'])}."
    )
    if found["tells nothing"]:
        text += f" The interval holds no change in: {', '.join(found['tells nothing'])}."
    if found["falls"]:
        text += f" It **falls** in: {', '.join(found['falls'])}."
    return text + "\n"


_UNSEEN = {
    "word-problems": "gsm: five templates, no sentence of which was trained on",
    "competition": "aime: six families, no sentence of which was trained on but for reductions "
    "mod 1000",
}


def unseen(result: Mapping[str, Any]) -> str:
    """The families of problems that training had nothing of, which do not ship."""
    rows = []
    fall = True
    for source, found in result["unseen_families"].items():
        ratios = {int(k): r for k, r in found["perplexity_ratio"].items()}
        fall = fall and ratios[1]["high"] < 1
        rows.append(
            [
                _UNSEEN[source],
                found["num_documents"],
                f"{found['bits_per_byte']:.3f}",
                *(
                    f"{r['value']:.3f} [{r['low']:.3f}, {r['high']:.3f}]"
                    for r in (ratios[3], ratios[2], ratios[1])
                ),
            ]
        )
    text = (
        "\n### Beyond what was trained on\n\n"
        "Excerpts are new documents of the sources that were trained on: new files, chapters,\n"
        "articles, and for gsm and aime, which this project generates, new orders of events,\n"
        "conditions or functions, each of a kind that was trained on. Families of problems of\n"
        "which training had nothing do not ship; ratios of perplexity as above:\n\n"
        + _table(["family", "documents", "bits per byte", "k = 3", "k = 2", "k = 1"], rows)
    )
    if fall:
        text += (
            "\nThere perplexity **falls** with fewer experts: what the routed experts have learnt "
            "of other\nfamilies misleads.\n"
        )
    return text


def _verdicts(counts: Mapping[str, Mapping[str, int]]) -> str:
    """How many experts are above and below k / N after false-discovery correction."""
    verdicts = ("above", "below", "not told")
    rows = [[domain, *(str(found.get(v, 0)) for v in verdicts)] for domain, found in counts.items()]
    return (
        "\nExperts of the four layers (256) whose rate in a domain is above or below k / N, after "
        "false-discovery\ncorrection over the whole table, documents as units (`moe-lens run demo "
        "--corpus demo\n--measure routing`):\n\n" + _table(["domain", *verdicts], rows)
    )


def card(
    result: Mapping[str, Any],
    training: Mapping[str, Any],
    verdicts: Mapping[str, Mapping[str, int]] | None = None,
) -> str:
    """The whole card as Markdown; `verdicts` counts experts per domain, from a study."""
    progress = training["progress"]
    step_tokens = sum(SHARES.values()) * CONTEXT
    head = _HEAD.format(
        million=result["parameters"] / 1e6,
        parameters=result["parameters"],
        megabytes=result["model_bytes"] / 1e6,
        context=CONTEXT,
        command=training["command"],
        steps=progress["step"],
        tokens=progress["step"] * step_tokens / 1e6,
        hours=progress["seconds"] / 3600,
        decay_start=progress["decay_start"],
        workers=training["workers"],
        device=training["device"],
        precision=training["precision"],
        torch=training["versions"]["torch"],
        transformers=training["versions"]["transformers"],
        shares=", ".join(f"{d} {n}" for d, n in training["rows_per_step"].items()),
    )
    special = _specialisation(result) + ("" if verdicts is None else _verdicts(verdicts))
    fewer = _fewer_experts(result) + steps(result) + unseen(result)
    return "\n".join([head + _quality(result), special, fewer])
