"""A small world of coloured, patterned shapes on textured grounds, drawn on demand.

Small enough that CLIP and all that follows can be trained on it from nothing, without a
download; large enough to be open-vocabulary: 108 things are named by three words each,
and a third of them is left out of the base words. Everything is a function of a seed,
the name of a split and a number.
"""
