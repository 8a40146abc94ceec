"""A run on disk: its folder, saved states, record, metrics and plots."""
