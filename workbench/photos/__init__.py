"""Photos: decoding, preprocessing, and data sets of them."""
