"""The loop, closed on the embedded task: make the judge, choose by it, tune the policy on what it chose, measure."""
