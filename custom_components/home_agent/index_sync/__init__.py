"""Keep the index of an embedding subentry equal to the exposed entities."""
