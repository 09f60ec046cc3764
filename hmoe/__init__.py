"""hmoe: an instrument for hierarchical mixtures of experts."""

__version__ = "0.1.0"
