"""Layer 1: words. Tokenizer, vocabularies, prompt templates; depends on nothing of ours."""
