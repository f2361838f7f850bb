"""One module per kind of source: each turns fetched packages into documents."""
