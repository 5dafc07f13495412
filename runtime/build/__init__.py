"""Building an index: the corpus, its vectors, the postings and their files."""
