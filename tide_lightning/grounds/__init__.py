"""Grounds: worlds in which features can be checked, for what an image shows is known there."""
