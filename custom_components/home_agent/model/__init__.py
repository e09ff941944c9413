"""One model, whoever uses it: its role, its requests, its history."""
