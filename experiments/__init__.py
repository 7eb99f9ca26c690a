"""What is run and reported: the command line, the demo, reports."""
