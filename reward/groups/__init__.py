"""Completions of one prompt, judged together. Free of Ray and of any web framework."""
