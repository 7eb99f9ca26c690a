"""The judge service on Ray Serve: application, cluster, replicas, routing, process cleanup.

May import client, server, groups and types; Ray is imported inside functions.
"""

CLUSTER_VARIABLE = "FLEX_JUDGE_CLUSTER"
"""Environment variable that marks every process of a local Ray."""
