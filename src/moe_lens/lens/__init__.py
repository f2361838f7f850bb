"""Read states of the residual stream as tokens: the extended logit lens.

One module each:

    unembed     the final norm and the output head, proven on a probe
    products    float32 products by the faster of two libraries
    groups      layers that are decoded together
    decode      states to tokens, log-probabilities, ranks and KL, in chunks of the vocabulary
    states      which states a layer has: residual alone, with one expert, with the top j
    sampling    which positions of a corpus are read, the same however it is batched
    waiting     states of a batch's sampled tokens until they are decoded, in memory or in files
    reading     what the lens says of each of them, and its sums for each document
    corpus      the lens over a corpus, with sums per document
    grid        the lens on one prompt, every cell
"""
