"""`flex-judge report`: the HTML page of a run."""
