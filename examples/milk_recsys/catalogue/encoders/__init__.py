"""Encoders that turn texts and categories into feature rows, and are saved for new items."""
