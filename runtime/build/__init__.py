"""Building an index: documents are read, encoded, and written as the files of a segment.

Begin with indexing.py: ``build_index`` is the whole way from documents to an index directory.

- Input: corpus.py reads documents from BEIR JSON lines and TSV, lines.py reads numbered lines of any text file,
  passages.py splits long documents.
- Encoding: indexing.py encodes documents; checkpointing.py keeps the vectors on disk while a long job runs, and
  checkpoint_journal.py keeps those of the shard that is being encoded.
- Writers: index_writer.py writes an index of one segment, segment_writer.py a segment (postings, documents, fields),
  postings_writer.py the postings of a segment, in bounded memory.
- Kernels: inversion.py turns vectors into posting lists. reordering.py computes an order that puts similar units next
  to each other; its kernels are in clustering.py.
- Directories: staging.py makes a directory appear in one step, foreign_files.py refuses to replace somebody else's
  files, bundled.py finds the pair that a wheel carries. limits.py has the limits that writers share.

A *unit* is what has one vector: a document, or in an index of passages a passage. Units are numbered from 0 in the
order in which they were added. The *docid* of a unit is its position in the posting lists of its segment: the same
number, unless the segment is reordered.

update/ builds on this room; this room imports nothing from update/.
"""
