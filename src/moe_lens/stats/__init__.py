"""Routing statistics: sums over tokens that can be merged, read, saved and restored.

One module each, and no names here, so that `concentration` can be imported without torch:

    accumulator     what every statistic is
    usage           how many tokens chose each expert, at each rank
    weight_mass     how much weight each expert and rank carries
    coactivation    which experts a token uses together
    transitions     which expert follows which at the next MoE layer
    documents       usage per document, for intervals
    vocabulary      which vocabulary ids an expert gets
    concentration   n50, entropy, Gini and shares of a row of counts
"""
