"""The full alignment loop on the embedded task: train a judge, make preference pairs, tune the policy and evaluate."""
