"""Pure functions that score a prediction against a reference."""
