"""HTTP side of the judge service: routes, request decoding, authentication, backpressure, idempotency.

Free of Ray. May import groups and types.
"""
