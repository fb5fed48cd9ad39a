"""Raw data: lists and tables become an index, decoders turn its entries into samples."""
