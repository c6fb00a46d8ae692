"""The plain vocabulary that every other part speaks."""
