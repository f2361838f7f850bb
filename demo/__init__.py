"""Developer-side material behind the demo: corpora and the small model trained on them."""
