"""A model on a server: the roles that use it, their requests, figures and history."""
