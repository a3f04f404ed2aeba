"""What options choose from. The library's own tuples take seconds to import; a test compares them."""

BOTH = ("unknown", "both")
MERGE_RULES = ("first", "agree", "consistent", "any", "all")
DRAWS = ("cube", "coin")
TOLERANCES = ("prevalence", "relative", "absolute")
UNKNOWNS = ("masked", "unmasked")
MODALITIES = ("image", "text")
DTYPES = ("float32", "float16")
FORMS = ("raw", "unit")
EMPTY = ("farthest", "keep")
MEASURES = ("size", "captions", "language", "duplicates", "near")
SHARD_FORMS = ("array_record", "tar")
CHECKS = ("decode", "header", "none")
