"""Profiles as other tools read them, and other tools' measurements as profiles read them."""
