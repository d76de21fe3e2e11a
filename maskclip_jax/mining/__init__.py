"""Mining pairs of a masked region and a noun from photos with captions [ovseg 5.8].

Captions give nouns, any of our models gives masks, CLIP says which mask a noun means.
"""
