"""Pathfinder over every posterior of posteriordb, and on targets whose modes have known masses."""
