"""What runs in the actors of Ray Serve, and between them."""
