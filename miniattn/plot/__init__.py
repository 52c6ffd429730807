"""Figures of attention: matplotlib, and one self-contained HTML page."""
