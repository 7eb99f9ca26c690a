"""`flex-judge curate`: training data for a judge from a teacher's judgments."""
