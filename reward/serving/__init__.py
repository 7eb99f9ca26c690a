"""The judge service on Ray Serve: application, cluster, replicas, routing, process cleanup.

May import client, server, groups and types; Ray is imported inside functions.
"""

CLUSTER_VARIABLE = "FLEX_JUDGE_CLUSTER"
"""Environment variable that marks every process of a local Ray."""
PROXY_BODY_VARIABLE = "FLEX_JUDGE_MAX_BODY_MIB"
"""Environment variable with the maximum size of a request in MiB, for the HTTP proxies of a cluster."""
PROXY_CALLBACK_VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
"""Environment variable of Ray Serve with the function that each HTTP proxy calls before it starts."""
PROXY_CALLBACK = "flex_judge.reward.serving.proxy_limits.install_limits"
"""Its value for a service."""
