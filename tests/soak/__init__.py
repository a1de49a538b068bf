"""Migrations that are disturbed at random moments, one after the other."""
