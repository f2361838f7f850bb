"""How far 16 bits move the cosines that are reported.

`python -m benchmarks.numerics [--tokens N] [--threads N] [--hidden N --experts N --width N]`

One DeepSeekMoE layer of real shape with random weights that bfloat16 holds exactly, on the same
tokens. Two comparisons:

- `sums`: cosines from our Gram of the bfloat16 layer's states, against float64 sums over the very
  same states: every pair of [resid_mid, shared, E_1 .. E_k], and every cosine that the similarity
  table reports; the worst of the worst token. What our accumulation adds.
- `layer`: the reported cosines, means over the tokens as in the table, of the bfloat16 layer
  against the same layer in float32 with its routing fixed to what the bfloat16 layer chose: same
  weights, same embedding, attention and experts with every intermediate rounded or not.

Beside them, not held to the limit since no table reports them and the model's own rounding sets
them: the worst single token, and the pairs of states.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import save
from benchmarks.models import build, deepseek_layer, shapes_of, token_batch
from moe_lens.corpus import TokenBatch
from moe_lens.engine.proof import prove
from moe_lens.engine.recorder import Recorder
from moe_lens.engine.session import Session
from moe_lens.event import Field, LayerEvent
from moe_lens.models.model import LayerFacts, MoEModel, ObservedLayer
from moe_lens.models.structure import find_moe_layers
from moe_lens.policies import Policy, RouterContext
from moe_lens.routing import Routing

ALLOWED = 1e-5
FIELDS = frozenset({Field.GRAM, Field.OUTPUTS, Field.SHARED, Field.RESID_MID})


@dataclass(frozen=True, eq=False)
class Fixed(Policy):
    """The routing of an earlier run of the same batch, layer by layer."""

    routings: dict[int, Routing]

    def apply(self, routing: Routing, context: RouterContext) -> Routing:
        """What that run used."""
        return self.routings[context.layer]

    def describe(self) -> dict[str, Any]:
        """For a manifest."""
        return {"policy": "fixed"}


def recorded(model: MoEModel, batch: TokenBatch, policy: Policy | None = None) -> LayerEvent:
    """The only layer's event."""
    recorder = Recorder(FIELDS)
    with Session(model, sink=recorder.update, fields=FIELDS, policy=policy) as session:
        session.run(batch)
    return recorder.events[0]


def widened(model: MoEModel) -> MoEModel:
    """The same weights in float32."""
    hf = copy.deepcopy(model.hf).float()
    layers = tuple(ObservedLayer(layer, LayerFacts()) for layer in find_moe_layers(hf))
    return prove(MoEModel(hf=hf, tokenizer=None, layers=layers, source=model.source))


def cosines(gram: Tensor) -> Tensor:
    """Of every pair of states."""
    wide = gram.double()
    norms = wide.diagonal(dim1=1, dim2=2).sqrt()
    return wide / (norms.unsqueeze(1) * norms.unsqueeze(2))


def reported(gram: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """The cosines that the similarity table takes means of, for each token.

    H_j = resid_mid + M_j with M_j the sum of the first j contributions, c_j the j-th alone.
    """
    tokens, states = gram.shape[:2]
    top_k = weights.shape[1]
    r = torch.zeros(tokens, states, dtype=torch.float64)
    r[:, 0] = 1
    c = torch.diag_embed(weights.double(), dim1=1, dim2=2)
    c = torch.cat([c.new_zeros(tokens, top_k, 2), c], dim=2)
    M = c.cumsum(1)
    H_k = r + M[:, -1]
    pairs = {"cos(H_1, H_k)": (r + c[:, 0], H_k), "cos(r, H_k)": (r, H_k)}
    pairs |= {f"cos(r + c_{j + 1}, H_k)": (r + c[:, j], H_k) for j in range(1, top_k)}
    pairs["cos(M_1, M_k)"] = (M[:, 0], M[:, -1])
    G = gram.double()

    def inner(x: Tensor, y: Tensor) -> Tensor:
        return torch.einsum("ti,tij,tj->t", x, G, y)

    return {
        name: inner(a, b) / (inner(a, a) * inner(b, b)).sqrt() for name, (a, b) in pairs.items()
    }


def exact_gram(event: LayerEvent) -> Tensor:
    """Float64 sums over the states that the event carries beside its Gram."""
    assert event.resid_mid is not None
    assert event.shared is not None
    assert event.outputs is not None
    first = torch.stack([event.resid_mid, event.shared], dim=1)
    V = torch.cat([first.double(), event.outputs.double()], dim=1)
    return V @ V.mT


def differences(model: MoEModel, batch: TokenBatch) -> dict[str, float]:
    """Largest |delta cos| of each comparison."""
    narrow = recorded(model, batch)
    routing = Fixed({narrow.layer: narrow.routing})
    wide = recorded(widened(model), batch, routing)
    assert torch.equal(wide.routing.experts, narrow.routing.experts)
    assert narrow.gram is not None
    assert wide.gram is not None
    weights, exact = narrow.routing.weights, exact_gram(narrow)
    ours = reported(narrow.gram, weights)
    right, in_float32 = reported(exact, weights), reported(wide.gram, weights)
    sums = [cosines(narrow.gram) - cosines(exact), *(ours[n] - right[n] for n in ours)]
    layer = {name: ours[name] - in_float32[name] for name in ours}
    pairs = cosines(narrow.gram) - cosines(wide.gram)
    return {
        "sums": max(_largest(part) for part in sums),
        "layer": max(_largest(part.mean()) for part in layer.values()),
        **{f"layer, {name}": _largest(part.mean()) for name, part in layer.items()},
        **{f"worst token, {name}": _largest(part) for name, part in layer.items()},
        "pairs of states": _largest(pairs.mean(0)),
        "worst token, pairs of states": _largest(pairs),
    }


def _largest(part: Tensor) -> float:
    return float(part.abs().max())


def main() -> None:
    """Compare, print, write results/numerics.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--experts", type=int, default=64)
    parser.add_argument("--width", type=int, default=1408, help="of an expert")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config = deepseek_layer(arguments.hidden, experts=arguments.experts, width=arguments.width)
    model = build(config, torch.bfloat16, num_layers=1)
    batch = token_batch(model, num_tokens=arguments.tokens, length=min(512, arguments.tokens))
    found = differences(model, batch)
    for name, value in found.items():
        print(f"  {name:32s} {value:.2e}")
    worst = max(found["sums"], found["layer"])
    result = {
        "ratio": worst / ALLOWED,
        "baseline": f"{ALLOWED:.0e}, the largest allowed |delta cos| of sums and of layer",
        "unit": "largest |delta cos| / baseline; bfloat16 against float64 sums, and float32 layer",
        "shapes": shapes_of(model, batch),
        "delta_cos": found,
    }
    print(f"ratio {result['ratio']:.3f}; written to {save('numerics', result)}")


if __name__ == "__main__":
    main()
