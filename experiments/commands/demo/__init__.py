"""`flex-judge demo`: the whole loop on the embedded model."""
