"""One model: the role that uses it, its requests, its figures, its history."""
