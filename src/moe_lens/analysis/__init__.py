"""From tables to tables: tests, intervals and claims. No torch, no files.

One module for each table of `docs/tables.md`, and beneath them:

    intervals        rates and means with intervals that resample documents
    multiplicity     q-values for many tests
    counts           usage of documents as matrices
    specialization   is an expert specialised, or is it chance?
    concentration    how few experts do the work
    information      what experts tell about the domain
    overlap          how much two domains use the same experts
    coactivation     pairs of experts that go together, or avoid each other
    perplexity       the loss with fewer active experts
    judging          how a claim is judged and said
    claims           the paper's claims, on this model
    compare          two runs side by side
"""
