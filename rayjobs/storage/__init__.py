"""Files here and at an address: written whole, mirrored to object storage."""
