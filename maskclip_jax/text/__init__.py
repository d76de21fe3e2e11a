"""Layer 1: words: tokenizer, vocabularies, templates. Depends on nothing of ours."""
