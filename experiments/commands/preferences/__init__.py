"""`flex-judge preferences`: a preference data set from prompts."""
