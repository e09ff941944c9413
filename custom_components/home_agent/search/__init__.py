"""The search over the exposed entities: two rankings, filters, fusion."""
