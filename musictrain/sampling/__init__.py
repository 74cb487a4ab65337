"""What a model plays while it is trained: which pieces, when, in how much of the time; and what they are worth beside the corpus."""
