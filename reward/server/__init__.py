"""The HTTP side of the service: what is taken on, in what form, and from whom. Free of Ray."""
