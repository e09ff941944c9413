"""Custom components: the package that Home Assistant's loader looks into."""
