"""Families of guides over every posterior of posteriordb."""
