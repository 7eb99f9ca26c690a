"""`flex-judge judge`: judge the comparisons of a file."""
