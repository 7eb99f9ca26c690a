"""What the adapters to trainers share."""
