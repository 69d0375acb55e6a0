"""Gradient checks: compare backward with finite differences, and say what a wrong gradient looks like."""

from .check import gradcheck
from .report import Report

__all__ = ["Report", "gradcheck"]
