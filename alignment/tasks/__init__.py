"""Tasks whose answers can be checked, to measure judges and policies with."""
