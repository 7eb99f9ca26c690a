"""The HTTP side of the service: routes, request decoding, authentication, backpressure, idempotency.

Free of Ray. May import groups and types.
"""
